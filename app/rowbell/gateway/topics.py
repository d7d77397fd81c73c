"""Topics: subscribers to `/topic/NAME` are sent the rows of the recipient `topic:NAME`.

Patterns of names say who may subscribe. A name consists of segments separated by dots. In a pattern `*` matches any
part of one segment, and `#` as the last segment matches any number of remaining segments, including none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

DESTINATION = "/topic/"
RECIPIENT = "topic:"

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/*#:]{1,249}")
"""What the CHECK of `notification.recipient_id` allows after `topic:`, within 255 characters in total."""


def topic_of(destination: str) -> str | None:
    """Return NAME from `/topic/NAME`; None for any other destination, and for a name that no recipient can have."""
    name = destination.removeprefix(DESTINATION)
    return name if name != destination and _NAME.fullmatch(name) else None


def recipient_of(topic: str) -> str:
    """Return the recipient of a topic's rows."""
    return RECIPIENT + topic


def patterns(setting: str | None) -> tuple[str, ...]:
    """Return the patterns in ROWBELL_PUBLIC_TOPICS; none if it is not set."""
    return tuple(setting.split(",")) if setting else ()


def allow(patterns: Iterable[str], topic: str) -> bool:
    """Whether one of the patterns matches this topic."""
    return any(_matches(pattern.split("."), topic.split(".")) for pattern in patterns)


def _matches(wanted: list[str], segments: list[str]) -> bool:
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        segments = segments[: len(wanted)]
    return len(wanted) == len(segments) and all(map(_segment_matches, wanted, segments))


def _segment_matches(wanted: str, segment: str) -> bool:
    """Whether the segment matches. Taking the first place of each part is enough, so there is no backtracking, however
    many stars there are.
    """
    first, *others = wanted.split("*")
    if not others:
        return first == segment
    if not segment.startswith(first):
        return False
    *between, last = others
    place = len(first)
    for part in between:
        place = segment.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return len(segment) - len(last) >= place and segment.endswith(last)

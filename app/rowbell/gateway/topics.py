"""Topics: what everybody who subscribes to `/topic/NAME` is sent are the rows of the recipient `topic:NAME`.

Who may subscribe is said by patterns of names. A name's segments stand between dots; in a pattern `*` is any part of
one segment, and `#`, as the last one, any segments that follow, or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

DESTINATION = "/topic/"
RECIPIENT = "topic:"

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/*#:]{1,249}")
"""What the CHECK of `notification.recipient_id` allows after `topic:`, in 255 characters altogether."""


def topic_of(destination: str) -> str | None:
    """The NAME of `/topic/NAME`; None if it is another destination, or no row can have this recipient."""
    name = destination.removeprefix(DESTINATION)
    return name if name != destination and _NAME.fullmatch(name) else None


def recipient_of(topic: str) -> str:
    return RECIPIENT + topic


def patterns(setting: str | None) -> tuple[str, ...]:
    """Those in ROWBELL_PUBLIC_TOPICS."""
    return tuple(setting.split(",")) if setting else ()


def allow(patterns: Iterable[str], topic: str) -> bool:
    """Does one of the patterns stand for this topic?"""
    return any(_matches(pattern.split("."), topic.split(".")) for pattern in patterns)


def _matches(wanted: list[str], segments: list[str]) -> bool:
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        segments = segments[: len(wanted)]
    return len(wanted) == len(segments) and all(map(_segment_matches, wanted, segments))


def _segment_matches(wanted: str, segment: str) -> bool:
    """The first place for each part is as good as any other: without going back, however many stars there are."""
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

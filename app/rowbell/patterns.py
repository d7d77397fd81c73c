"""Patterns of topic names: what ROWBELL_PUBLIC_TOPICS and a token's claim `topics` may hold."""

from __future__ import annotations

import re

MAX_PATTERN = 255
"""Characters, as in the CHECK of `notification.recipient_id`."""

_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/:]")
"""Control characters, halves of characters, for which there is no UTF-8, and what `/topic/` and `topic:` end with."""


def pattern_complaint(pattern: str) -> str | None:
    """Why this cannot be a pattern, or why no topic can ever match it. Does not quote it."""
    if not 0 < len(pattern) <= MAX_PATTERN or _REFUSED.search(pattern):
        return f"is no pattern of topic names: 1 to {MAX_PATTERN} characters, without control characters, / and :"
    if "#" in pattern.removesuffix("#") or (pattern.endswith("#") and not f".{pattern}".endswith(".#")):
        return "has a # that is not its last segment, as in orders.#"
    return None

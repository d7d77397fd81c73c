"""Patterns of topic names, as in ROWBELL_PUBLIC_TOPICS and a token's `topics` claim."""

from __future__ import annotations

import re

MAX_PATTERN = 255
"""The most characters a pattern may have, as in the CHECK of `notification.recipient_id`."""

_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/:]")
"""Control characters, lone surrogates (not encodable in UTF-8), and the last characters of `/topic/` and `topic:`."""


def pattern_complaint(pattern: str) -> str | None:
    """Say why `pattern` is not valid, or why no topic can match it; None if it is fine. The text does not quote it."""
    if not 0 < len(pattern) <= MAX_PATTERN or _REFUSED.search(pattern):
        return f"is not a valid topic pattern: 1 to {MAX_PATTERN} characters, without control characters, / and :"
    if "#" in pattern.removesuffix("#") or (pattern.endswith("#") and not f".{pattern}".endswith(".#")):
        return "has a # that is not its last segment, as it is in orders.#"
    return None

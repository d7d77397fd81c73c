"""Which patterns of topic names can match anything."""

from __future__ import annotations

import pytest

from rowbell.gateway.topics import allow
from rowbell.patterns import MAX_PATTERN, pattern_complaint


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("news", "news"),
        ("#", "news"),
        ("news.#", "news.world.today"),
        ("*.#", "news.world"),
        ("n*s", "news"),
        ("李*", "李雷"),
        ("a" * MAX_PATTERN, "a" * MAX_PATTERN),
    ],
)
def test_a_pattern_that_is_fine_matches_some_topic(pattern: str, topic: str) -> None:
    assert pattern_complaint(pattern) is None
    assert allow([pattern], topic)


@pytest.mark.parametrize("pattern", ["a.#.b", "#.b", "a#", "a.b#", "#a", "##", "a.##", "#.#"])
def test_a_hash_is_the_last_segment_or_nothing_matches(pattern: str) -> None:
    assert pattern_complaint(pattern) == "has a # that is not its last segment, as it is in orders.#"
    assert not any(allow([pattern], topic) for topic in ("a", "b", "a.b", "a.x.b", "x.b"))


@pytest.mark.parametrize("pattern", ["", "a" * (MAX_PATTERN + 1), "a/b", "topic:a", "a\nb", "a\x85b", "a\ud800b"])
def test_what_is_in_no_name_is_in_no_pattern(pattern: str) -> None:
    assert (pattern_complaint(pattern) or "").startswith("is not a valid topic pattern: ")

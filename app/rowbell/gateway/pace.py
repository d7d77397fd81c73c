"""How fast one client may send: what is counted while it is connected, and ends it when there is too much."""

from __future__ import annotations

BURST = 2.0
"""Seconds' worth that may come at once."""


class Pace:
    """So many a second, as one time: GCRA, as in `admission.Rate`, but nothing is taken back."""

    __slots__ = ("_due", "_rate")

    def __init__(self, rate: int) -> None:
        """`rate` a second; 0: no limit."""
        self._rate = rate
        self._due = 0.0
        """Tracks when the next would come, if they came as evenly as the rate allows."""

    def is_passed(self, now: float, count: int = 1) -> bool:
        """So many more have come, at this time in seconds: are they too many?"""
        if not self._rate:
            return False
        self._due = max(self._due, now) + count / self._rate
        return self._due > now + BURST

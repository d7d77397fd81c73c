"""How fast clients may come, and how fast one may send.

Both use the generic cell rate algorithm: one time for each key, when the next would be due if they came evenly,
instead of a token bucket's two numbers.

Source: ITU-T I.371, annex A (GCRA, as a virtual scheduling algorithm)
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 2.0
"""Seconds' worth that may come at once: clients come in crowds, when a gateway or a network is back."""
ROUNDING = 1e-6
"""Seconds that are none: sums of intervals are not exact."""
EVERYBODY = b""
"""The key of what is not counted by keys."""


class RateLimiter:
    """At most `per_second` for each key, and `BURST` seconds' worth at once. What is refused is not counted."""

    def __init__(self, per_second: int, keys: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Remembers the `keys` that were used last. 0 `per_second` is no limit."""
        self._interval = 1 / per_second if per_second else 0.0
        self._tolerance = max(BURST - self._interval, 0.0)
        self._keys = keys
        self._clock = clock
        self._due: OrderedDict[bytes, float] = OrderedDict()
        """Tracks key → when its next would be due; the key that was used last is the last."""

    def __len__(self) -> int:
        return len(self._due)

    def take(self, key: bytes = EVERYBODY) -> float:
        """0 if one more may come, which is counted; else the seconds until it may."""
        if not self._interval:
            return 0.0
        now = self._clock()
        due = max(self._due.get(key, now), now)
        wait = due - now - self._tolerance
        if wait < ROUNDING:
            due, wait = due + self._interval, 0.0
        self._due[key] = due
        self._due.move_to_end(key)
        if len(self._due) > self._keys:
            self._due.popitem(last=False)
        return wait


class RateMeter:
    """Counts what one client has sent already, so nothing is taken back: is it more than `per_second`?"""

    __slots__ = ("_due", "_per_second")

    def __init__(self, per_second: int) -> None:
        """0 `per_second` is no limit."""
        self._per_second = per_second
        self._due = 0.0
        """Tracks when the next would be due."""

    def is_exceeded(self, now: float, count: int = 1) -> bool:
        """`count` more have come, at `now`, in seconds: are they too many?"""
        if not self._per_second:
            return False
        self._due = max(self._due, now) + count / self._per_second
        return self._due > now + BURST

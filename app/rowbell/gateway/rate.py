"""Rate limits: how fast clients may connect, and how fast one may send.

Both use the generic cell rate algorithm, which keeps one time per key, when the next event would be due if events came
evenly, instead of the two numbers of a token bucket.

Source: ITU-T I.371, annex A (GCRA, as a virtual scheduling algorithm)
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

BURST = 2.0
"""The size of a burst, in seconds at the full rate: clients come in crowds when a gateway or a network is back."""
ROUNDING = 1e-6
"""Seconds that count as zero, because sums of intervals are not exact."""
EVERYBODY = b""
"""The key for a limit that has no keys."""


class RateLimiter:
    """Allows `per_second` for each key, with bursts of `BURST` seconds' worth. What is refused is not counted."""

    def __init__(self, per_second: int, keys: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember the `keys` keys used most recently. `per_second` 0 means no limit."""
        self._interval = 1 / per_second if per_second else 0.0
        self._tolerance = max(BURST - self._interval, 0.0)
        self._keys = keys
        self._clock = clock
        self._due: OrderedDict[bytes, float] = OrderedDict()
        """Tracks key → when its next event would be due, with the most recently used key last."""

    def __len__(self) -> int:
        return len(self._due)

    def take(self, key: bytes = EVERYBODY) -> float:
        """Count one more and return 0 if it is allowed, otherwise return the seconds until it will be."""
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
    """Measures whether one client has sent more than `per_second`; what has been sent counts in any case."""

    __slots__ = ("_due", "_per_second")

    def __init__(self, per_second: int) -> None:
        """`per_second` 0 means no limit."""
        self._per_second = per_second
        self._due = 0.0
        """Tracks when the next event would be due."""

    def is_exceeded(self, now: float, count: int = 1) -> bool:
        """Count `count` more at the time `now`, in seconds, and return whether that is too many."""
        if not self._per_second:
            return False
        self._due = max(self._due, now) + count / self._per_second
        return self._due > now + BURST

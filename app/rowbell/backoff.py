"""Delays between retries."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(first: float = 0.1, cap: float = 5.0) -> Iterator[float]:
    """Yield delays in seconds without end: random between 0 and a bound that doubles from `first` up to `cap`.

    With full jitter, processes that lost the same server do not reconnect in step.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    bound = min(first, cap)
    while True:
        yield random.uniform(0, bound)
        bound = min(bound * 2, cap)

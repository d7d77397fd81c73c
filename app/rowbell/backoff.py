"""How long to wait before trying again."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(first: float = 0.1, cap: float = 5.0) -> Iterator[float]:
    """Endless delays in seconds: random between 0 and a bound that doubles from `first` up to `cap`.

    Full jitter: many processes that lost the same server do not come back in step.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    bound = min(first, cap)
    while True:
        yield random.uniform(0, bound)
        bound = min(bound * 2, cap)

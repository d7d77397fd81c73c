"""Waiting before the next attempt."""

from __future__ import annotations

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from rowbell.backoff import backoff

delays = st.floats(0.001, 100)


@given(first=delays, cap=delays)
def test_no_delay_is_negative_or_beyond_the_cap(first: float, cap: float) -> None:
    assert all(0 <= delay <= cap for delay in islice(backoff(first, cap), 20))


@given(first=delays)
def test_the_bound_doubles_with_each_attempt(first: float) -> None:
    for attempt, delay in enumerate(islice(backoff(first, cap=1e9), 20)):
        assert delay <= first * 2**attempt


def test_delays_grow_up_to_the_cap() -> None:
    # given 500 processes that lost the same server
    runs = [list(islice(backoff(0.1, 5.0), 12)) for _ in range(500)]

    # then on average they wait half the bound: 0.05 s first, 2.5 s at last (six standard errors allowed)
    first, last = (sum(run[attempt] for run in runs) / len(runs) for attempt in (0, -1))
    assert 0.042 < first < 0.058
    assert 2.1 < last < 2.9


def test_processes_that_lost_the_same_server_do_not_come_back_in_step() -> None:
    firsts = {next(backoff(1.0)) for _ in range(100)}

    assert len(firsts) > 90

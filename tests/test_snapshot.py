"""A PostgreSQL snapshot as a value, against a model that lists every transaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.snapshot import EMPTY, Snapshot

LARGEST = 24
"""Transactions in the model: enough for every overlap of two snapshots, few enough to list."""


@st.composite
def snapshots(draw: st.DrawFn, largest: int = LARGEST) -> Snapshot:
    xmin = draw(st.integers(0, largest))
    xmax = draw(st.integers(xmin, largest))
    in_progress = draw(st.frozensets(st.integers(xmin, xmax - 1), max_size=8)) if xmin < xmax else frozenset()
    return Snapshot(xmin, xmax, in_progress)


def seen(snapshot: Snapshot) -> set[int]:
    """The definition, spelled out: what had begun and was not in progress."""
    return set(range(snapshot.xmax)) - snapshot.xip


@given(snapshots())
def test_a_transaction_is_visible_when_it_had_ended(snapshot: Snapshot) -> None:
    assert {tx for tx in range(LARGEST + 2) if snapshot.visible(tx)} == seen(snapshot)


@given(snapshots(), snapshots())
def test_one_covers_another_when_it_sees_all_that_the_other_sees(one: Snapshot, other: Snapshot) -> None:
    assert one.covers(other) == (seen(one) >= seen(other))


@given(st.data())
def test_a_later_snapshot_of_one_primary_covers_an_earlier_one(data: st.DataObject) -> None:
    # given two moments of one history: between them transactions begin, and some that were open end
    earlier = data.draw(snapshots())
    xmax = data.draw(st.integers(earlier.xmax, LARGEST + 8))
    may_be_open = [*sorted(earlier.xip), *range(earlier.xmax, xmax)]
    in_progress = data.draw(st.frozensets(st.sampled_from(may_be_open)) if may_be_open else st.just(frozenset()))
    later = Snapshot(min(in_progress, default=xmax), xmax, in_progress)

    # then
    assert later.covers(earlier)
    assert earlier.covers(later) == (seen(earlier) == seen(later))


def test_a_snapshot_covers_one_with_a_higher_xmax_when_all_between_was_still_open_there() -> None:
    assert Snapshot(10, 10).covers(Snapshot(10, 12, frozenset({10, 11})))
    assert not Snapshot(10, 10).covers(Snapshot(10, 12, frozenset({10})))


@given(snapshots())
def test_the_empty_snapshot_sees_nothing_and_is_covered_by_all(snapshot: Snapshot) -> None:
    assert not any(EMPTY.visible(tx) for tx in range(LARGEST))
    assert snapshot.covers(EMPTY)


@given(snapshots(largest=2**63 - 1))
def test_what_is_printed_is_read_back(snapshot: Snapshot) -> None:
    assert Snapshot.parse(str(snapshot)) == snapshot


@pytest.mark.parametrize("text", ["10:20:10,14,15", "10:10:", "3:4:3", "12884901888:12884901900:12884901890"])
def test_the_text_of_postgresql_is_kept(text: str) -> None:
    assert str(Snapshot.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("10:20", id="two fields"),
        pytest.param("10:20::", id="four fields"),
        pytest.param("a:20:", id="a letter"),
        pytest.param("10:20:12,", id="a comma at the end"),
        pytest.param("-1:20:", id="a negative number"),
        pytest.param("+1:20:", id="a sign"),
        pytest.param("1_0:20:", id="Python's underscore"),
        pytest.param(" 10:20:", id="a space"),
        pytest.param("10:20:\n", id="a line end"),
        pytest.param("١٠:20:", id="digits that are not ASCII"),
        pytest.param("20:10:", id="xmin beyond xmax"),
        pytest.param("10:20:9", id="in progress before xmin"),
        pytest.param("10:20:20", id="in progress at xmax"),
        pytest.param("1:" + "9" * 5000 + ":", id="digits without end"),
    ],
)
def test_what_is_not_a_snapshot_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a PostgreSQL snapshot"):
        Snapshot.parse(text)


HALF = 2**31


@given(xmax=st.integers(0, 2**50), distance=st.integers(-HALF + 1, HALF - 1))
def test_32_bits_are_widened_to_the_nearest_transaction(xmax: int, distance: int) -> None:
    # given a transaction within half the range of 32 bits
    tx = max(0, xmax + distance)

    # then
    assert Snapshot(xmax, xmax).widen(tx % 2**32) == tx


def test_a_change_decoded_just_after_a_wraparound_belongs_to_the_next_epoch() -> None:
    before = Snapshot(2**32 - 3, 2**32 - 1)

    assert before.widen(5) == 2**32 + 5
    assert Snapshot(2**32 + 5, 2**32 + 7).widen(2**32 - 2) == 2**32 - 2

"""The watch sees what it is there for: each test shows it the trouble, and beside it what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz import attacks, tokens
from tests.fuzz.assault import Tally
from tests.fuzz.connection import Outcome
from tests.fuzz.watch import FEWEST, LEAST, WARM_UP, Footprint, Log, complaints, early_growth, growth
from tests.fuzz.wire import CLOSE, TEXT, Incoming, frame

FINE = '{"event": "bus_connected", "level": "info", "timestamp": "2026-01-02T03:04:05.000006Z"}'
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def incoming(*frames: bytes, user: str | None = "fuzz-1", json: bool | None = False) -> Incoming:
    """What a client saw that was sent these."""
    came = Incoming(user, json)
    for octet in SWITCHED + b"".join(frames):
        came.receive(bytes([octet]))
    return came


def message(recipient: str) -> bytes:
    body = json.dumps({"event": "created", "id": 1, "recipientId": recipient})
    return f"MESSAGE\nack:m-1\ncontent-length:{len(body)}\n\n{body}\0".encode()


@pytest.mark.parametrize(
    "line",
    [
        FINE.replace("info", "error"),
        FINE.replace("info", "critical"),
        FINE.replace("}", ', "exception": "Traceback (most recent call last): ..."}'),
        "Traceback (most recent call last):",
        "Exception ignored in: <coroutine object>",
        "{}",
    ],
)
def test_a_log_with_an_error_a_traceback_or_a_line_that_is_no_event_is_complained_of(line: str) -> None:
    assert [complaint.line for complaint in complaints([FINE, line, FINE])] == [line]


def test_a_log_of_warnings_is_none() -> None:
    assert complaints([FINE, FINE.replace("info", "warning")]) == []


def test_a_log_is_read_on_from_where_it_was_left_and_half_a_line_later(tmp_path: Path) -> None:
    bad = FINE.replace("info", "error")
    path = tmp_path / "log"
    path.write_text(f"{FINE}\n{bad}\n{bad[:20]}")
    log = Log(path)
    assert len(log.news()) == 1
    path.write_text(f"{FINE}\n{bad}\n{bad}\n")
    assert len(log.news()) == 1
    assert log.news() == []
    assert log.events["bus_connected"] == 3


def test_memory_that_grows_by_a_little_each_round_is_seen() -> None:
    assert "100.0" in str(growth([90.0] * WARM_UP + [100.0 + 0.5 * number for number in range(40)]))


def test_memory_that_swings_or_has_one_high_round_or_grew_in_the_warm_up_is_not_growing() -> None:
    warm_up = [50.0 + number for number in range(WARM_UP)]
    assert growth(warm_up + [100.0, 104.0] * 20) is None
    assert growth(warm_up + [100.0] * 39 + [190.0]) is None
    assert growth(warm_up + [100.0] * 3) is None


@pytest.mark.parametrize("rounds", range(LEAST, WARM_UP + FEWEST))
def test_in_a_run_too_short_for_a_trend_20_kib_that_each_connection_leaves_are_seen(rounds: int) -> None:
    """As a session that is forgotten does, in rounds of 120 connections, beside what a gateway needs to get warm."""
    connections = 120 * (rounds - 1)
    warming = [90.0 + 2.5 * number / (rounds - 1) for number in range(rounds)]
    leaking = [warm + number * 120 * 20 / 1024 for number, warm in enumerate(warming)]
    assert early_growth(warming, connections) is None
    assert growth(leaking) is None
    assert "memory grew by" in str(early_growth(leaking, connections))


def test_however_many_rounds_there_are_one_of_the_two_judges_memory() -> None:
    for rounds in range(LEAST, 50):
        grows = [90.0 + 10 * number for number in range(rounds)]
        assert (growth(grows) is None) is (early_growth(grows, 0) is not None)


@pytest.mark.parametrize("name", ["connections", "sessions", "subscriptions"])
def test_one_that_is_left_behind_is_seen_and_one_too_few(name: str) -> None:
    at_rest = Footprint(1, 1, 2, 20)
    held = vars(at_rest)
    assert name in str(Footprint(**held | {name: held[name] + 1}).left(at_rest))
    assert name in str(Footprint(**held | {name: held[name] - 1}).left(at_rest))


def test_file_descriptors_that_are_left_behind_are_seen_beyond_those_that_come_and_go() -> None:
    at_rest = Footprint(1, 1, 2, 20)
    assert Footprint(1, 1, 2, 23).left(at_rest) is None
    assert "10 files" in str(Footprint(1, 1, 2, 30).left(at_rest))


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        ([frame(CLOSE, b"\x03\xf3", mask=None)], "close code 1011"),
        ([frame(CLOSE, b"\x03\xee", mask=None)], "close code 1006"),
        ([b"\x8a\x80"], "masked"),
        ([frame(TEXT, b"\n", fin=False, mask=None)], "fragments"),
        ([frame(3, b"", mask=None)], "opcode 3"),
        ([frame(TEXT, b"RECEIPT\nreceipt-id:1\n\n", mask=None)], "no frame of STOMP"),
        ([frame(TEXT, b"RECEIPT\nreceipt-id:1\n\n\0\n", mask=None)], "no frame of STOMP"),
        ([frame(TEXT, b"\xff", mask=None)], "cannot be read"),
        ([frame(TEXT, b"ERROR\nmessage:x\n\n\0", mask=None), frame(TEXT, b"\n", mask=None)], "after ERROR"),
        ([frame(CLOSE, b"\x03\xe8", mask=None), frame(TEXT, b"\n", mask=None)], "after the close frame"),
        ([frame(TEXT, message("fuzz-2"), mask=None)], "a row of fuzz-2"),
        (
            [frame(TEXT, message("fuzz-1").replace(b"content-length:", b"content-length:1"), mask=None)],
            "content-length",
        ),
    ],
)
def test_what_no_gateway_may_send_is_seen(frames: list[bytes], problem: str) -> None:
    assert [problem in found for found in incoming(*frames).problems] == [True]


def test_what_a_gateway_sends_is_fine() -> None:
    came = incoming(
        frame(TEXT, b"\n", mask=None),
        frame(TEXT, message("fuzz-1"), mask=None),
        frame(TEXT, message("topic:news.sport"), mask=None),
        frame(TEXT, b"ERROR\nmessage:x\n\n" + b"y" * 70_000 + b"\0", mask=None),
        frame(CLOSE, b"\x03\xea", mask=None),
    )
    assert (came.problems, came.code, came.texts, came.unanswered) == ([], 1002, 4, [b"m-1", b"m-1"])


def test_status_500_is_seen_and_503_is_none() -> None:
    came = Incoming()
    came.receive(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    assert came.problems == []
    came.receive(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    assert came.problems == ["HTTP status 500"]


def test_a_plan_is_the_same_each_time_and_hardly_two_are_alike() -> None:
    plans = [attacks.plan(seed, 2, now=1_800_000_000) for seed in range(300)]
    assert plans == [attacks.plan(seed, 2, now=1_800_000_000) for seed in range(300)]
    assert len({str(plan.steps) for plan in plans}) > 290
    assert len({plan.attack for plan in plans}) > 10


def test_connections_that_were_there_when_something_happened_are_named() -> None:
    tally = Tally()
    for seed, began, ended in ((1, 100.0, 101.0), (2, 100.0, 200.0), (3, 151.0, 160.0), (4, 120.0, 149.5)):
        tally.add(Outcome(seed, "an attack", 0, began, ended, problems=["a problem"] if seed == 3 else []))
    assert tally.during(150.0) == [2, 4]
    assert [outcome.seed for outcome in tally.findings] == [3]


def test_a_token_has_three_parts_of_base64() -> None:
    assert tokens.good("fuzz-0").count(".") == 2
    assert "=" not in tokens.good("fuzz-0")

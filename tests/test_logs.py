"""Logs: one event a line, with its fields, whoever wrote it."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator

import pytest
import structlog

from rowbell import logs
from rowbell.config import Settings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """What `configure` sets is the process's: other tests must not inherit it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == "", "standard output belongs to what commands print"
    return [json.loads(line) for line in err.splitlines()]


def test_an_event_is_one_line_of_json_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())

    logs.get_logger("gateway.sweep").info("bundle_undeliverable", gateway="g-1", changes=3)

    [line] = lines(capsys)
    assert line.pop("timestamp")
    assert line == {
        "event": "bundle_undeliverable",
        "level": "info",
        "logger": "gateway.sweep",
        "gateway": "g-1",
        "changes": 3,
    }


def test_a_logger_made_before_the_process_is_configured_follows(capsys: pytest.CaptureFixture[str]) -> None:
    log = logs.get_logger("bus")  # as modules do, at import

    logs.configure(Settings())
    log.warning("bus_away")

    assert [line["event"] for line in lines(capsys)] == ["bus_away"]


@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_less_severe_events_than_asked_for_are_not_written(
    level: str, heard: int, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(Settings(log_level=level))
    log = logs.get_logger("x")

    for write in (log.debug, log.info, log.warning, log.error):
        write("something")

    assert len(lines(capsys)) == heard


def test_libraries_come_out_the_same_way_and_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())

    logging.getLogger("aio_pika.connection").warning("lost %s", "it")

    [line] = lines(capsys)
    assert (line["event"], line["level"], line["logger"]) == ("lost it", "warning", "aio_pika.connection")


def test_libraries_are_not_heard_below_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_level="debug"))

    logging.getLogger("asyncio").info("chatter")

    assert lines(capsys) == []


def test_a_traceback_stays_within_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())

    try:
        raise OSError("no route")
    except OSError:
        logs.get_logger("bus").exception("bus_away")
        logging.getLogger("library").exception("gave up")

    ours, theirs = lines(capsys)
    assert "OSError: no route" in str(ours["exception"])
    assert "OSError: no route" in str(theirs["exception"])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_values_of_variables(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format=log_format))
    token = secrets.token_hex()

    try:
        raise OSError("no route")
    except OSError:
        logs.get_logger("gateway").exception("session_failed")
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")

    err = capsys.readouterr().err
    assert token not in err
    assert err.count("OSError: no route") == 2


def test_a_person_at_a_terminal_reads_words_instead_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="console"))

    logs.get_logger("bus").info("bus_connected", gateway="g-1")

    err = capsys.readouterr().err
    assert "bus_connected" in err
    assert not err.startswith("{")

"""How the embedded server ends, and how it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from rowbell.embedded import EmbeddedPostgres, Home
from rowbell.embedded import server as module
from rowbell.inbox.schema import migrate
from tests.embedded.person import (
    answers,
    eventually,
    eventually_async,
    free_port,
    insert,
    postmaster,
    process_that_runs_it,
    running,
    scalar,
    titles,
)

EPOCH = "SELECT epoch FROM rowbell_epoch"


def test_after_a_kill_of_our_process_the_server_ends_cleanly_and_a_start_at_once_has_everything(home: Home) -> None:
    # Given a process that runs it, a row, and the epoch, whose table is unlogged
    port = free_port()
    server = EmbeddedPostgres(home, port)
    with process_that_runs_it(home, port) as process:
        migrate(server.url("rowbell"), new_epoch=True)
        epoch = scalar(server.url("rowbell"), EPOCH)
        before = postmaster(home)
        with psycopg.connect(server.url("rowbell")) as connection:
            connection.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
            connection.commit()
            # When
            process.send_signal(signal.SIGKILL)
            process.wait()
            with server:
                # Then
                server.grant_roles()
                assert postmaster(home) not in (0, before)
                assert titles(server) == ["Hello"]
                assert scalar(server.url("rowbell"), EPOCH) == epoch
    assert "was not properly shut down" not in server.log.read_text()
    assert "shut down" in control(server)


def test_after_a_crash_of_everything_a_start_recovers(home: Home) -> None:
    # Given a row, and a session that holds on to the memory of the server
    port = free_port()
    server = EmbeddedPostgres(home, port)
    with process_that_runs_it(home, port) as process:
        migrate(server.url("rowbell"))
        with psycopg.connect(server.url("rowbell"), autocommit=True) as connection:
            connection.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
            # When
            os.kill(postmaster(home), signal.SIGKILL)
            process.kill()
            process.wait()
            with server:
                # Then
                assert scalar(server.url("rowbell"), "SELECT title FROM notification") == "Hello"
    assert "was not properly shut down" in server.log.read_text()


def test_after_a_kill_of_our_process_nothing_goes_on(home: Home) -> None:
    with process_that_runs_it(home, free_port()) as process:
        pid = postmaster(home)
        assert pid
        process.kill()
    eventually("the server is gone", lambda: not Path(f"/proc/{pid}").exists())


def test_a_stop_takes_a_moment_even_while_somebody_writes_and_somebody_follows(home: Home) -> None:
    # Given
    with running(home) as server, following(server) as reader:
        insert(server)
        assert reader.stdout
        assert reader.stdout.read(1) == b"B"  # BEGIN
        writing = psycopg.connect(server.url("app"))
        writing.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Never committed')")
        # When
        began = time.monotonic()
        server.stop()
        # Then
        assert time.monotonic() - began < 1.5
        assert "shut down" in control(server)
        writing.close()
        server.stop()


@contextmanager
def following(server: EmbeddedPostgres) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads the changes of `notification` as messages of pgoutput."""
    command = [str(server.psql.with_name("pg_recvlogical")), f"--dbname={server.url('gateway')}", "--slot=followed"]
    options = ["--option=proto_version=1", "--option=publication_names=notification_publication"]
    run = ["--create-slot", "--start", "--plugin=pgoutput", *options, "--file=-", "--no-loop"]
    active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'followed'"
    with subprocess.Popen([*command, *run], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        try:
            eventually("it follows", lambda: scalar(server.url("rowbell"), active) is True)
            yield reader
        finally:
            reader.kill()


def control(server: EmbeddedPostgres) -> str:
    """What the data say of how their last server ended."""
    program = server.psql.with_name("pg_controldata")
    data = str(server.home.path / "embedded")
    return subprocess.run([program, data], capture_output=True, text=True, check=True).stdout


def test_a_server_that_does_not_end_is_ended_by_force(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    monkeypatch.setattr(module, "STOP", [(ask, seconds and 0.2) for ask, seconds in module.STOP])
    with running(home) as server:
        pid = postmaster(home)
        os.kill(pid, signal.SIGSTOP)
        # When
        server.stop()
    # Then
    assert postmaster(home) == 0
    with running(home) as server:
        assert titles(server) == []


def test_ctrl_c_at_the_terminal_does_not_reach_the_server(home: Home) -> None:
    with running(home):
        assert os.getsid(postmaster(home)) == postmaster(home)


def test_ctrl_c_ends_the_process_that_runs_it_and_the_server(home: Home) -> None:
    with process_that_runs_it(home, free_port()) as process:
        pid = postmaster(home)
        process.send_signal(signal.SIGINT)
        process.wait(10)
    assert not Path(f"/proc/{pid}").exists()


async def test_a_server_that_is_killed_comes_back_on_the_same_port(home: Home) -> None:
    # Given
    with running(home) as server:
        insert(server)
        before = postmaster(home)
        async with await psycopg.AsyncConnection.connect(server.url("app")), asyncio.TaskGroup() as group:
            keeping = group.create_task(server.run())
            # When
            os.kill(before, signal.SIGKILL)
            # Then
            await eventually_async("it answers", lambda: answers(server))
            keeping.cancel()
        assert postmaster(home) not in (0, before)
        assert titles(server) == ["Hello"]


async def test_run_keeps_trying_while_the_server_cannot_start(home: Home) -> None:
    # Given
    with running(home) as server:
        keeping = asyncio.create_task(server.run())
        configuration = home.path / "embedded" / "postgresql.conf"
        text = configuration.read_text()
        configuration.write_text("nonsense = on\n")
        os.kill(postmaster(home), signal.SIGKILL)
        await eventually_async("a start has failed", lambda: "nonsense" in server.log.read_text())
        assert not keeping.done()
        # When
        configuration.write_text(text)
        # Then
        await eventually_async("it answers", lambda: answers(server))
        keeping.cancel()


def test_a_start_that_is_killed_midway_does_not_hinder_the_next(home: Home) -> None:
    # Given
    script = (
        "import sys, pathlib; from rowbell.embedded import *; EmbeddedPostgres(Home(pathlib.Path(sys.argv[1]))).start()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(home.path)]) as start:
        eventually("initdb has begun", lambda: (home.path / "embedded.partial" / "global").exists())
        start.kill()
    # When
    with running(home) as server:
        # Then
        assert titles(server) == []

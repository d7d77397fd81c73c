"""`rowbell serve --workers N`: N gateways on one port, each a process, and this one, which looks after them.

Each has a listening socket of its own on the same port (SO_REUSEPORT), among which the kernel deals out those who come.
The first is started alone, and the others when clients can come to it: what is wrong with the settings or the database
is said once. One that dies later is started again.

Between the supervisor and its workers there is a pipe on which nothing is ever written. Its end, because the supervisor
closes it or is gone itself, tells all of them to stop, as often as they may have been told by a signal.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NoReturn

from rowbell.backoff import backoff
from rowbell.cli.exits import INTERRUPTED, failed
from rowbell.cli.serve import Started
from rowbell.config import Settings
from rowbell.errors import RowbellError, SettingsError
from rowbell.logs import get_logger

log = get_logger("workers")

Serve = Callable[[Settings, Started], int]
"""Serves until it is stopped, with the exit status; calls back with what stops it, when clients can come."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
UP = signal.SIGRTMIN
"""What a worker sends when clients can come to it. Unlike other signals, those of several never come as one."""

SOUND = 60.0
"""Seconds that a worker must have lived for its death to count as the first."""
RESTART_CAP = 10.0
"""Seconds until one that keeps dying is started again, at most."""
STOP_TIMEOUT = 45.0
"""Seconds that workers have to stop, more than any needs; then they are killed."""


def supervise(settings: Settings, serve: Serve) -> int:
    """Run `settings.workers` gateways until a signal. The exit status: 0 if all of them stopped as they should.

    SettingsError if a port cannot be had.
    """
    _try_metrics_ports(settings)
    with _reserve(settings) as reserved:
        return _Supervisor(dataclasses.replace(settings, port=reserved.getsockname()[1]), serve).run()


def _try_metrics_ports(settings: Settings) -> None:
    """SettingsError if somebody has one of the workers' ports, before any of them starts."""
    from rowbell.gateway.server import listen

    if not (first := settings.metrics_port):
        return
    if (last := first + settings.workers - 1) > 65535:
        raise SettingsError(f"ROWBELL_METRICS_PORT: {settings.workers} workers would have ports up to {last}")
    for port in range(first, last + 1):
        listen(settings.host, port, setting="ROWBELL_METRICS_PORT").close()


def _reserve(settings: Settings) -> socket.socket:
    """A socket that keeps the port for the workers; nobody can connect to it. SettingsError if somebody else has it.

    The workers share the port with whoever is the same user, also with another `rowbell serve --workers`: so it is
    tried first whether it is free.
    """
    from rowbell.gateway.server import listen

    with listen(settings.host, settings.port) as probe:
        family, address = probe.family, probe.getsockname()
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as `create_server` does for the workers
    reserved.bind(address)
    return reserved


@dataclasses.dataclass(frozen=True, slots=True)
class _Worker:
    """One that runs."""

    number: int
    begun: float
    """When, by the monotonic clock."""


class _Supervisor:
    def __init__(self, settings: Settings, serve: Serve) -> None:
        self._settings = settings
        self._serve = serve
        self._workers: dict[int, _Worker] = {}
        """Tracks process id → worker."""
        self._due: dict[int, float] = {}
        """Tracks the number of a worker that is to be started → when, by the monotonic clock."""
        self._delays: dict[int, Iterator[float]] = {}
        """Tracks the number of a worker → how long to wait when it dies the next times."""
        self._have_been_up: set[int] = set()
        """Tracks the numbers to which clients could come; before that the end of one is the end of all."""
        self._status = 0
        self._kill_at: float | None = None
        """Tracks when those that still run are killed, once all are to stop."""
        stopping = {each for each in STOP_SIGNALS if signal.getsignal(each) != signal.SIG_IGN}
        self._watched = {signal.SIGCHLD, UP, *stopping}
        self._end, self._life = os.pipe()
        self._pid = os.getpid()

    def run(self) -> int:
        """Start the first, and then do what signals and the clock say, until none runs any more."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._watched)
        self._start(0)
        while self._workers or self._due:
            received = signal.sigtimedwait(self._watched, self._patience())
            if received is None:
                self._on_time(time.monotonic())
            elif received.si_signo == signal.SIGCHLD:
                self._on_end()
            elif received.si_signo == UP:
                self._on_up(received.si_pid)
            else:
                self._on_stop()
        return self._status

    def _patience(self) -> float:
        """Seconds until there is something to do."""
        times = [*self._due.values(), *([] if self._kill_at is None else [self._kill_at])]
        return max(0.0, min(times) - time.monotonic()) if times else 3600.0

    def _on_time(self, now: float) -> None:
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill()

    def _on_up(self, pid: int) -> None:
        """Clients can come to this one. If it is the first, it is the others' turn."""
        if (worker := self._workers.get(pid)) is None:
            return
        if not self._have_been_up and self._kill_at is None:
            for number in range(1, self._settings.workers):
                self._start(number)
        self._have_been_up.add(worker.number)

    def _on_end(self) -> None:
        """At least one has ended: signals of several may come as one.

        It need not be a worker: the first process of a container is given the children of those that have ended.
        """
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if (worker := self._workers.pop(pid, None)) is not None:
                self._take_leave(worker, pid, os.waitstatus_to_exitcode(status))

    def _take_leave(self, worker: _Worker, pid: int, status: int) -> None:
        """`status` is negative for the signal that killed it."""
        if self._kill_at is not None:
            self._status = self._status or abs(status)
        elif worker.number not in self._have_been_up:
            self._status = abs(status) or 1
            self._stop()
        else:
            now = time.monotonic()
            if now - worker.begun > SOUND or worker.number not in self._delays:
                self._delays[worker.number] = backoff(first=1.0, cap=RESTART_CAP)
            delay = next(self._delays[worker.number])
            log.error("worker_died", worker=worker.number, pid=pid, status=status, restart_in=round(delay, 1))
            self._due[worker.number] = now + delay

    def _on_stop(self) -> None:
        """The first time they stop as a gateway does; the second time that is cut short."""
        if self._kill_at is None:
            self._stop()
        else:
            self._kill()

    def _stop(self) -> None:
        log.info("workers_stop", workers=len(self._workers))
        self._due.clear()
        self._kill_at = time.monotonic() + STOP_TIMEOUT
        os.close(self._life)

    def _kill(self) -> None:
        log.error("workers_killed", workers=len(self._workers))
        self._kill_at = time.monotonic() + STOP_TIMEOUT
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)

    # A worker.

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_worker(number)
        with suppress(OSError):  # it has done it itself, or has ended
            os.setpgid(pid, pid)
        self._workers[pid] = _Worker(number, time.monotonic())
        log.info("worker_started", worker=number, pid=pid)

    def _be_worker(self, number: int) -> NoReturn:
        """In the process that was just made: serve, and end it."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C goes to the supervisor alone, and comes from there
            os.close(self._life)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._watched)
            metrics_port = self._settings.metrics_port and self._settings.metrics_port + number
            status = self._serve(dataclasses.replace(self._settings, metrics_port=metrics_port), self._started)
        except RowbellError as error:
            status = failed(error)
        except KeyboardInterrupt:
            status = INTERRUPTED
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # what stands above on the stack is the supervisor's

    def _started(self, _: Settings, stop: Callable[[], None]) -> None:
        """Called in the worker when clients can come to it."""
        asyncio.get_running_loop().add_reader(self._end, self._on_life, stop)
        if os.getppid() == self._pid:  # otherwise it is gone, and the parent is a stranger whom the signal would end
            with suppress(ProcessLookupError):
                os.kill(self._pid, UP)

    def _on_life(self, stop: Callable[[], None]) -> None:
        asyncio.get_running_loop().remove_reader(self._end)
        stop()

"""`rowbell serve --workers N`: N gateway processes on one port, supervised by this process.

Each worker has its own listening socket on the same port (SO_REUSEPORT), and the kernel distributes connections among
them. The first worker is started alone, and the others once clients can connect to it, so that a problem with the
settings or the database is reported once. A worker that dies later is restarted.

Supervisor and workers share a pipe to which nothing is ever written. Its end of file, because the supervisor closes it
or is gone itself, tells all workers to stop, however often a signal may have told them already.
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
"""Serves until stopped, and returns the exit status; calls `Started`, with a function that stops it, when clients can
connect."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
UP = signal.SIGRTMIN
"""Sent by a worker when clients can connect to it. Real-time signals are queued, so those of several workers do not
merge."""

HEALTHY_AFTER_SECONDS = 60.0
"""Seconds after which a worker counts as healthy: if it dies later, the restart delays begin anew."""
RESTART_CAP = 10.0
"""Maximum seconds until a worker that keeps dying is restarted."""
STOP_TIMEOUT = 45.0
"""Seconds that workers have to stop, more than any needs; then they are killed."""


def supervise(settings: Settings, serve: Serve) -> int:
    """Run `settings.workers` gateways until a signal arrives. Return the exit status, 0 if all of them stopped
    properly.

    Raises SettingsError if a port is not available.
    """
    _try_metrics_ports(settings)
    with _reserve(settings) as reserved:
        return _Supervisor(dataclasses.replace(settings, port=reserved.getsockname()[1]), serve).run()


def _try_metrics_ports(settings: Settings) -> None:
    """Raise SettingsError if one of the workers' metrics ports is in use, before any worker starts."""
    from rowbell.gateway.server import listen

    if not (first := settings.metrics_port):
        return
    if (last := first + settings.workers - 1) > 65535:
        raise SettingsError(f"ROWBELL_METRICS_PORT: {settings.workers} workers would need ports up to {last}")
    for port in range(first, last + 1):
        listen(settings.metrics_host, port, setting="ROWBELL_METRICS_PORT").close()


def _reserve(settings: Settings) -> socket.socket:
    """Return a socket that reserves the port for the workers; nobody can connect to it. Raises SettingsError if it is
    in use.

    Any process of the same user can share the port, even another `rowbell serve --workers`: so check first that it is
    free.
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
    """A running worker."""

    number: int
    begun: float
    """When it was started, by the monotonic clock."""


class _Supervisor:
    """Starts, restarts and stops the workers, driven by signals."""

    def __init__(self, settings: Settings, serve: Serve) -> None:
        self._settings = settings
        self._serve = serve
        self._workers: dict[int, _Worker] = {}
        """Tracks process id → worker."""
        self._due: dict[int, float] = {}
        """Tracks number of a worker to be started → when, by the monotonic clock."""
        self._delays: dict[int, Iterator[float]] = {}
        """Tracks number of a worker → its next restart delays."""
        self._have_been_up: set[int] = set()
        """Tracks the workers that clients could connect to; if one ends before that, all end."""
        self._status = 0
        self._kill_at: float | None = None
        """Tracks when the remaining workers are killed, once all are to stop."""
        stopping = {each for each in STOP_SIGNALS if signal.getsignal(each) != signal.SIG_IGN}
        self._watched = {signal.SIGCHLD, UP, *stopping}
        self._pipe_read, self._pipe_write = os.pipe()
        self._pid = os.getpid()

    def run(self) -> int:
        """Start the first worker, then act on signals and the clock until none is left. Return the exit status."""
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
        """Return the seconds until something is due."""
        times = [*self._due.values(), *([] if self._kill_at is None else [self._kill_at])]
        return max(0.0, min(times) - time.monotonic()) if times else 3600.0

    def _on_time(self, now: float) -> None:
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill()

    def _on_up(self, pid: int) -> None:
        """Note that clients can connect to this worker; after the first, start the others."""
        if (worker := self._workers.get(pid)) is None:
            return
        if not self._have_been_up and self._kill_at is None:
            for number in range(1, self._settings.workers):
                self._start(number)
        self._have_been_up.add(worker.number)

    def _on_end(self) -> None:
        """Handle SIGCHLD: at least one child has ended, since several signals may merge.

        It need not be a worker: the first process of a container adopts orphans.
        """
        while self._workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if (worker := self._workers.pop(pid, None)) is not None:
                self._on_worker_exit(worker, pid, os.waitstatus_to_exitcode(status))

    def _on_worker_exit(self, worker: _Worker, pid: int, status: int) -> None:
        """Restart the worker, unless it never came up or all are to stop. `status` is negative if a signal killed
        it.
        """
        if self._kill_at is not None:
            self._status = self._status or abs(status)
        elif worker.number not in self._have_been_up:
            self._status = abs(status) or 1
            self._stop()
        else:
            now = time.monotonic()
            if now - worker.begun > HEALTHY_AFTER_SECONDS or worker.number not in self._delays:
                self._delays[worker.number] = backoff(first=1.0, cap=RESTART_CAP)
            delay = next(self._delays[worker.number])
            log.error("worker_died", worker=worker.number, pid=pid, status=status, restart_in=round(delay, 1))
            self._due[worker.number] = now + delay

    def _on_stop(self) -> None:
        """Stop the workers gracefully the first time, and kill them the second time."""
        if self._kill_at is None:
            self._stop()
        else:
            self._kill()

    def _stop(self) -> None:
        log.info("workers_stop", workers=len(self._workers))
        self._due.clear()
        self._kill_at = time.monotonic() + STOP_TIMEOUT
        os.close(self._pipe_write)

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
        with suppress(OSError):  # the child has done it itself, or has ended
            os.setpgid(pid, pid)
        self._workers[pid] = _Worker(number, time.monotonic())
        log.info("worker_started", worker=number, pid=pid)

    def _be_worker(self, number: int) -> NoReturn:
        """In the forked process: serve, then exit."""
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C reaches the supervisor alone, which stops us
            os.close(self._pipe_write)
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
            os._exit(status)  # the callers on the stack belong to the supervisor

    def _started(self, _: Settings, stop: Callable[[], None]) -> None:
        """In the worker, when clients can connect: watch the pipe, and tell the supervisor."""
        asyncio.get_running_loop().add_reader(self._pipe_read, self._on_supervisor_gone, stop)
        if os.getppid() == self._pid:  # otherwise our parent is another process, which the signal would kill
            with suppress(ProcessLookupError):
                os.kill(self._pid, UP)

    def _on_supervisor_gone(self, stop: Callable[[], None]) -> None:
        """Stop: the supervisor has closed the pipe, or is gone."""
        asyncio.get_running_loop().remove_reader(self._pipe_read)
        stop()

"""supervisord: starts it, queries it, and stops it and whatever it left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults, SupervisorTransport  # type: ignore[import-untyped]

from stack.errors import StackError
from stack.home import Home

CONFIGURATION = Path(__file__).with_name("supervisord.conf")

DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Prefix of a command that prepares a directory: it must not go on there once the start that ran it was killed."""

MARK = "STACK_HOME"
"""Environment variable with the home, in every process of a stack."""

STOP_SECONDS = 120
"""Limit for stopping all programs in turn, each with its own limit in supervisord.conf; 10 s is usual."""


@dataclass(frozen=True, slots=True)
class Program:
    """What supervisord reports about a program."""

    name: str
    state: str
    """STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL or UNKNOWN."""
    pid: int
    """0 if it is not running."""
    description: str
    """Human-readable: pid and uptime, or why it stopped."""


class Supervisor:
    """The supervisord of one home."""

    def __init__(self, home: Home, dies_with_us: bool = False) -> None:
        """With `dies_with_us` it ends, with everything it runs, when the calling thread ends."""
        self._home = home
        self._dies_with_us = dies_with_us
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, environ: Mapping[str, str]) -> None:
        """Start supervisord, unless it is running. Raises StackError if it does not start."""
        if self.is_running():
            return
        end_leftovers(self._home)
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(CONFIGURATION)]
        if self._dies_with_us:
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        self._child = subprocess.Popen(
            [*command, "--nodaemon"],
            env={**os.environ, **environ},
            cwd=self._home.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the process that waits for the start, not for the servers
        )
        self._wait_for(self._answers_or_died, 15, "did not start")

    def is_running(self) -> bool:
        """Return whether supervisord answers."""
        try:
            self._ask("getPID")
        except OSError:
            return False
        return True

    def programs(self) -> dict[str, Program]:
        """Return every program, by name; empty if supervisord is not running."""
        try:
            told = self._ask("getAllProcessInfo")
        except OSError:
            return {}
        return {
            info["name"]: Program(info["name"], info["statename"], info["pid"], info["description"]) for info in told
        }

    def start_program(self, name: str) -> None:
        """Start a program, unless it is running; does not wait until it answers."""
        with _except_fault(Faults.ALREADY_STARTED):
            self._ask("startProcess", name, False)

    def stop_program(self, name: str) -> None:
        """Stop a program and wait until it is gone."""
        with _except_fault(Faults.NOT_RUNNING):
            self._ask("stopProcess", name, True)

    def stop(self) -> None:
        """Stop every program, then supervisord, and wait until they are gone. Raises StackError if they do not stop."""
        if self.is_running():
            pid = self._ask("getPID")
            self._ask("shutdown")
            self._wait_for(lambda: self._is_gone(pid), STOP_SECONDS, "did not stop")
        end_leftovers(self._home)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call supervisord, over a new connection, so that threads share nothing. Raises OSError if it is not
        running.
        """
        transport = SupervisorTransport(None, None, f"unix://{self._home.socket}")
        with xmlrpc.client.ServerProxy("http://localhost", transport) as server:
            return getattr(server.supervisor, method)(*arguments)

    def _answers_or_died(self) -> bool:
        if self._child and self._child.poll() is not None:
            raise StackError(f"supervisord ended during its start; see {self._home.log('supervisord')}")
        return self.is_running()

    def _is_gone(self, pid: int) -> bool:
        if self._child and self._child.pid == pid:
            return self._child.poll() is not None
        return not Path(f"/proc/{pid}").exists()

    def _wait_for(self, condition: Any, seconds: float, problem: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise StackError(f"supervisord {problem} in {seconds} s; see {self._home.log('supervisord')}")
            time.sleep(0.05)


def processes_of(home: Home) -> list[int]:
    """Return the pids of all processes that a stack in this home started, found by the mark in their environment.

    A container on this machine may have a home with the same path; its processes are not ours.
    """
    mark = os.fsencode(f"{MARK}={home.path}")
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            marked = mark in (directory / "environ").read_bytes().split(b"\0")
            if marked and (directory / "root").samefile("/"):
                found.append(int(directory.name))
    return [pid for pid in found if pid != os.getpid()]


def end_leftovers(home: Home) -> None:
    """Stop the programs of a supervisord that was killed, which keep running without it. Raises StackError if one
    remains.
    """
    for ask in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 10
        for pid in processes_of(home):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, ask)
        while processes_of(home) and time.monotonic() < deadline:
            time.sleep(0.1)
    home.socket.unlink(missing_ok=True)
    if left := processes_of(home):
        raise StackError(f"These processes in {home.path} do not end: {', '.join(map(str, left))}")


@contextlib.contextmanager
def _except_fault(expected: int) -> Any:
    try:
        yield
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != expected:
            raise StackError(f"supervisord: {fault.faultString}") from fault

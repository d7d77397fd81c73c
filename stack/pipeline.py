"""The whole stack: the order in which programs start, and how to tell that they are up."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal

import requests

from stack import connect, environment, kafka, ports, postgres, rabbitmq, redis
from stack.errors import StackError
from stack.home import Home
from stack.supervision import Program, Supervisor

SERVERS = ("postgres", "redis", "epmd", "rabbitmq", "kafka", "connect")
PROCESSES = ("dispatcher", "gateway-8114", "gateway-8115")

START_SECONDS = 120
"""Seconds in which a program must answer. Connect, the slowest, needs about 12 s on two busy cores."""

LOG_LINES = 15
"""Number of log lines in the error for a program that died."""

Report = Callable[[str, str], None]
"""Called with (program or step, "preparing" | "starting" | "up")."""


class Stack:
    """The servers and processes of pipeline mode in one home, on their own ports."""

    def __init__(self, home: Home, port_numbers: ports.Ports | Literal["free"], *, dies_with_us: bool = False) -> None:
        """With `dies_with_us` everything ends when this process ends, for whatever reason; for tests."""
        self.home = home
        self.ports = ports.free_ports() if port_numbers == "free" else port_numbers
        self._supervisor = Supervisor(home, dies_with_us)
        self._given_up = threading.Event()
        self._answers: dict[str, Callable[[], bool]] = {
            "postgres": lambda: postgres.answers(self.home, self.ports),
            "redis": lambda: redis.answers(self.home, self.ports),
            "epmd": lambda: rabbitmq.epmd_answers(self.ports),
            "rabbitmq": lambda: rabbitmq.answers(self.ports),
            "kafka": lambda: kafka.answers(self.ports),
            "connect": lambda: connect.answers(self.ports),
            "dispatcher": lambda: _is_ok(self.ports["STACK_DISPATCHER_METRICS_PORT"], "/metrics"),
            "gateway-8114": lambda: _is_ok(self.ports["STACK_GATEWAY_8114_PORT"], "/ready"),
            "gateway-8115": lambda: _is_ok(self.ports["STACK_GATEWAY_8115_PORT"], "/ready"),
        }

    @classmethod
    def at(cls, home: Home, environ: Mapping[str, str]) -> Stack:
        """Return the stack of this home: on the ports that it is running on, or else on those that it would start
        on.
        """
        runs = home.ports_file.exists() and Supervisor(home).is_running()
        return cls(home, ports.default_ports({}, home.ports_file) if runs else ports.default_ports(environ))

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[Stack]:
        """Yield a stack that is not started yet, on free ports, in a directory that is deleted at the end of the block.

        The directory is not pytest's: those are accessible to us alone, and as root PostgreSQL runs as another user.
        The servers end with this process, even if it is killed.
        """
        home = Home(Path(tempfile.gettempdir()) / f"rowbell-{os.getpid()}-{secrets.token_hex(4)}")
        stack = cls(home, "free", dies_with_us=True)
        try:
            yield stack
        finally:
            stack.remove()

    # Settings for what runs with the stack

    @property
    def settings_env(self) -> dict[str, str]:
        """`ROWBELL_*` of a dispatcher or a gateway."""
        return environment.of_processes(self.home, self.ports)

    @property
    def owner_env(self) -> dict[str, str]:
        """`ROWBELL_*` for migrating; the database login owns the tables."""
        return environment.of_owner(self.home, self.ports)

    def database_url(self, login: str) -> str:
        """Return the URL for the login `gateway`, `app`, `connector`, `rowbell` (the owner) or `postgres` (the
        superuser).
        """
        return postgres.url(self.home, self.ports, login)

    # Starting and stopping everything

    def start(self, report: Report = lambda program, state: None) -> None:
        """Start everything that is not running, and wait until it answers. Can be repeated after a failure.

        Raises StackError if a program does not start, or a port is in use.
        """
        self._start_servers(report, (*SERVERS, *PROCESSES))
        processes = [partial(self._bring_up, name, report) for name in PROCESSES]
        self._together([partial(self._bring_up_connector, report), *processes])

    def start_servers(self, report: Report = lambda program, state: None) -> None:
        """Start the servers only, with tables and connector, but without dispatcher and gateways. Raises StackError as
        `start`.
        """
        self._start_servers(report, SERVERS)
        self._bring_up_connector(report)

    def is_up(self) -> bool:
        """Return whether everything is running and answers."""
        running = self._running()
        return all(name in running and self._answers[name]() for name in (*SERVERS, *PROCESSES))

    def stop(self) -> None:
        """Stop everything that runs in this home, and nothing else; return once it is gone."""
        self._supervisor.stop()

    def remove(self) -> None:
        """Stop everything, and delete the home with its data."""
        self.stop()
        postgres.remove(self.home)
        shutil.rmtree(self.home.path, ignore_errors=True)

    # One program

    def programs(self) -> dict[str, Program]:
        """Return what supervisord reports, by program; empty if it is not running."""
        return self._supervisor.programs()

    def answers(self, program: str) -> bool:
        """Return whether the program answers."""
        return self._answers[program]()

    def start_program(self, program: str) -> None:
        """Start a program and wait until it answers. Raises StackError if it does not."""
        self._supervisor.start_program(program)
        self.wait_until_answers(program)

    def stop_program(self, program: str) -> None:
        """Stop a program as an administrator would, and wait until it is gone."""
        self._supervisor.stop_program(program)

    def kill(self, program: str, with_signal: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a program and its children.

        After SIGKILL supervisord restarts the program by itself; after SIGSTOP return once all its threads have
        stopped. Raises StackError if the program is not running, or does not react.
        """
        if not (pid := self.programs()[program].pid):
            raise StackError(f"{program} is not running")
        os.killpg(pid, with_signal)
        if with_signal == signal.SIGKILL:
            self._wait(lambda: self.programs()[program].pid != pid, lambda: f"{program} did not die")
        elif with_signal == signal.SIGSTOP:
            self._wait(lambda: _is_stopped(pid), lambda: f"{program} did not stop")

    def wait_until_answers(self, program: str) -> None:
        """Wait until the program answers. Raises StackError with the end of its log if it dies, or takes two
        minutes.
        """

        def answers_or_died() -> bool:
            if self.programs()[program].state in {"FATAL", "STOPPED"}:
                raise StackError(f"{program} ended during its start.{self._log_end(program)}")
            return self._answers[program]()

        self._wait(answers_or_died, lambda: f"{program} does not answer.{self._log_end(program)}")

    # Private: the order of a start

    def _start_servers(self, report: Report, programs: tuple[str, ...]) -> None:
        self.home.create()
        running = self._running()
        ports.check_free({name: port for name, port in self.ports.items() if ports.OWNERS[name] in programs}, running)
        environment.write_files(self.home, self.ports)
        self._supervisor.start(environment.of_supervisord(self.home, self.ports))
        self._together(
            [
                lambda: self._bring_up_postgres(report),
                lambda: self._bring_up_redis(report),
                lambda: self._bring_up_rabbitmq(report),
                lambda: self._bring_up_kafka(report),
                lambda: self._bring_up_connect(report),
            ]
        )

    def _bring_up_postgres(self, report: Report) -> None:
        report("postgres", "preparing")
        postgres.prepare(self.home)
        self._bring_up("postgres", report)
        report("tables", "starting")
        postgres.create_logins(self.home, self.ports)
        self._rowbell("migrate")
        postgres.grant_roles(self.home, self.ports)
        report("tables", "up")

    def _bring_up_redis(self, report: Report) -> None:
        redis.prepare(self.home)
        self._bring_up("redis", report)

    def _bring_up_rabbitmq(self, report: Report) -> None:
        rabbitmq.prepare(self.home, self.ports)
        self._bring_up("epmd", report)
        self._bring_up("rabbitmq", report)

    def _bring_up_kafka(self, report: Report) -> None:
        report("kafka", "preparing")
        kafka.prepare(self.home, environment.of_supervisord(self.home, self.ports))
        self._bring_up("kafka", report)
        kafka.create_topics(self.ports)

    def _bring_up_connect(self, report: Report) -> None:
        # It loads its classes while Kafka starts, and by itself waits for Kafka for a minute.
        connect.prepare(self.home, self.ports)
        self._bring_up("connect", report)

    def _bring_up_connector(self, report: Report) -> None:
        report("connector", "starting")
        self._rowbell("connector", "apply")
        report("connector", "up")

    def _bring_up(self, program: str, report: Report) -> None:
        report(program, "starting")
        self.start_program(program)
        report(program, "up")

    def _rowbell(self, *arguments: str) -> None:
        command = [str(environment.BIN / "rowbell"), *arguments]
        ran = subprocess.run(command, env={**os.environ, **self.owner_env}, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise StackError(f"`rowbell {' '.join(arguments)}` failed:\n{(ran.stderr or ran.stdout).strip()}")

    def _together(self, steps: list[Callable[[], None]]) -> None:
        """Run the steps in threads. If one fails, the others stop waiting, and its error is raised."""
        self._given_up.clear()
        with ThreadPoolExecutor(len(steps)) as pool:
            futures = [pool.submit(step) for step in steps]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                self._given_up.set()
        self._given_up.clear()

    # Private: asking

    def _running(self) -> set[str]:
        return {program.name for program in self.programs().values() if program.pid}

    def _log_end(self, program: str) -> str:
        log = self.home.log(program)
        lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
        return "\n".join((f" The end of {log}:", *lines))

    def _wait(self, condition: Callable[[], bool], problem: Callable[[], str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise StackError(problem())
            if self._given_up.is_set():
                raise StackError("Given up, because another step failed")
            time.sleep(0.1)


def _is_stopped(group: int) -> bool:
    """Return whether every thread of the process group has received SIGSTOP, which takes a moment."""
    for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, its_group, *_ = stat.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state not in "TtZX":
                return False
    return True


def _is_ok(port: int, path: str) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}{path}", timeout=5).ok
    except requests.RequestException:
        return False

"""Rowbell's own processes, as the tests run them: real ones, which can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from rowbell.embedded import Home


def free_port(following: int = 0) -> int:
    """One that is free, and so are so many that follow it."""
    while True:
        with contextlib.ExitStack() as probes:
            first = probes.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                for offset in range(1, following + 1):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except (OSError, OverflowError):
                continue
            return port


class Process:
    """`rowbell COMMAND`, with a metrics port of its own; its log goes to a file."""

    more_metrics_ports = 0
    """How many after its own it takes."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path) -> None:
        self.metrics_port = free_port(self.more_metrics_ports)
        self.log = log
        self._command = [sys.executable, "-m", "rowbell", *command]
        self._env = {**os.environ, **env, "ROWBELL_METRICS_PORT": str(self.metrics_port), "ROWBELL_LOG_FORMAT": "json"}
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._env, stderr=log, stdout=log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self, within: float = 20.0) -> int:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._command} did not stop within {within} s:\n{self.tail()}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def metric(self, name: str, **labels: str) -> float:
        """One sample of the process's metrics; 0 if it is not there yet."""
        try:
            text = requests.get(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5).text
        except requests.ConnectionError:
            return 0.0
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    def tail(self) -> str:
        return self.log.read_text()[-3000:]

    def wait_for(self, what: str, condition: Callable[[], bool], within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while not condition():
            assert self.alive, f"{self._command} ended before {what}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{self._command}: not {what} within {within} s:\n{self.tail()}"
            time.sleep(0.05)


class Gateway(Process):
    def __init__(self, env: Mapping[str, str], log: Path, port: int | None = None, *options: str) -> None:
        self.port = port or free_port()
        super().__init__(["serve", "--port", str(self.port), *options], env, log)
        self.wait_until_ready()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{self.port}/ready", timeout=5).status_code == 200
        return False

    def wait_until_ready(self) -> None:
        self.wait_for("ready", self.ready)


class EmbeddedGateway(Gateway):
    """With a PostgreSQL of its own, and the page."""

    def __init__(self, home: Home, log: Path, port: int | None = None) -> None:
        self.home = home
        super().__init__({}, log, port, "--embedded", "--home", str(home.path))

    def env_of_a_person(self) -> dict[str, str]:
        """What sourcing the home's `env` gives."""
        lines = (line.removeprefix("export ").partition("=") for line in self.home.env_file.read_text().splitlines())
        return {name: shlex.split(value)[0] for name, _, value in lines if name.startswith("ROWBELL_")}


class Dispatcher(Process):
    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        super().__init__(["dispatch"], env, log)


@contextlib.contextmanager
def running(*processes: Process) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            if process.alive:
                process.stop()


async def eventually(what: str, condition: object, within: float = 20.0) -> None:
    """Wait until `condition()`, which may be a coroutine function, holds."""
    deadline = time.monotonic() + within
    while True:
        held = condition()  # type: ignore[operator]
        if asyncio.iscoroutine(held):
            held = await held
        if held:
            return
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        await asyncio.sleep(0.05)

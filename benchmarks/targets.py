"""What is measured: Rowbell in each of its modes, as real processes on servers of their own, on free ports."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from rowbell.auth import Tokens
from rowbell.embedded import EmbeddedPostgres, Home
from rowbell.inbox.schema import migrate
from stack import Stack

START_SECONDS = 30.0

IN_GATEWAY = "rowbell_commit_to_socket_seconds"
IN_DISPATCHER = "rowbell_commit_to_dispatch_seconds"


@dataclass
class Target:
    """One running Rowbell."""

    name: str
    urls: Sequence[str]
    """Of the gateways' WebSockets."""
    database_url: str
    """Of whoever owns the tables."""
    secret: str
    """That signs tokens."""
    processes: Mapping[str, int] = field(default_factory=dict)
    """Name → pid of a process that is counted alone."""
    trees: Mapping[str, int] = field(default_factory=dict)
    """Name → pid of a process that is counted with all that it started."""
    metrics: Sequence[str] = ()
    """URLs of every process's metrics."""

    def token(self, user: str) -> str:
        return Tokens(self.secret).issue(user, 3600)

    def cpu(self) -> dict[str, float]:
        """Name → processor seconds so far; those of this benchmark too."""
        used, children = _processes()

        def tree(pid: int) -> float:
            return used.get(pid, 0.0) + sum(tree(child) for child in children.get(pid, ()))

        return {
            **{name: tree(pid) for name, pid in self.trees.items()},
            **{name: used.get(pid, 0.0) for name, pid in self.processes.items()},
            "this benchmark": time.process_time(),
        }

    def histogram(self, metric: str) -> tuple[float, float]:
        """(sum of seconds, count) over all processes."""
        total = count = 0.0
        for url in self.metrics:
            for family in text_string_to_metric_families(requests.get(url, timeout=5).text):
                for sample in family.samples:
                    total += sample.value if sample.name == f"{metric}_sum" else 0
                    count += sample.value if sample.name == f"{metric}_count" else 0
        return total, count


@contextmanager
def pipeline() -> Iterator[Target]:
    """The whole stack: one dispatcher, two gateways."""
    with Stack.temporary() as stack:
        stack.start()
        ports = {program: [stack.ports[name] for name in names] for program, names in _PIPELINE_PORTS.items()}
        yield Target(
            "pipeline",
            [f"ws://127.0.0.1:{port}/ws" for port in ports["gateways"]],
            stack.owner_env["ROWBELL_DATABASE_URL"],
            stack.settings_env["ROWBELL_JWT_SECRET"],
            trees={name: program.pid for name, program in stack.programs().items()},
            metrics=[f"http://127.0.0.1:{port}/metrics" for port in ports["metrics"]],
        )


_PIPELINE_PORTS = {
    "gateways": ("STACK_GATEWAY_8114_PORT", "STACK_GATEWAY_8115_PORT"),
    "metrics": (
        "STACK_DISPATCHER_METRICS_PORT",
        "STACK_GATEWAY_8114_METRICS_PORT",
        "STACK_GATEWAY_8115_METRICS_PORT",
    ),
}


@contextmanager
def embedded() -> Iterator[Target]:
    """`rowbell serve --embedded`: one process, and PostgreSQL."""
    with _temporary_home() as home, ExitStack() as stack:
        gateway = stack.enter_context(_gateway({}, "--embedded", "--home", str(home.path)))
        lines = (line.removeprefix("export ").partition("=") for line in home.env_file.read_text().splitlines())
        env = {name: shlex.split(value)[0] for name, _, value in lines if name.startswith("ROWBELL_")}
        yield Target(
            "embedded",
            [gateway.url],
            env["ROWBELL_DATABASE_URL"],
            env["ROWBELL_JWT_SECRET"],
            processes={"rowbell": gateway.pid},
            trees={"PostgreSQL": _postmaster(home)},
            metrics=[gateway.metrics],
        )


@contextmanager
def postgres_only(gateways: int) -> Iterator[Target]:
    """So many gateways beside one PostgreSQL, that of embedded mode."""
    with _temporary_home() as home, ExitStack() as stack:
        server = stack.enter_context(EmbeddedPostgres(home, _free_port()))
        migrate(server.url("rowbell"))
        server.grant_roles()
        secret = home.secret("jwt")
        env = {"ROWBELL_DATABASE_URL": server.url("gateway"), "ROWBELL_JWT_SECRET": secret}
        started = [stack.enter_context(_gateway(env)) for _ in range(gateways)]
        yield Target(
            f"{gateways} × Postgres-only",
            [gateway.url for gateway in started],
            server.url("rowbell"),
            secret,
            processes={f"gateway {number}": gateway.pid for number, gateway in enumerate(started, 1)},
            trees={"PostgreSQL": _postmaster(home)},
            metrics=[gateway.metrics for gateway in started],
        )


@dataclass(frozen=True)
class _Gateway:
    pid: int
    url: str
    metrics: str


@contextmanager
def _gateway(env: Mapping[str, str], *options: str) -> Iterator[_Gateway]:
    port, metrics = _free_port(), _free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROWBELL_")}
    environ |= {**env, "ROWBELL_METRICS_PORT": str(metrics), "ROWBELL_LOG_LEVEL": "warning"}
    command = [sys.executable, "-m", "rowbell", "serve", "--port", str(port), *options]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    try:
        _wait_until_ready(process, port)
        yield _Gateway(process.pid, f"ws://127.0.0.1:{port}/ws", f"http://127.0.0.1:{metrics}/metrics")
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if requests.get(f"http://127.0.0.1:{port}/ready", timeout=5).ok:
                return
        except requests.ConnectionError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the gateway did not start; what it said stands above")
        time.sleep(0.05)


@contextmanager
def _temporary_home() -> Iterator[Home]:
    directory = Path(tempfile.mkdtemp(prefix="rowbell-benchmark-"))
    directory.chmod(0o711)  # as root, PostgreSQL runs as somebody else
    try:
        yield Home(directory / "home")
    finally:
        shutil.rmtree(directory)


def _postmaster(home: Home) -> int:
    return int((home.path / "embedded" / "postmaster.pid").read_text().split()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processes() -> tuple[dict[int, float], dict[int, list[int]]]:
    """(pid → processor seconds, those of ended children included; pid → children)."""
    ticks = os.sysconf("SC_CLK_TCK")
    used: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            used[int(entry.name)] = sum(map(int, fields[11:15])) / ticks  # proc(5): utime, stime, cutime, cstime
    return used, children

"""The systems under test: Rowbell in each of its modes, as real processes with their own servers, on free ports."""

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
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import requests
from prometheus_client.parser import text_string_to_metric_families

from rowbell.auth import Tokens
from rowbell.embedded import EmbeddedPostgres, Home
from rowbell.inbox.schema import migrate
from stack import Stack

START_SECONDS = 30.0

UNLIMITED = {
    "ROWBELL_MAX_CONNECTIONS": "0",
    "ROWBELL_MAX_CONNECT_RATE": "0",
    "ROWBELL_MAX_CONNECT_RATE_PER_ADDRESS": "0",
    "ROWBELL_MAX_SESSIONS_PER_USER": "0",
}
"""Settings of a gateway without limits on connections."""

IN_GATEWAY = "rowbell_commit_to_socket_seconds"
IN_DISPATCHER = "rowbell_commit_to_dispatch_seconds"


@dataclass
class Target:
    """A running Rowbell."""

    name: str
    urls: Sequence[str]
    """URLs of the gateways' WebSockets."""
    database_url: str
    """URL with the login of the tables' owner."""
    secret: str
    """The key that signs tokens."""
    processes: Mapping[str, int] = field(default_factory=dict)
    """Name → pid of a process that is counted without its children."""
    trees: Mapping[str, int] = field(default_factory=dict)
    """Name → pid of a process that is counted with all its descendants."""
    metrics: Sequence[str] = ()
    """URLs of the metrics of every process."""
    stack: Stack | None = None
    """The stack, in pipeline mode."""

    def token(self, user: str) -> str:
        """Return a token for the user that is valid for an hour."""
        return Tokens(self.secret).issue(user, 3600)

    def cpu(self) -> dict[str, float]:
        """Return name → processor seconds so far, including those of this benchmark."""
        used, children = _processes()

        def tree(pid: int) -> float:
            return used.get(pid, 0.0) + sum(tree(child) for child in children.get(pid, ()))

        return {
            **{name: tree(pid) for name, pid in self.trees.items()},
            **{name: used.get(pid, 0.0) for name, pid in self.processes.items()},
            "this benchmark": time.process_time(),
        }

    def counter(self, metric: str, labels: Mapping[str, str]) -> float:
        """Return the counter's value, summed over all processes."""
        return sum(
            sample.value
            for url in self.metrics
            for family in text_string_to_metric_families(requests.get(url, timeout=5).text)
            for sample in family.samples
            if sample.name == metric and sample.labels == labels
        )

    def histogram(self, metric: str) -> tuple[float, float]:
        """Return (sum of seconds, count) over all processes."""
        total = count = 0.0
        for url in self.metrics:
            for family in text_string_to_metric_families(requests.get(url, timeout=5).text):
                for sample in family.samples:
                    total += sample.value if sample.name == f"{metric}_sum" else 0
                    count += sample.value if sample.name == f"{metric}_count" else 0
        return total, count


@contextmanager
def pipeline() -> Iterator[Target]:
    """Run the whole stack: one dispatcher, two gateways."""
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
            stack=stack,
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
    """Run `rowbell serve --embedded`: one process, and PostgreSQL."""
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


@dataclass(frozen=True)
class Beside:
    """What a gateway needs, without the gateway."""

    env: Mapping[str, str]
    """The gateway's settings; its database login is `gateway`."""
    database_url: str
    """URL with the login of the tables' owner."""
    superuser_url: str
    log: Path
    """PostgreSQL's log file."""

    def gateway(self) -> AbstractContextManager[Gateway]:
        """Run a gateway."""
        return _gateway(self.env)

    def token(self, user: str) -> str:
        """Return a token for the user that is valid for an hour."""
        return Tokens(self.env["ROWBELL_JWT_SECRET"]).issue(user, 3600)


@contextmanager
def beside(settings: Mapping[str, str]) -> Iterator[Beside]:
    """Run a PostgreSQL, for gateways with these settings that come and go, all on the same port."""
    with _temporary_home() as home, _database(home) as (server, env):
        superuser_url = f"postgresql://postgres:{home.secret('postgres')}@127.0.0.1:{server.port}/postgres"
        settings = {**env, **settings, "ROWBELL_PORT": str(free_port())}
        yield Beside(settings, server.url("rowbell"), superuser_url, server.log)


@contextmanager
def fed(reader: int) -> Iterator[Target]:
    """Run a gateway whose bus is the pipe with this file descriptor; see `benchmarks.fed_gateway`."""
    with _temporary_home() as home, ExitStack() as stack:
        server, env = stack.enter_context(_database(home))
        program = ("-m", "benchmarks.fed_gateway", str(reader))
        gateway = stack.enter_context(_process(env | UNLIMITED, program, [reader]))
        processes = {"gateway": gateway.pid}
        yield Target("fed", [gateway.url], server.url("rowbell"), env["ROWBELL_JWT_SECRET"], processes)


@contextmanager
def postgres_only(gateways: int, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Target]:
    """Run this many gateways, with these settings, and one PostgreSQL, that of embedded mode."""
    with _temporary_home() as home, ExitStack() as stack:
        server, env = stack.enter_context(_database(home))
        started = [stack.enter_context(_gateway({**env, **settings})) for _ in range(gateways)]
        yield Target(
            f"{gateways} × Postgres-only",
            [gateway.url for gateway in started],
            server.url("rowbell"),
            env["ROWBELL_JWT_SECRET"],
            processes={f"gateway {number}": gateway.pid for number, gateway in enumerate(started, 1)},
            trees={"PostgreSQL": _postmaster(home)},
            metrics=[gateway.metrics for gateway in started],
        )


@contextmanager
def _database(home: Home) -> Iterator[tuple[EmbeddedPostgres, dict[str, str]]]:
    """Run a PostgreSQL with the tables; yield it and the settings of a gateway."""
    with EmbeddedPostgres(home, free_port()) as server:
        migrate(server.url("rowbell"))
        server.grant_roles()
        yield server, {"ROWBELL_DATABASE_URL": server.url("gateway"), "ROWBELL_JWT_SECRET": home.secret("jwt")}


@dataclass(frozen=True)
class Gateway:
    """A running gateway: its process id, and the URLs of its WebSockets and metrics."""

    pid: int
    url: str
    metrics: str


def _gateway(env: Mapping[str, str], *options: str) -> AbstractContextManager[Gateway]:
    return _process(env, ("-m", "rowbell", "serve", *options))


@contextmanager
def _process(env: Mapping[str, str], program: Sequence[str], pass_fds: Sequence[int] = ()) -> Iterator[Gateway]:
    port, metrics = int(env.get("ROWBELL_PORT") or free_port()), free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ROWBELL_")}
    environ |= {"ROWBELL_PORT": str(port), "ROWBELL_METRICS_PORT": str(metrics), "ROWBELL_LOG_LEVEL": "warning", **env}
    process = subprocess.Popen(
        [sys.executable, *program], env=environ, stdout=subprocess.DEVNULL, pass_fds=tuple(pass_fds)
    )
    try:
        _wait_until_ready(process, port)
        yield Gateway(process.pid, f"ws://127.0.0.1:{port}/ws", f"http://127.0.0.1:{metrics}/metrics")
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
            raise RuntimeError("the gateway did not start; see its output above")
        time.sleep(0.05)


@contextmanager
def _temporary_home() -> Iterator[Home]:
    directory = Path(tempfile.mkdtemp(prefix="rowbell-benchmark-"))
    directory.chmod(0o711)  # as root, PostgreSQL runs as another user
    try:
        yield Home(directory / "home")
    finally:
        shutil.rmtree(directory)


def _postmaster(home: Home) -> int:
    return int((home.path / "embedded" / "postmaster.pid").read_text().split()[0])


def free_port() -> int:
    """Return a port that is currently free on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _processes() -> tuple[dict[int, float], dict[int, list[int]]]:
    """Return (pid → processor seconds, including those of ended children; pid → children)."""
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

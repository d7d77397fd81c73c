"""The ports that the programs listen on, all on 127.0.0.1."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from rowbell.embedded.server import is_busy
from stack.errors import StackError

DEFAULTS = Path(__file__).with_name("ports.env")

FREE_RANGE = range(20_000, 30_000)
"""Below 32768, where Linux begins to assign ports to outgoing connections: one of those could take a port between the
moment it is found free and the moment its server listens."""

OWNERS = {
    "STACK_POSTGRES_PORT": "postgres",
    "STACK_REDIS_PORT": "redis",
    "STACK_EPMD_PORT": "epmd",
    "STACK_RABBITMQ_PORT": "rabbitmq",
    "STACK_RABBITMQ_DISTRIBUTION_PORT": "rabbitmq",
    "STACK_KAFKA_PORT": "kafka",
    "STACK_KAFKA_CONTROLLER_PORT": "kafka",
    "STACK_CONNECT_PORT": "connect",
    "STACK_GATEWAY_8114_PORT": "gateway-8114",
    "STACK_GATEWAY_8114_METRICS_PORT": "gateway-8114",
    "STACK_GATEWAY_8115_PORT": "gateway-8115",
    "STACK_GATEWAY_8115_METRICS_PORT": "gateway-8115",
    "STACK_DISPATCHER_METRICS_PORT": "dispatcher",
}
"""Name of a port → the program that listens on it."""

Ports = dict[str, int]


def default_ports(environ: Mapping[str, str], file: Path = DEFAULTS) -> Ports:
    """Return the ports of `file`, each overridden by the environment variable of its name. Raises StackError for an
    invalid port.
    """
    return {name: _port(name, environ.get(name) or text) for name, text in _assignments(file)}


def free_ports() -> Ports:
    """Return ports that are currently free, for a stack beside others."""
    candidates = iter(random.sample(FREE_RANGE, len(FREE_RANGE)))
    return {name: next(port for port in candidates if not is_busy(port)) for name in OWNERS}


def check_free(ports: Ports, running: Iterable[str]) -> None:
    """Raise StackError, naming each port that is in use, except those of our own `running` programs."""
    busy = [name for name, port in ports.items() if OWNERS[name] not in running and is_busy(port)]
    if busy:
        raise StackError("\n".join(_complaint(name, ports[name]) for name in busy))


def _assignments(file: Path) -> list[tuple[str, str]]:
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [(name.strip(), text.strip()) for name, _, text in (line.partition("=") for line in lines if line)]


def _port(name: str, text: str) -> int:
    if name not in OWNERS:
        raise StackError(f"{name} in {DEFAULTS} is not a port of the stack. The ports are: {', '.join(OWNERS)}")
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 65535:
        raise StackError(f"{name}={text} is not a port: give a number from 1 to 65535")
    return int(text)


def _complaint(name: str, port: int) -> str:
    return (
        f"Port {port} is busy, and {OWNERS[name]} needs it. See who has it: ss -ltnp 'sport = :{port}'. "
        f"Or use another: make stack {name}={port + 10_000 if port < 50_000 else port - 10_000}, "
        f"or change it in stack/ports.env"
    )

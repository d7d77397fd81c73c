"""RabbitMQ and its port mapper, separate from any other Erlang program on this machine."""

from __future__ import annotations

import socket
from pathlib import Path

from stack.errors import StackError
from stack.home import Home, write_private
from stack.ports import Ports

INSTALLED = Path("/usr/lib/rabbitmq/lib")

USER = "rowbell"

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
"""What an AMQP 0-9-1 client sends first; a server that is up answers with a method frame, whose type is 1."""


EPMD_NAMES_REQUEST = b"\x00\x01n"
"""Length 1, then NAMES_REQ, which asks for the registered nodes."""


def server() -> Path:
    """Return the script that starts the server. Raises StackError if there is none."""
    scripts = sorted(INSTALLED.glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if not scripts:
        raise StackError(f"RabbitMQ is missing in {INSTALLED}. To install it: apt-get install rabbitmq-server")
    return scripts[-1]


def prepare(home: Home, ports: Ports) -> None:
    """Write the configuration. RabbitMQ creates the user on its first start, instead of its well-known `guest`."""
    directory = home.directory("rabbitmq")
    lines = (
        f"listeners.tcp.1 = 127.0.0.1:{ports['STACK_RABBITMQ_PORT']}",
        f"default_user = {USER}",
        f"default_pass = {home.secret('rabbitmq')}",
        "log.console.level = warning",
    )
    write_private(directory / "rabbitmq.conf", "\n".join(lines) + "\n")
    write_private(directory / "enabled_plugins", "[].\n")


def url(home: Home, ports: Ports) -> str:
    """Return the AMQP URL."""
    return f"amqp://{USER}:{home.secret('rabbitmq')}@127.0.0.1:{ports['STACK_RABBITMQ_PORT']}/"


def answers(ports: Ports) -> bool:
    """Return whether the server speaks AMQP; it listens once everything else in it is up."""
    return _converse(ports["STACK_RABBITMQ_PORT"], PROTOCOL_HEADER).startswith(b"\x01")


def epmd_answers(ports: Ports) -> bool:
    """Return whether epmd lists its names."""
    return _converse(ports["STACK_EPMD_PORT"], EPMD_NAMES_REQUEST) != b""


def _converse(port: int, request: bytes) -> bytes:
    """Send a request, and return the first bytes of the answer, or none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(request)
            return connection.recv(16)
    except OSError:
        return b""

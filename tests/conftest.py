"""The real servers, one set for the whole run. A server that is missing is an error, not a skip."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import Home, Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL with the tables, Redis, RabbitMQ, Kafka, and Connect with the connector; no process of Rowbell.

    On free ports, in a directory that the stack makes itself: pytest's own let nobody but us through, and as root
    PostgreSQL runs as somebody else. The servers end with this process even if it is killed.
    """
    home = Home(Path(tempfile.gettempdir()) / f"rowbell-{os.getpid()}-{secrets.token_hex(4)}")
    stack = Stack(home, "free", dies_with_us=True)
    try:
        stack.start_servers()
        yield stack
    finally:
        stack.remove()

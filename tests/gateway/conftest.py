"""A gateway in this process: a real PostgreSQL and real sockets, presence and bus in memory."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import psycopg
import pytest

from rowbell.auth import Tokens
from rowbell.bus.memory import MemoryBus
from rowbell.config import Settings
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.server import listen, serve
from rowbell.inbox import Inbox
from rowbell.inbox.schema import migrate
from rowbell.presence.memory import MemoryPresence
from tests.integration.processes import eventually
from tests.integration.subscriber import Subscriber
from tests.postgres_server import PostgresServer, debian, running

TOKENS = Tokens("a key for tests that has thirty-two bytes")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running(debian(15)) as server:
        migrate(server.url("postgres"))
        yield server


@dataclass
class Running:
    gateway: Gateway
    bus: MemoryBus
    presence: MemoryPresence
    port: int
    serving: asyncio.Task[None]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def subscriber(self, user: str, ack: str = "auto", badge: bool = False) -> Subscriber:
        return Subscriber(self.url, TOKENS.issue(user, 3600), ack, reconnect=False, badge=badge)

    async def stop(self) -> None:
        """As an administrator does."""
        os.kill(os.getpid(), signal.SIGTERM)
        await self.serving


@pytest.fixture
async def running_gateway(server: PostgresServer, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """With the settings that the test names, if any, as the fixture's parameter."""
    settings: Settings = getattr(request, "param", Settings())
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests under nohup ignores it
    inbox = Inbox.connect(server.url("postgres"))
    presence, bus = MemoryPresence(), MemoryBus()
    gateway = Gateway(inbox, presence, bus, TOKENS, lambda: False, settings)  # not streaming: the sweep hurries
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(serve(gateway, listener))
    running = Running(gateway, bus, presence, listener.getsockname()[1], serving)
    await eventually("the gateway is ready", lambda: _ready(gateway))
    try:
        yield running
    finally:
        if not serving.done():
            await running.stop()
        await inbox.close()


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    async with await psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True) as connection:
        yield connection


async def _ready(gateway: Gateway) -> bool:
    return await gateway.ready() is None

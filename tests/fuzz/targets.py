"""What is attacked: two gateways beside one PostgreSQL, one as it comes, one without the limits on how much and how
fast, and with less room where there is much, so that an attack gets to what lies behind a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.tokens import SECRET
from tests.fuzz.watch import Footprint, Log, files, resident
from tests.integration.processes import Gateway, running
from tests.postgres_server import PostgresServer, debian, migrated
from tests.postgres_server import running as postgres_running

UNLIMITED = {
    "ROWBELL_MAX_CONNECTIONS": "0",
    "ROWBELL_MAX_SESSIONS_PER_USER": "0",
    "ROWBELL_MAX_CONNECT_RATE": "0",
    "ROWBELL_MAX_CONNECT_RATE_PER_ADDRESS": "0",
    "ROWBELL_MAX_FRAME_RATE": "0",
    "ROWBELL_MAX_SUBSCRIPTIONS": "100",
    "ROWBELL_MAX_UNACKNOWLEDGED": "40",
}
REST_WITHIN = 30.0
"""Seconds after the last client is gone in which a gateway must have forgotten all of them: those that do not answer a
close have some, and what is to be marked as read is written first."""


@dataclass
class Target:
    gateway: Gateway
    log: Log
    memory: list[float] = field(default_factory=list)
    """MiB after each round."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.gateway.port

    def footprint(self) -> Footprint:
        metric = self.gateway.metric
        connections, sessions = int(metric("rowbell_connections")), int(metric("rowbell_sessions"))
        return Footprint(connections, sessions, int(metric("rowbell_subscriptions")), files(self.gateway.pid))

    async def come_to_rest(self, at_rest: Footprint) -> str | None:
        """Wait until all clients are forgotten; what is left behind, if some are not."""
        deadline = time.monotonic() + REST_WITHIN
        while True:
            left = (await asyncio.to_thread(self.footprint)).left(at_rest)
            if left is None or time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.2)

    def note_memory(self) -> None:
        self.memory.append(resident(self.gateway.pid))


@dataclass
class Targets:
    server: PostgresServer
    database: str
    each: list[Target]

    @property
    def database_url(self) -> str:
        """The owner's."""
        return self.server.url(self.database)


@contextmanager
def targets(logs: Path) -> Iterator[Targets]:
    with postgres_running(debian(15)) as server, migrated(server) as database:
        with server.connect() as connection:
            connection.execute("ALTER ROLE a_gateway REPLICATION")
        settings = {
            "ROWBELL_JWT_SECRET": SECRET,
            "ROWBELL_DATABASE_URL": server.url(database, "a_gateway"),
            "ROWBELL_PUBLIC_TOPICS": "status",
            "ROWBELL_LOG_LEVEL": "info",
        }
        names = {"gateway-0": settings, "gateway-1": settings | UNLIMITED}
        gateways = [Gateway(env, logs / f"{name}.log") for name, env in names.items()]
        with running(*gateways):
            yield Targets(server, database, [Target(gateway, Log(gateway.log)) for gateway in gateways])

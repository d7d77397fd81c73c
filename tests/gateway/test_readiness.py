"""What /ready says, and what it costs whoever answers it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from rowbell.auth import Rules, Tokens
from rowbell.auth.keyring import Keyring
from rowbell.bus.memory import MemoryBus
from rowbell.config import Settings
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.readiness import PROBE_TIMEOUT
from rowbell.gateway.server import Stop, listen, serve
from rowbell.inbox import Inbox
from rowbell.inbox.schema import migrate
from rowbell.presence.memory import MemoryPresence
from tests.auth.issuer import Issuer, serving
from tests.gateway.conftest import TOKENS, Running
from tests.integration.processes import eventually, free_port
from tests.postgres_server import PostgresServer, debian, running


async def test_many_who_ask_cost_one_question_to_postgresql(
    running_gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, asked = running_gateway.gateway, 0
    ping = gateway._inbox.ping

    async def counted() -> None:
        nonlocal asked
        asked += 1
        await ping()

    monkeypatch.setattr(gateway._inbox, "ping", counted)
    assert await asyncio.gather(*(gateway.ready() for _ in range(200))) == [None] * 200
    assert asked <= 1  # none, if the answer of a moment ago still holds


async def test_strangers_are_not_told_where_postgresql_is_and_why_it_is_away() -> None:
    with running(debian(15)) as server:
        migrate(server.url("postgres"))
        inbox = Inbox.connect(server.url("postgres"))
        async with a_gateway(inbox, TOKENS) as gateway:
            await eventually("ready", lambda: _says(gateway, None))
            with capture_logs() as logs:
                server.kill()
                await eventually("noticed", lambda: _says(gateway, "PostgreSQL does not answer"), PROBE_TIMEOUT + 10)
                await eventually("the sweep too", lambda: any(each["event"] == "sweep_failed" for each in logs))
                server.start()
                await eventually("ready again", lambda: _says(gateway, None))
            # but the log is, once for each reason
            assert [each["event"] for each in logs].count("probe_failed") == 1
            reasons = [each["reason"] for each in logs if each["event"] == "sweep_failed"]
            assert all(earlier != later for earlier, later in pairwise(reasons)), reasons


async def test_a_gateway_that_has_never_read_its_issuers_keys_is_not_ready(server: PostgresServer) -> None:
    port = free_port()
    tokens = Tokens(Keyring.of(Settings(jwt_jwks=f"http://127.0.0.1:{port}/jwks.json")), Rules())
    inbox = Inbox.connect(server.url("postgres"))
    async with a_gateway(inbox, tokens) as gateway:
        await eventually("all but the keys", lambda: _says(gateway, "the issuer's keys could not be read yet"))
        with serving(port) as issuer:
            assert isinstance(issuer, Issuer)
            await eventually("ready", lambda: _says(gateway, None))
        assert await gateway.ready() is None, "the keys of the last time stay good"


@asynccontextmanager
async def a_gateway(inbox: Inbox, tokens: Tokens) -> AsyncIterator[Gateway]:
    """It runs for the block, at the end of which the inbox is closed."""
    gateway = Gateway(inbox, MemoryPresence(), MemoryBus(), tokens, lambda: False)
    stops: list[Stop] = []
    running = asyncio.create_task(
        serve(gateway, listen("127.0.0.1", 0), beside={"tokens": tokens.run}, started=stops.append)
    )
    try:
        yield gateway
    finally:
        for stop in stops:
            stop()
        await running
        await inbox.close()


async def _says(gateway: Gateway, what: str | None) -> bool:
    return await gateway.ready() == what

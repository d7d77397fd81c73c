"""Every stock client at a gateway that is killed, and comes back on its port."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.clients.stock import RECONNECT, Client, Kind, Settings, starting
from tests.integration.processes import Gateway, running
from tests.integration.rows import Database, insert
from tests.integration.subscriber import assert_nothing_twice
from tests.integration.systems import PostgresOnly

pytestmark = pytest.mark.asyncio(loop_scope="package")


@dataclass
class Survivor:
    user: str
    client: Client
    before: int
    """A row that it had."""
    meanwhile: int = 0
    """A row that was committed while there was no gateway."""


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def survivors(
    chromium: Browser, postgres_only: PostgresOnly, owner: Database, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[Kind, Survivor]]:
    gateway = Gateway(postgres_only.settings, tmp_path_factory.mktemp("restart") / "gateway.log")
    with running(gateway):
        async with starting(chromium) as start:

            async def survivor(kind: Kind) -> Survivor:
                user = f"alice-{uuid.uuid4().hex[:8]}"
                client = await start(kind, Settings(gateway.url, postgres_only.token(user)))
                await client.until("the replay", lambda: client.replayed)
                before = await insert(owner, user)
                await client.message(before, "created")
                return Survivor(user, client, before)

            # Given
            survivors = dict(zip(RECONNECT, await asyncio.gather(*map(survivor, RECONNECT)), strict=True))
            # When
            await asyncio.to_thread(gateway.kill)
            for each in survivors.values():
                await each.client.until("it notices", lambda client=each.client: client.closed)
                each.meanwhile = await insert(owner, each.user)
            gateway.start()
            await asyncio.to_thread(gateway.wait_until_ready)
            yield survivors


@pytest.mark.parametrize("kind", RECONNECT, ids=str)
async def test_a_killed_gateway_loses_nothing_and_what_comes_again_is_marked(
    kind: Kind, survivors: dict[Kind, Survivor], owner: Database
) -> None:
    survivor = survivors[kind]
    client = survivor.client
    await client.until("it is back", lambda: len(client.subscriptions) == 2 and client.replayed)
    assert client.now.ids() == [survivor.before, survivor.meanwhile]
    assert all(message.headers["replayed"] == "true" for message in client.now.messages)
    after = await insert(owner, survivor.user)
    assert "replayed" not in (await client.message(after, "created")).headers
    await client.unread(3)
    assert_nothing_twice(client)
    assert client.errors == []

"""A running gateway, two of which stand beside one PostgreSQL, as the tests of the protocol see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.integration.rows import Database, insert
from tests.integration.systems import PostgresOnly
from tests.protocol.two import Two
from tests.protocol.wire import Site, Wire

Names = Callable[[str], str]


@pytest.fixture(scope="session")
def site(postgres_only: PostgresOnly) -> Site:
    return Site(postgres_only.gateway(0), postgres_only.env["ROWBELL_JWT_SECRET"])


@pytest.fixture
async def two(site: Site, database: Database, user: Names) -> Two:
    alice, bob = user("alice"), user("bob")
    return Two(site, database, alice, bob, await insert(database, alice), await insert(database, bob))


@pytest.fixture
async def alice(two: Two) -> AsyncIterator[Wire]:
    """Her session, with a subscription to her notifications."""
    async with two.site.connected(two.alice) as wire:
        await wire.subscribe("own")
        yield wire

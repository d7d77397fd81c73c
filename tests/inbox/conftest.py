"""Each test has a database of its own, connections that write to it, and an inbox with the rights of a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.inbox import Inbox
from tests.postgres_server import PostgresServer, migrated, postgres, postgres18

__all__ = ["postgres", "postgres18"]


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> Iterator[str]:
    with migrated(postgres) as name:
        yield name


@pytest.fixture
def database(postgres: PostgresServer, template: str) -> Iterator[str]:
    with postgres.database(template) as name:
        yield name


@pytest.fixture
def sql(postgres: PostgresServer, database: str) -> Iterator[Connection[TupleRow]]:
    """A superuser's connection in autocommit mode."""
    with postgres.connect(database) as connection:
        yield connection


@pytest.fixture
def other(postgres: PostgresServer, database: str) -> Iterator[Connection[TupleRow]]:
    """A second one, for a transaction that stays open."""
    with postgres.connect(database) as connection:
        yield connection


@pytest_asyncio.fixture
async def inbox(postgres: PostgresServer, database: str) -> AsyncIterator[Inbox]:
    """In an epoch that stands."""
    inbox = Inbox.connect(postgres.url(database, "a_gateway"))
    await inbox.new_epoch()
    yield inbox
    await inbox.close()


@pytest_asyncio.fixture
async def another(postgres: PostgresServer, database: str) -> AsyncIterator[Inbox]:
    """A second gateway's."""
    inbox = Inbox.connect(postgres.url(database, "a_gateway"))
    yield inbox
    await inbox.close()

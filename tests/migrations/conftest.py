"""Everything about the schema is tested on the oldest and on the newest PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from tests.postgres_server import PostgresServer, migrated, postgres, postgres18

__all__ = ["postgres", "postgres18"]


@pytest.fixture(scope="session", params=["postgres", "postgres18"])
def server(request: pytest.FixtureRequest) -> PostgresServer:
    chosen: PostgresServer = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(scope="session")
def template(server: PostgresServer) -> Iterator[str]:
    with migrated(server) as name:
        yield name


@pytest.fixture
def bare(server: PostgresServer) -> Iterator[str]:
    """The name of a database without our tables."""
    with server.database() as name:
        yield name


@pytest.fixture
def database(server: PostgresServer, template: str) -> Iterator[str]:
    """The name of a database with our tables."""
    with server.database(template) as name:
        yield name


@pytest.fixture
def sql(server: PostgresServer, database: str) -> Iterator[Connection[TupleRow]]:
    """A superuser's connection, in autocommit mode, to the database with our tables."""
    with server.connect(database) as connection:
        yield connection

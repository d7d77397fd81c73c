"""The whole pipeline on real servers: the stack, one dispatcher, two gateways."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from rowbell.auth import Tokens
from stack import Stack
from tests.integration.processes import Dispatcher, Gateway, running
from tests.integration.subscriber import Subscriber

Database = psycopg.AsyncConnection[tuple[object, ...]]


@dataclass
class Pipeline:
    stack: Stack
    dispatcher: Dispatcher
    gateways: tuple[Gateway, Gateway]

    def token(self, user: str) -> str:
        return Tokens(self.stack.settings_env["ROWBELL_JWT_SECRET"]).issue(user, 3600)

    def subscriber(self, user: str, gateway: int = 0, ack: str = "auto", reconnect: bool = True) -> Subscriber:
        return Subscriber(self.gateways[gateway].url, self.token(user), ack, reconnect)


@pytest.fixture(scope="session")
def pipeline(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    logs: Path = tmp_path_factory.mktemp("processes")
    dispatcher = Dispatcher(stack.settings_env, logs / "dispatcher.log")
    gateways = tuple(Gateway(stack.settings_env, logs / f"gateway-{n}.log") for n in (1, 2))
    with running(dispatcher, *gateways):
        yield Pipeline(stack, dispatcher, gateways)  # type: ignore[arg-type]


@pytest.fixture
async def database(stack: Stack) -> AsyncIterator[Database]:
    """The login of an application, in autocommit."""
    url = stack.owner_env["ROWBELL_DATABASE_URL"]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names that no other test has: `user("alice")`."""
    suffix = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{suffix}"


async def insert(database: Database, recipient: str, title: str = "Hello", **columns: object) -> int:
    """Commit one row; its id."""
    names = ["recipient_id", "title", *columns]
    statement = f"INSERT INTO notification ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) RETURNING id"
    cursor = await database.execute(statement.encode(), [recipient, title, *columns.values()])
    row = await cursor.fetchone()
    assert row is not None
    return int(str(row[0]))


async def unread(database: Database, recipient: str) -> list[int]:
    cursor = await database.execute(
        "SELECT id FROM unread_notification WHERE recipient_id = %s ORDER BY id", [recipient]
    )
    return [int(str(id)) for (id,) in await cursor.fetchall()]


async def delivered(database: Database, recipient: str) -> set[int]:
    cursor = await database.execute("SELECT notification_id FROM notification_delivery WHERE user_id = %s", [recipient])
    return {int(str(id)) for (id,) in await cursor.fetchall()}

"""The real servers, and the whole pipeline on them: one set for the whole run. One that is missing is an error."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from stack import Stack
from tests.integration.pipeline import Pipeline
from tests.integration.processes import Dispatcher, Gateway, running
from tests.integration.rows import Database


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL with the tables, Redis, RabbitMQ, Kafka, and Connect with the connector; no process of Rowbell."""
    with Stack.temporary() as stack:
        stack.start_servers()
        yield stack


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Faults come last: what tests the servers in their calm must not find them just recovering."""
    items.sort(key=lambda item: "chaos" in item.path.parts)

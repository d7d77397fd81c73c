"""A gateway with the page in a process of its own, and Chromium, as a person has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from rowbell.auth import Tokens
from tests.chromium import launched
from tests.integration import processes
from tests.integration.processes import Gateway
from tests.postgres_server import PostgresServer, debian, migrated, running

SECRET = "a key for tests that has thirty-two bytes"
TOKENS = Tokens(SECRET)

ANSWERS_OF_THE_NETWORK = "Failed to load resource"
"""The browser's own words about a request that was refused, or found no server: what the tests bring about."""

TIMEOUT = 10_000
"""Milliseconds until something that should be seen counts as missing."""
expect.set_options(timeout=TIMEOUT)


class Served(Gateway):
    """A gateway with the page: `rowbell serve`, which can be killed and started again on its port."""

    def __init__(self, postgres: PostgresServer, database: str, log: Path) -> None:
        self.database_url = postgres.url(database)
        """As the owner of the tables."""
        self.app_url = postgres.url(database, "an_app")
        env = {
            "ROWBELL_DATABASE_URL": postgres.url(database, "a_gateway"),
            "ROWBELL_PAGE_DATABASE_URL": self.app_url,
            "ROWBELL_JWT_SECRET": SECRET,
        }
        super().__init__(env, log)

    def page(self, user: str) -> str:
        return f"http://127.0.0.1:{self.port}/#{user}"


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("page") / "gateway.log"
    with running(debian(15)) as postgres, migrated(postgres) as database:
        with postgres.connect() as connection:
            connection.execute("ALTER ROLE a_gateway REPLICATION")
        gateway = Served(postgres, database, log)
        with processes.running(gateway):
            yield gateway


@pytest.fixture
def rows(served: Served) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """The owner of the tables, in autocommit."""
    with psycopg.connect(served.database_url, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


Open = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="package")
async def open_window(chromium: Browser, served: Served) -> AsyncIterator[Open]:
    """Opens a window of its own, with the options of a Playwright context; at the end, none may have complained."""
    complaints: list[str] = []
    contexts = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(ANSWERS_OF_THE_NETWORK):
            complaints.append(message.text)

    async def open_window(user: str, *, script: str | None = None, **options: object) -> Page:
        context = await chromium.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        page = await context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if script is not None:
            await page.add_init_script(script)
        await page.goto(served.page(user))
        return page

    yield open_window
    for context in contexts:
        await context.close()
    assert complaints == []

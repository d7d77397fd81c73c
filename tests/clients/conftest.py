"""Chromium, the owner of the tables, and clients that end with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest_asyncio
from playwright.async_api import Browser

from tests.chromium import launched
from tests.clients.stock import Start, starting
from tests.clients.tap import Tap
from tests.integration.rows import Database
from tests.integration.systems import PostgresOnly


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium() -> AsyncIterator[Browser]:
    async with launched() as browser:
        yield browser


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def owner(postgres_only: PostgresOnly) -> AsyncIterator[Database]:
    """Of the tables beside which the gateways of `postgres_only` stand, in autocommit."""
    async with await psycopg.AsyncConnection.connect(postgres_only.database_url, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture(loop_scope="package")
async def start(chromium: Browser) -> AsyncIterator[Start]:
    """Starts a client, which ends with the test."""
    async with starting(chromium) as start:
        yield start


@pytest_asyncio.fixture(loop_scope="package")
async def tap(postgres_only: PostgresOnly) -> AsyncIterator[Tap]:
    """Before a gateway."""
    async with Tap(postgres_only.gateway(0).port) as tap:
        yield tap

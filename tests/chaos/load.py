"""A steady load of single-row transactions, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

RATE = 500
"""Rows a second."""


class Load:
    """`async with load(url, users, count) as rows:` commits rows beside whatever the body does; leaving it waits."""

    def __init__(self) -> None:
        self.committed: dict[str, list[int]] = {}
        """Tracks recipient → ids whose commit was confirmed, in order of commit."""
        self.count = 0

    def of(self, recipient: str) -> set[int]:
        return set(self.committed.get(recipient, ()))


@asynccontextmanager
async def load(url: str, users: list[str], count: int = 2000, rate: int = RATE) -> AsyncIterator[Load]:
    rows = Load()
    writer = asyncio.create_task(_write(rows, url, users, count, rate))
    try:
        yield rows
        await writer
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _write(rows: Load, url: str, users: list[str], count: int, rate: int) -> None:
    connection = None
    begun = time.monotonic()
    for n in range(count):
        recipient = users[n % len(users)]
        while True:
            try:
                if connection is None or connection.closed:
                    connection = await psycopg.AsyncConnection.connect(url, autocommit=True, connect_timeout=2)
                cursor = await connection.execute(
                    "INSERT INTO notification (recipient_id, title) VALUES (%s, %s) RETURNING id", [recipient, f"n{n}"]
                )
                row = await cursor.fetchone()
                break
            except psycopg.OperationalError:
                # Not confirmed: it may have been committed or not; only what was confirmed is expected.
                await asyncio.sleep(0.05)
        assert row is not None
        rows.committed.setdefault(recipient, []).append(int(row[0]))
        rows.count += 1
        await asyncio.sleep(max(0.0, begun + (n + 1) / rate - time.monotonic()))
    if connection is not None:
        await connection.close()

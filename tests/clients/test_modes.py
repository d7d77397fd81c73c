"""Stock clients in each of the three modes: a row is committed by any means, and they have it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.clients.stock import KINDS, NOTIFICATIONS, Settings, starting
from tests.integration.processes import eventually
from tests.integration.rows import Database, delivered, unread
from tests.integration.systems import System

Names = Callable[[str], str]

STOMPJS, STOMP_PY = (next(kind for kind in KINDS if kind.name == name) for name in ("stompjs-7", "stomp.py-9"))


@pytest.mark.parametrize("ack", ["auto", "client", "client-individual"])
async def test_an_insert_of_two_columns_with_psql_reaches_stompjs(
    system: System, database: Database, user: Names, ack: str
) -> None:
    alice = user("alice")
    async with starting() as start:
        # Given
        client = await start(STOMPJS, Settings(system.gateway(0).url, system.token(alice), {NOTIFICATIONS: ack}))
        await client.until("the replay", lambda: client.replayed)
        assert client.connected[0]["user-name"] == alice
        # When
        statement = f"INSERT INTO notification (recipient_id, title) VALUES ('{alice}', 'Hello')"
        psql = await asyncio.to_thread(
            subprocess.run, ["psql", system.database_url, "-c", statement], capture_output=True, text=True
        )
        assert psql.stdout == "INSERT 0 1\n", psql.stderr
        # Then
        await client.until("the row", lambda: client.messages)
        [message] = client.messages
        row = json.loads(message.body)
        assert (row["event"], row["title"], row["recipientId"], row["version"]) == ("created", "Hello", alice, 1)
        assert message.headers["destination"] == NOTIFICATIONS
        assert "replayed" not in message.headers
        # When
        if ack != "auto":
            await client.acknowledge(message)

        # Then
        async def written() -> bool:
            return await delivered(database, alice) == {row["id"]}

        await eventually("the delivery is recorded", written)
        assert await unread(database, alice) == [row["id"]], "delivered is not read"


async def test_a_row_that_rowbell_sends_reaches_stomp_py_at_another_gateway(
    system: System, database: Database, user: Names
) -> None:
    alice = user("alice")
    async with starting() as start:
        # Given
        settings = Settings(system.gateway(1).url, system.token(alice), {NOTIFICATIONS: "client-individual"})
        client = await start(STOMP_PY, settings)
        await client.until("the replay", lambda: client.replayed)
        # When
        sent = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "rowbell", "send", alice, "Grüße 👋"],
            env={**os.environ, **system.env},
            capture_output=True,
            text=True,
            check=True,
        )
        # Then
        message = await client.message(int(sent.stdout), "created")
        assert json.loads(message.body)["title"] == "Grüße 👋"
        # When
        await client.acknowledge(message)
        await client.disconnect()
        await client.receipt("bye")
        # Then
        assert await delivered(database, alice) == {int(sent.stdout)}

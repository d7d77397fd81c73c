"""The table as an application and the tests see it."""

from __future__ import annotations

import psycopg

Database = psycopg.AsyncConnection[tuple[object, ...]]


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

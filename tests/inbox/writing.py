"""Rows as an application writes them."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import TupleRow


def insert(sql: Connection[TupleRow], recipient: str = "alice", **values: object) -> int:
    """Commit one row, or add it to the transaction; the value is its id."""
    row = {"recipient_id": recipient, "title": "Hello"} | values
    columns, places = ", ".join(row), ", ".join(["%s"] * len(row))
    found = sql.execute(
        f"INSERT INTO notification ({columns}) VALUES ({places}) RETURNING id".encode(), list(row.values())
    ).fetchone()
    assert found is not None
    id: int = found[0]
    return id


def insert_many(sql: Connection[TupleRow], count: int, recipient: str = "alice") -> None:
    sql.execute(
        "INSERT INTO notification (recipient_id, title) SELECT %s, 'Hello' FROM generate_series(1, %s)",
        (recipient, count),
    )


def transaction_of(sql: Connection[TupleRow], id: int) -> int:
    """The transaction that last changed this row."""
    found = sql.execute("SELECT changed_tx FROM notification WHERE id = %s", (id,)).fetchone()
    assert found is not None
    tx: int = found[0]
    return tx

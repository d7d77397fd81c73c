"""How PostgreSQL runs the statements in a table of many rows: by an index, whatever the snapshot."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from psycopg import Connection
from psycopg.rows import TupleRow
from sqlalchemy import TextClause, text

from rowbell.inbox import schema, statements
from tests.inbox.writing import insert_many
from tests.postgres_server import PostgresServer

GIVEN = {
    "epoch": uuid4(),
    "floor_xmax": 10**9,
    "floor_xip": [],
    "first_xmax": 0,
    "first_xip": [],
    "through": 0,
    "ids": list(range(1000)),
    "versions": [1] * 1000,
    "withheld": [7],
}
"""What a subscription has been given: nearly everything."""


@pytest.fixture
def full(sql: Connection[TupleRow]) -> Connection[TupleRow]:
    """Many rows, each in one of many inboxes, and many tombstones."""
    sql.execute("""
        INSERT INTO notification (recipient_id, title)
        SELECT 'user-' || n % 500, 'Hello' FROM generate_series(1, 40000) AS n
    """)
    sql.execute("DELETE FROM notification WHERE id % 2 = 0")
    insert_many(sql, 10)
    sql.execute("ANALYZE notification, notification_deleted")
    return sql


def plan(url: str, statement: TextClause, **parameters: object) -> str:
    with schema.connected(url) as connection:
        explain = text(f"EXPLAIN {statement.text}").bindparams(
            *(parameter for parameter in statements.PARAMETERS if parameter.key in parameters)
        )
        return "\n".join(line for (line,) in connection.execute(explain, parameters))


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (statements.KEYS, {"most": 5001}),
        (statements.KEYS_OF, {"most": 1000, "recipients": ["alice", "user-1"]}),
        (statements.UNREAD_IDS, {"recipients": ["alice", "user-1"]}),
        (statements.CHANGED_IDS, {"recipients": ["alice", "user-1"]}),
        (statements.DELETIONS, {"recipients": ["alice", "user-1"]}),
        (statements.ROWS, {"ids": [1, 3, 5]}),
        (statements.COUNT_UNREAD, {"recipients": ["alice", "user-1"], "most": 1001}),
        (statements.EXPIRED, {"recipients": ["alice", "user-1"], "since": datetime.now(UTC)}),
        (statements.MARK_IDS, {"recipient": "user-1", "ids": [1, 3, 5]}),
        (statements.MARK_GIVEN, {"recipient": "user-1", "most": 5000, "after": 0, **GIVEN}),
    ],
    ids=[
        *("KEYS", "KEYS_OF", "UNREAD_IDS", "CHANGED_IDS", "DELETIONS", "ROWS"),
        *("COUNT_UNREAD", "EXPIRED", "MARK_IDS", "MARK_GIVEN"),
    ],
)
def test_no_statement_reads_a_whole_table(
    postgres: PostgresServer, full: Connection[TupleRow], statement: TextClause, parameters: dict[str, object]
) -> None:
    """As after a tick behind one old writer: a few newer transactions, and one far below them."""
    (xmax,) = full.execute("SELECT max(changed_tx) FROM notification").fetchone() or ()
    snapshot = {"xmax": xmax, "xip": [xmax - 100]} if ":xmax" in statement.text else {}
    found = plan(postgres.url(full.info.dbname), statement, **parameters, **snapshot)
    assert "Seq Scan" not in found.replace("Seq Scan on rowbell_epoch", "its one row"), found
    assert "Index" in found, found

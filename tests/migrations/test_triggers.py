"""What the triggers write, whatever the writer says."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import TupleRow


def one(sql: Connection[TupleRow], query: str) -> TupleRow:
    row = sql.execute(query.encode()).fetchone()
    assert row is not None, query
    return row


def insert(sql: Connection[TupleRow], recipient: str = "alice") -> int:
    (id,) = one(sql, f"INSERT INTO notification (recipient_id, title) VALUES ('{recipient}', 'Hello') RETURNING id")
    assert isinstance(id, int)
    return id


def test_an_insert_carries_version_1_and_its_transaction_whatever_it_says(sql: Connection[TupleRow]) -> None:
    with sql.transaction():
        sql.execute("""
            INSERT INTO notification (recipient_id, title, version, inserted_tx, changed_tx)
            VALUES ('alice', 'Hello', 7, 8, 9)
        """)
        (tx,) = one(sql, "SELECT pg_current_xact_id()::text::bigint")
    assert one(sql, "SELECT version, inserted_tx, changed_tx FROM notification") == (1, tx, tx)


def test_an_update_counts_the_version_up_and_keeps_the_inserting_transaction(sql: Connection[TupleRow]) -> None:
    # given
    insert(sql)
    (inserted,) = one(sql, "SELECT inserted_tx FROM notification")
    # when
    with sql.transaction():
        sql.execute("UPDATE notification SET read_at = now(), version = 70, inserted_tx = 1, changed_tx = 1")
        (tx,) = one(sql, "SELECT pg_current_xact_id()::text::bigint")
    # then
    assert tx > inserted
    assert one(sql, "SELECT version, inserted_tx, changed_tx FROM notification") == (2, inserted, tx)


def test_a_savepoint_carries_the_transaction_not_the_subtransaction(sql: Connection[TupleRow]) -> None:
    with sql.transaction():
        (tx,) = one(sql, "SELECT pg_current_xact_id()::text::bigint")
        with sql.transaction():
            insert(sql)
    assert one(sql, "SELECT inserted_tx, changed_tx FROM notification") == (tx, tx)


@pytest.mark.parametrize("change", ["recipient_id = 'bob'", "id = DEFAULT"])
def test_a_row_never_changes_its_recipient_or_id(sql: Connection[TupleRow], change: str) -> None:
    id = insert(sql)
    with pytest.raises(psycopg.errors.RaiseException) as refusal:
        sql.execute(f"UPDATE notification SET {change}".encode())
    assert refusal.value.diag.message_primary == f"notification {id}: id and recipient_id never change"
    assert refusal.value.diag.message_hint == "Delete the row and insert a new one."


def test_a_restored_row_with_a_future_transaction_gets_the_present_one(sql: Connection[TupleRow]) -> None:
    # given: what a restore leaves, which writes without triggers
    insert(sql)
    sql.execute("ALTER TABLE notification DISABLE TRIGGER notification_stamp")
    sql.execute("UPDATE notification SET inserted_tx = 1000000000, changed_tx = 1000000000")
    sql.execute("ALTER TABLE notification ENABLE ALWAYS TRIGGER notification_stamp")
    # when
    sql.execute("UPDATE notification SET read_at = read_at")
    # then
    inserted, changed = one(sql, "SELECT inserted_tx, changed_tx FROM notification")
    assert inserted == changed < 1000000000


def test_a_deletion_leaves_a_tombstone_with_its_transaction(sql: Connection[TupleRow]) -> None:
    id = insert(sql)
    with sql.transaction():
        sql.execute("DELETE FROM notification")
        (tx,) = one(sql, "SELECT pg_current_xact_id()::text::bigint")
    assert one(sql, "SELECT id, recipient_id, deleted_tx FROM notification_deleted") == (id, "alice", tx)


def test_a_deletion_that_is_rolled_back_leaves_none(sql: Connection[TupleRow]) -> None:
    insert(sql)
    with sql.transaction(force_rollback=True):
        sql.execute("DELETE FROM notification")
    assert one(sql, "SELECT count(*) FROM notification_deleted") == (0,)


def test_a_row_deleted_a_second_time_has_the_later_tombstone(sql: Connection[TupleRow]) -> None:
    # given
    insert(sql)
    sql.execute("DELETE FROM notification")
    (first,) = one(sql, "SELECT deleted_tx FROM notification_deleted")
    # when: put back by an administrator, and deleted again
    sql.execute("""
        INSERT INTO notification (id, recipient_id, title) OVERRIDING SYSTEM VALUE
        SELECT id, recipient_id, 'Back' FROM notification_deleted
    """)
    sql.execute("DELETE FROM notification")
    # then
    (second,) = one(sql, "SELECT deleted_tx FROM notification_deleted")
    assert second > first


def test_truncate_is_refused_with_advice(sql: Connection[TupleRow]) -> None:
    insert(sql)
    with pytest.raises(psycopg.errors.RaiseException) as refusal:
        sql.execute("TRUNCATE notification")
    assert refusal.value.diag.message_primary == (
        "notification cannot be truncated: connected clients would not hear of it"
    )
    assert refusal.value.diag.message_hint == "Use DELETE."
    assert one(sql, "SELECT count(*) FROM notification") == (1,)


def test_the_triggers_fire_under_logical_apply_too(sql: Connection[TupleRow]) -> None:
    # given
    sql.execute("SET session_replication_role = replica")
    # when
    sql.execute("INSERT INTO notification (recipient_id, title, changed_tx) VALUES ('alice', 'Hello', 9)")
    (changed,) = one(sql, "SELECT changed_tx FROM notification")
    sql.execute("DELETE FROM notification")
    # then
    assert changed > 9
    assert one(sql, "SELECT count(*) FROM notification_deleted") == (1,)
    with pytest.raises(psycopg.errors.RaiseException, match="cannot be truncated"):
        sql.execute("TRUNCATE notification")

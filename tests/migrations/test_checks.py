"""Bad input gets a clear error at the INSERT, in the writer's own transaction; what is just within bounds passes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import Connection, sql
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("notification_recipient_id_check", {"recipient_id": ""}),
    ("notification_recipient_id_check", {"recipient_id": "a" * 256}),
    ("notification_recipient_id_check", {"recipient_id": "a\nb"}),
    ("notification_recipient_id_check", {"recipient_id": "a\x7f"}),
    ("notification_recipient_id_check", {"recipient_id": "a/b"}),
    ("notification_recipient_id_check", {"recipient_id": "a*"}),
    ("notification_recipient_id_check", {"recipient_id": "#"}),
    ("notification_recipient_id_check", {"recipient_id": "alice:bob"}),
    ("notification_recipient_id_check", {"recipient_id": "topic:"}),
    ("notification_recipient_id_check", {"recipient_id": "topic:a:b"}),
    ("notification_recipient_id_check", {"recipient_id": "a\ntopic:b"}),
    ("notification_title_check", {"title": ""}),
    ("notification_title_check", {"title": "é" * 501}),
    ("notification_title_check", {"title": "bell \x07"}),
    ("notification_title_check", {"title": "escape \x1b[0m"}),
    ("notification_type_check", {"type": ""}),
    ("notification_type_check", {"type": "T" * 101}),
    ("notification_type_check", {"type": "NEW COMMENT"}),
    ("notification_type_check", {"type": "COMMENT\n"}),
    ("notification_type_check", {"type": "CAFÉ"}),
    ("notification_channel_check", {"channel": ""}),
    ("notification_channel_check", {"channel": "C" * 51}),
    ("notification_channel_check", {"channel": "in_app"}),
    ("notification_actor_id_check", {"actor_id": "a" * 256}),
    ("notification_actor_id_check", {"actor_id": "\x01"}),
    ("notification_dedup_key_check", {"dedup_key": ""}),
    ("notification_dedup_key_check", {"dedup_key": "k" * 256}),
    ("notification_body_check", {"body": "é" * 8193}),
    ("notification_body_check", {"body": "\x0b"}),
    ("notification_data_check", {"data": Jsonb([])}),
    ("notification_data_check", {"data": Jsonb("text")}),
    ("notification_data_check", {"data": Jsonb(None)}),
    ("notification_data_check", {"data": Jsonb({"a": "x" * 24576})}),
    ("notification_created_at_check", {"created_at": "infinity"}),
    ("notification_created_at_check", {"created_at": "1969-12-31 23:59:59.999999+00"}),
    ("notification_created_at_check", {"created_at": "10000-01-01 00:00:00+00"}),
    ("notification_expires_at_check", {"expires_at": "-infinity"}),
    ("notification_expires_at_check", {"expires_at": "infinity"}),
    ("notification_read_at_check", {"read_at": "0044-03-15 12:00:00+00 BC"}),
    ("notification_id_is_a_javascript_integer", {"id": 2**53}),
    ("notification_id_is_a_javascript_integer", {"id": 0}),
]

TAKEN: list[dict[str, Any]] = [
    {"recipient_id": "a" * 255},
    {"recipient_id": "Zoë <zoe@example.org> +1"},
    {"recipient_id": "topic:news"},
    {"title": "é" * 500},
    {"title": "tab\tand\r\nline"},
    {"type": "T" * 100},
    {"type": "order.shipped-v2_B"},
    {"channel": "C" * 50},
    {"actor_id": "a" * 255},
    {"actor_id": ""},
    {"dedup_key": "k" * 255},
    {"body": "é" * 8192},
    {"body": ""},
    {"data": Jsonb({"a": "x" * (24576 - len('{"a": ""}'))})},
    {"created_at": "1970-01-01 00:00:00+00"},
    {"expires_at": "9999-12-31 23:59:59.999999+00"},
    {"read_at": "1970-01-01 00:00:00+00"},
    {"id": 2**53 - 1},
    {"id": 1},
]


def insert(session: Connection[TupleRow], values: dict[str, Any]) -> None:
    row = {"recipient_id": "alice", "title": "Hello"} | values
    session.execute(
        sql.SQL("INSERT INTO notification ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(map(sql.Literal, row.values()))
        )
    )


def test_each_value_out_of_bounds_is_refused_with_the_name_of_its_check(sql: Connection[TupleRow]) -> None:
    for constraint, values in REFUSED:
        with pytest.raises(psycopg.errors.CheckViolation) as refusal:
            insert(sql, values)
        assert refusal.value.diag.message_primary == (
            f'new row for relation "notification" violates check constraint "{constraint}"'
        ), values


def test_each_value_at_its_bound_is_taken(sql: Connection[TupleRow]) -> None:
    for values in TAKEN:
        insert(sql, values)
        sql.execute("DELETE FROM notification")


def test_every_check_is_tried(sql: Connection[TupleRow]) -> None:
    checks = sql.execute(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = 'notification'::regclass"
    )
    assert {name for (name,) in checks} == {constraint for constraint, _ in REFUSED}


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO rowbell_epoch (one) VALUES (false)", "rowbell_epoch_one_check"),
        ("INSERT INTO rowbell_heartbeat VALUES (2, now())", "rowbell_heartbeat_id_check"),
    ],
)
def test_tables_of_one_row_have_one_row(sql: Connection[TupleRow], statement: str, constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=constraint):
        sql.execute(statement.encode())


def test_the_two_columns_of_the_readme_are_enough(sql: Connection[TupleRow]) -> None:
    sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
    row = sql.execute("SELECT type, body, data, channel, read_at, version FROM notification").fetchone()
    assert row == ("GENERIC", None, {}, "IN_APP", None, 1)


def test_an_id_is_never_the_writer_s_to_choose(sql: Connection[TupleRow]) -> None:
    with pytest.raises(psycopg.errors.GeneratedAlways, match='cannot insert a non-DEFAULT value into column "id"'):
        sql.execute("INSERT INTO notification (id, recipient_id, title) VALUES (7, 'alice', 'Hello')")


def test_a_dedup_key_makes_an_insert_idempotent_for_its_recipient(sql: Connection[TupleRow]) -> None:
    # given
    statement = (
        "INSERT INTO notification (recipient_id, title, dedup_key) VALUES (%s, 'Hello', %s) ON CONFLICT DO NOTHING"
    )
    # when
    for recipient, key in [("alice", "k"), ("alice", "k"), ("bob", "k"), ("alice", None), ("alice", None)]:
        sql.execute(statement.encode(), (recipient, key))
    # then
    rows = sql.execute("SELECT recipient_id, dedup_key FROM notification ORDER BY id").fetchall()
    assert rows == [("alice", "k"), ("bob", "k"), ("alice", None), ("alice", None)]


def test_a_null_where_a_value_is_needed_is_refused(sql: Connection[TupleRow]) -> None:
    for column in ("recipient_id", "title", "type", "data", "channel", "created_at"):
        with pytest.raises(psycopg.errors.NotNullViolation, match=f'null value in column "{column}"'):
            insert(sql, {column: None})

"""What rows say, to the byte as the dispatcher renders them from the stream."""

from __future__ import annotations

import json

import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.inbox import Inbox
from rowbell.notification import Change, with_event
from tests.inbox.writing import insert, transaction_of


async def row(inbox: Inbox, id: int) -> Change:
    [change] = await inbox.rows([id])
    return change


async def test_a_row_is_rendered_with_every_column(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    id = insert(
        sql,
        title='Zoë said: "hi"',
        type="COMMENT",
        body="line\nline",
        data='{"postId": "p-100", "n": [1, 2.50]}',
        actor_id="user-123",
        created_at="2026-11-22T09:14:00.791291Z",
        expires_at="9999-12-31T23:59:59.999999Z",
    )
    # when
    change = await row(inbox, id)
    # then
    tx = transaction_of(sql, id)
    assert (change.id, change.recipient_id, change.version) == (id, "alice", 1)
    assert (change.inserted_tx, change.tx, change.committed_at) == (tx, tx, 0)
    assert (change.read, change.hidden, change.incomplete) == (False, False, False)
    assert json.loads(with_event("created", change)) == {
        "event": "created",
        "id": id,
        "version": 1,
        "recipientId": "alice",
        "type": "COMMENT",
        "title": 'Zoë said: "hi"',
        "body": "line\nline",
        "data": {"postId": "p-100", "n": [1, 2.50]},
        "actorId": "user-123",
        "channel": "IN_APP",
        "createdAt": 1795338840791,
        "expiresAt": 253402300799999,
        "readAt": None,
    }


async def test_data_is_the_text_that_postgresql_prints(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    """Replication prints the same: numbers keep their digits and no Unicode is escaped."""
    id = insert(sql, data='{"b":1.50,  "a":"é","big":12345678901234567890.10}')
    (text,) = sql.execute("SELECT data::text FROM notification").fetchone() or ()
    change = await row(inbox, id)
    assert change.json is not None
    assert f'"data":{text},' in change.json
    assert text == '{"a": "é", "b": 1.50, "big": 12345678901234567890.10}'


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000999Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("2026-11-22T09:14:00.791999Z", 1795338840791),
        ("2026-11-22T10:14:00.792+01", 1795338840792),
        ("9999-12-31T23:59:59.999999Z", 253402300799999),
    ],
)
async def test_times_are_whole_milliseconds_rounded_down(
    inbox: Inbox, sql: Connection[TupleRow], written: str, milliseconds: int
) -> None:
    id = insert(sql, created_at=written, read_at=written, expires_at=written)
    change = await row(inbox, id)
    shown = json.loads(with_event("updated", change))
    assert (shown["createdAt"], shown["readAt"], shown["expiresAt"]) == (milliseconds,) * 3


async def test_a_read_row_and_a_hidden_one_say_so(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    read, hidden = insert(sql, read_at="2026-01-01"), insert(sql, channel="EMAIL")
    assert (await row(inbox, read)).read
    change = await row(inbox, hidden)
    assert change.hidden
    assert change.json is None


async def test_rows_come_by_id_whoever_they_are_for_and_missing_ones_are_left_out(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    # given
    first, gone, second = insert(sql, "bob"), insert(sql), insert(sql, "topic:news")
    sql.execute("DELETE FROM notification WHERE id = %s", (gone,))
    # when
    rows = await inbox.rows({second, gone, first, 999_999})
    # then
    assert [(change.id, change.recipient_id) for change in rows] == [(first, "bob"), (second, "topic:news")]


async def test_no_ids_no_rows(inbox: Inbox) -> None:
    assert await inbox.rows([]) == []

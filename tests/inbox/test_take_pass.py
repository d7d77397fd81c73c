"""Which rows a subscription has to be shown: the unread ones, or what its floor did not see."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from psycopg import Connection
from psycopg.rows import TupleRow
from psycopg.types.json import Jsonb
from sqlalchemy import event

from rowbell.inbox import Found, Inbox
from rowbell.snapshot import EMPTY, Snapshot
from tests.inbox.writing import insert, insert_many, transaction_of


def watch(inbox: Inbox, see: Callable[[str], object]) -> None:
    """Call `see` with each statement before it is sent."""
    event.listen(inbox._engine.sync_engine, "before_cursor_execute", lambda *args: see(args[2]))


async def take(inbox: Inbox, recipient: str = "alice", floor: Snapshot = EMPTY) -> Found:
    passes = await inbox.take_pass([(recipient, floor)])
    assert passes.epoch is not None
    [found] = passes.found
    return found


async def floor_of(inbox: Inbox) -> Snapshot:
    """A snapshot that has seen all that is committed."""
    return (await inbox.take_pass([])).first


async def test_a_full_replay_is_the_unread_rows_oldest_first(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    ids = [insert(sql, title=f"row {n}") for n in range(5)]
    sql.execute("UPDATE notification SET data = '{}' WHERE id = %s", (ids[0],))  # the row moves, its place does not
    found = await take(inbox)
    assert found == Found(array("q", ids), {})


async def test_what_is_read_expired_hidden_or_a_topic_s_is_not_replayed(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    # given
    unread = insert(sql, expires_at="9999-01-01", data=Jsonb({"a": 1}))
    insert(sql, read_at="2026-01-01")
    insert(sql, expires_at="2026-01-01")
    insert(sql, channel="EMAIL")
    insert(sql, "topic:news")
    insert(sql, "bob")
    deleted = insert(sql)
    sql.execute("DELETE FROM notification WHERE id = %s", (deleted,))
    # when
    passes = await inbox.take_pass([("alice", EMPTY), ("topic:news", EMPTY)])
    # then
    assert passes.found == [Found(array("q", [unread])), Found()]


async def test_an_empty_inbox_has_nothing_to_show(inbox: Inbox) -> None:
    assert await take(inbox) == Found(array("q"), {})


async def test_a_pass_from_a_floor_is_everything_that_it_did_not_see(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    seen, read, hidden, doomed = (insert(sql) for _ in range(4))
    floor = await floor_of(inbox)
    # when: not in the order of their ids
    sql.execute("UPDATE notification SET channel = 'EMAIL' WHERE id = %s", (hidden,))
    sql.execute("UPDATE notification SET read_at = now() WHERE id = %s", (read,))
    sql.execute("DELETE FROM notification WHERE id = %s", (doomed,))
    made = insert(sql)
    insert(sql, "bob")
    # then
    (tx,) = sql.execute("SELECT deleted_tx FROM notification_deleted").fetchone() or ()
    assert await take(inbox, floor=floor) == Found(array("q", [read, hidden, made]), {doomed: tx})
    assert seen not in (await take(inbox, floor=floor)).ids


async def test_a_pass_from_a_floor_has_what_was_still_open_under_it(
    inbox: Inbox, sql: Connection[TupleRow], other: Connection[TupleRow]
) -> None:
    # given
    doomed = insert(sql)
    with other.transaction():
        late = insert(other)
        other.execute("DELETE FROM notification WHERE id = %s", (doomed,))
        newer = insert(sql)
        floor = await floor_of(inbox)
    assert floor.visible(transaction_of(sql, newer))
    # when
    found = await take(inbox, floor=floor)
    # then
    assert found.ids == array("q", [late])
    assert list(found.deleted) == [doomed]


async def test_found_stands_in_the_order_of_the_requests_whatever_their_floors(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    # given
    alice, bob = insert(sql, "alice"), insert(sql, "bob")
    floor = await floor_of(inbox)
    later = insert(sql, "bob")
    # when
    passes = await inbox.take_pass(
        [("bob", floor), ("alice", EMPTY), ("bob", EMPTY), ("alice", floor), ("nobody", EMPTY), ("bob", floor)]
    )
    # then
    assert [list(found.ids) for found in passes.found] == [[later], [alice], [bob, later], [], [], [later]]


async def test_rows_and_tombstones_are_of_one_moment(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    """They are two statements; what is committed between them belongs to the next pass."""
    # given
    floor = await floor_of(inbox)
    doomed = insert(sql)

    def delete_between(statement: str) -> None:
        if "notification_deleted" in statement:
            sql.execute("DELETE FROM notification")

    watch(inbox, delete_between)
    # when
    passes = await inbox.take_pass([("alice", floor)])
    # then
    assert passes.found == [Found(array("q", [doomed]), {})]
    next_pass = await take(inbox, floor=passes.first)
    assert list(next_pass.deleted) == [doomed]


async def test_thousands_of_subscribers_share_one_query(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    sql.execute(
        "INSERT INTO notification (recipient_id, title) SELECT 'user-' || n, 'Hello' FROM generate_series(1, 3000) AS n"
    )
    sent: list[str] = []
    watch(inbox, sent.append)
    # when
    passes = await inbox.take_pass([(f"user-{n}", EMPTY) for n in range(1, 3001)])
    # then
    assert [len(found.ids) for found in passes.found] == [1] * 3000
    assert len([statement for statement in sent if "unread_notification" in statement]) == 1


async def test_a_large_inbox_comes_as_eight_bytes_a_row(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    insert_many(sql, 100_000)
    found = await take(inbox)
    assert len(found.ids) == 100_000
    assert found.ids.itemsize == 8
    assert list(found.ids) == sorted(found.ids)


async def test_an_id_of_53_bits_comes_as_it_is(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    sql.execute(
        "INSERT INTO notification (id, recipient_id, title) OVERRIDING SYSTEM VALUE VALUES (%s, 'alice', 'Hello')",
        (2**53 - 1,),
    )
    assert list((await take(inbox)).ids) == [2**53 - 1]

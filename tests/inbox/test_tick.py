"""What changed since the last look: nothing that commits is ever missed, however late."""

from __future__ import annotations

import psycopg
from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.inbox import Inbox, Key, Revocation
from rowbell.inbox.inbox import OF_ONE, UNFILTERED
from rowbell.notification import DELETED
from tests.inbox.writing import insert, insert_many, transaction_of


def nobody() -> list[str]:
    return []


async def test_the_first_look_has_a_snapshot_and_no_keys(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    id = insert(sql)
    tick = await inbox.tick(None, nobody)
    assert tick.keys == []
    assert tick.epoch is not None
    assert tick.snapshot.visible(transaction_of(sql, id))


async def test_a_row_committed_since_the_last_look_is_a_key(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    insert(sql)
    before = await inbox.tick(None, nobody)
    id = insert(sql, "bob")
    # when
    tick = await inbox.tick(before.snapshot, nobody)
    # then
    assert tick.keys == [Key(id, "bob", 1, transaction_of(sql, id))]
    assert (await inbox.tick(tick.snapshot, nobody)).keys == []


async def test_an_update_is_a_key_with_its_version(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    id = insert(sql)
    before = await inbox.tick(None, nobody)
    # when
    sql.execute("UPDATE notification SET read_at = now()")
    sql.execute("UPDATE notification SET channel = 'EMAIL'")
    # then
    tick = await inbox.tick(before.snapshot, nobody)
    assert tick.keys == [Key(id, "alice", 3, transaction_of(sql, id))]


async def test_a_deletion_is_a_key_with_the_transaction_that_deleted(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    id = insert(sql)
    before = await inbox.tick(None, nobody)
    # when
    sql.execute("DELETE FROM notification")
    # then
    tick = await inbox.tick(before.snapshot, nobody)
    (tx,) = sql.execute("SELECT deleted_tx FROM notification_deleted").fetchone() or ()
    assert tick.keys == [Key(id, "alice", DELETED, tx)]
    assert (await inbox.tick(tick.snapshot, nobody)).keys == []


async def test_a_transaction_that_commits_late_is_found_by_the_look_after_its_commit(
    inbox: Inbox, sql: Connection[TupleRow], other: Connection[TupleRow]
) -> None:
    # given: a writer that inserts and deletes, and stays open while others commit and the gateway looks
    doomed = insert(sql)
    tick = await inbox.tick(None, nobody)
    with other.transaction():
        late = insert(other, "late")
        other.execute("DELETE FROM notification WHERE id = %s", (doomed,))
        for _ in range(3):
            insert(sql, "early")
            tick = await inbox.tick(tick.snapshot, nobody)
            assert {key.recipient_id for key in tick.keys} == {"early"}
    # when
    tick = await inbox.tick(tick.snapshot, nobody)
    # then
    assert {(key.id, key.version) for key in tick.keys} == {(late, 1), (doomed, DELETED)}
    assert (await inbox.tick(tick.snapshot, nobody)).keys == []


async def test_what_is_rolled_back_is_never_a_key(
    inbox: Inbox, sql: Connection[TupleRow], other: Connection[TupleRow]
) -> None:
    before = await inbox.tick(None, nobody)
    with other.transaction(force_rollback=True):
        insert(other)
        during = await inbox.tick(before.snapshot, nobody)
    after = await inbox.tick(during.snapshot, nobody)
    assert during.keys == after.keys == []


async def test_recipients_are_asked_when_the_snapshot_has_been_taken(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    """Who registers after that pages from a newer snapshot: nothing falls between the two."""
    # given
    before = await inbox.tick(None, nobody)
    committed: list[int] = []

    def recipients() -> list[str]:
        committed.append(insert(sql))
        return ["alice", "bob"]

    # when
    tick = await inbox.tick(before.snapshot, recipients)
    # then
    assert tick.recipients == {"alice", "bob"}
    assert not tick.snapshot.visible(transaction_of(sql, committed[0]))
    assert tick.keys == []
    assert [key.id for key in (await inbox.tick(tick.snapshot, nobody)).keys] == committed


async def test_many_changes_are_read_for_the_registered_only(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    # given
    mine = insert(sql, "alice")
    before = await inbox.tick(None, nobody)
    insert_many(sql, UNFILTERED + 1, "somebody-else")
    sql.execute("DELETE FROM notification WHERE id = %s", (mine,))
    other = insert(sql, "alice")
    # when
    tick = await inbox.tick(before.snapshot, lambda: ["alice", "bob"])
    # then
    assert {(key.id, key.version) for key in tick.keys} == {(mine, DELETED), (other, 1)}


async def test_so_many_changes_are_read_for_all(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    before = await inbox.tick(None, nobody)
    insert_many(sql, UNFILTERED - 1, "somebody-else")
    doomed = insert(sql, "alice")
    sql.execute("DELETE FROM notification WHERE id = %s", (doomed,))
    tick = await inbox.tick(before.snapshot, nobody)
    assert len(tick.keys) == UNFILTERED
    assert (doomed, DELETED) in {(key.id, key.version) for key in tick.keys}


async def test_of_one_recipient_with_very_many_changes_not_all_are_read(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    # given
    before = await inbox.tick(None, nobody)
    insert_many(sql, UNFILTERED + 1, "alice")
    bobs = insert(sql, "bob")
    # when
    tick = await inbox.tick(before.snapshot, lambda: ["alice", "bob"])
    # then
    assert len([key for key in tick.keys if key.recipient_id == "alice"]) == OF_ONE
    assert [key.id for key in tick.keys if key.recipient_id == "bob"] == [bobs]


async def test_a_token_taken_back_is_seen_once_and_at_a_first_look_all_are(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    sql.execute("INSERT INTO notification_revocation (user_id, before) VALUES ('a', '2026-01-01T00:00:00Z')")
    first = await inbox.tick(None, nobody)
    sql.execute(
        "INSERT INTO notification_revocation (user_id, before) "
        "VALUES ('b', '2026-01-01T00:00:00.5Z'), ('b', '2025-01-01T00:00:00Z')"
    )
    second = await inbox.tick(first.snapshot, nobody)
    assert first.revocations == [Revocation("a", 1767225600.0)]
    assert second.revocations == [Revocation("b", 1767225600.5)]
    assert (await inbox.tick(second.snapshot, nobody)).revocations == []
    assert len((await inbox.tick(None, nobody)).revocations) == 2


async def test_a_token_taken_back_in_a_long_transaction_is_seen_when_it_commits(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    with psycopg.connect(sql.info.dsn, password=sql.info.password) as late:
        late.execute("INSERT INTO notification_revocation (user_id) VALUES ('late')")
        insert(sql)
        before = await inbox.tick(None, nobody)
        insert(sql)
        between = await inbox.tick(before.snapshot, nobody)
    after = await inbox.tick(between.snapshot, nobody)
    assert (before.revocations, between.revocations) == ([], [])
    assert [each.user for each in after.revocations] == ["late"]

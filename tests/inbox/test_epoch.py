"""When PostgreSQL hands out transaction ids a second time, it is noticed, and gateways agree on a new epoch."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.inbox import Inbox
from rowbell.snapshot import EMPTY, Snapshot
from tests.inbox.writing import insert, transaction_of
from tests.postgres_server import PostgresServer, debian, migrated, running, wheel

FUTURE = Snapshot(10**15, 10**15)
"""A snapshot from a time that, after a restore, is yet to come."""


def nobody() -> list[str]:
    return []


@pytest.fixture(params=[debian(15), wheel()], ids=["15", "18"])
def mortal(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server of the test's own, to be killed."""
    with running(request.param) as server:
        yield server


class TestWhetherItStands:
    async def test_before_the_first_gateway_there_is_none(self, another: Inbox) -> None:
        assert (await another.tick(None, nobody)).epoch is None
        passes = await another.take_pass([("alice", EMPTY)])
        assert passes.epoch is None
        assert len(passes.found) == 1

    async def test_every_look_at_the_table_names_the_same_one(self, inbox: Inbox, another: Inbox) -> None:
        tick = await inbox.tick(None, nobody)
        passes = await another.take_pass([("alice", EMPTY)])
        assert tick.epoch is not None
        assert passes.epoch == tick.epoch
        assert tick.epoch.purged_tx < tick.snapshot.xmax

    @pytest.mark.parametrize("restored", ["system = system + 1", "relation = relation::bigint + 1"])
    async def test_one_of_another_system_or_table_does_not_count(
        self, inbox: Inbox, sql: Connection[TupleRow], restored: str
    ) -> None:
        before = await inbox.tick(None, nobody)
        sql.execute(f"UPDATE rowbell_epoch SET {restored}".encode())
        assert (await inbox.tick(before.snapshot, nobody)).epoch is None
        assert (await inbox.take_pass([])).epoch is None

    async def test_time_going_backwards_ends_it_though_its_row_is_there(self, inbox: Inbox) -> None:
        await inbox.tick(None, nobody)
        tick = await inbox.tick(FUTURE, nobody)
        assert tick.epoch is None
        assert tick.keys == []
        assert (await inbox.take_pass([("alice", FUTURE)])).epoch is None

    async def test_it_stays_ended_until_a_new_one_is_made(self, inbox: Inbox) -> None:
        await inbox.tick(None, nobody)
        for _ in range(3):
            assert (await inbox.tick(FUTURE, nobody)).epoch is None
        made = await inbox.new_epoch()
        tick = await inbox.tick(None, nobody)
        assert tick.epoch is not None
        assert tick.epoch.id == made

    async def test_kill_9_of_postgresql_ends_it(self, mortal: PostgresServer) -> None:
        with migrated(mortal) as database:
            # given
            inbox = Inbox.connect(mortal.url(database, "a_gateway"))
            old = await inbox.new_epoch()
            with mortal.connect(database) as sql:
                id = insert(sql)
            # when
            mortal.kill()
            mortal.start()
            # then
            assert (await inbox.tick(None, nobody)).epoch is None
            assert await inbox.new_epoch() != old
            assert list((await inbox.take_pass([("alice", EMPTY)])).found[0].ids) == [id]
            await inbox.close()

    async def test_a_clean_restart_keeps_it(self, mortal: PostgresServer) -> None:
        with migrated(mortal) as database:
            # given
            inbox = Inbox.connect(mortal.url(database, "a_gateway"))
            await inbox.new_epoch()
            before = await inbox.tick(None, nobody)
            # when
            mortal.stop()
            mortal.start()
            # then
            after = await inbox.tick(before.snapshot, nobody)
            assert after.epoch == before.epoch
            await inbox.close()

    async def test_a_cold_copy_of_the_files_is_noticed_by_a_gateway_that_saw_more(self, mortal: PostgresServer) -> None:
        with migrated(mortal) as database:
            # given
            inbox = Inbox.connect(mortal.url(database, "a_gateway"))
            await inbox.new_epoch()
            mortal.stop()
            copy = mortal.directory / "copy"
            shutil.copytree(mortal.data, copy)
            mortal.start()
            with mortal.connect(database) as sql:
                for _ in range(5):
                    insert(sql)
            before = await inbox.tick(None, nobody)
            # when
            mortal.stop()
            put_back(copy, mortal.data)
            mortal.start()
            # then
            assert (await inbox.tick(before.snapshot, nobody)).epoch is None
            await inbox.close()


def put_back(copy: Path, data: Path) -> None:
    """The files of `copy` in place of those of `data`, with the same owner."""
    owner = data.stat()
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    for path in (data, *data.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)


class TestMakingOne:
    async def test_one_that_stands_is_not_replaced(self, inbox: Inbox, another: Inbox) -> None:
        made = await inbox.new_epoch()
        assert await inbox.new_epoch() == made
        assert await another.new_epoch() == made

    async def test_gateways_that_all_miss_it_make_one(
        self, inbox: Inbox, another: Inbox, sql: Connection[TupleRow]
    ) -> None:
        # given
        sql.execute("DELETE FROM rowbell_epoch")
        # when
        made = await asyncio.gather(*(gateway.new_epoch() for gateway in (inbox, another) for _ in range(2)))
        # then
        assert len(set(made)) == 1
        assert sql.execute("SELECT epoch FROM rowbell_epoch").fetchall() == [(made[0],)]

    async def test_gateways_that_all_saw_time_go_backwards_make_one(self, inbox: Inbox, another: Inbox) -> None:
        # given
        gateways = (inbox, another)
        for gateway in gateways:
            await gateway.tick(None, nobody)
            assert (await gateway.tick(FUTURE, nobody)).epoch is None
        # when
        made = await asyncio.gather(*(gateway.new_epoch() for gateway in gateways))
        # then
        assert made[0] == made[1]

    async def test_a_gateway_that_looks_later_takes_the_one_that_another_made(
        self, inbox: Inbox, another: Inbox
    ) -> None:
        # given: both have seen the epoch that ended
        old = (await inbox.tick(None, nobody)).epoch
        assert (await another.tick(None, nobody)).epoch == old
        assert (await inbox.tick(FUTURE, nobody)).epoch is None
        made = await inbox.new_epoch()
        # when
        tick = await another.tick(FUTURE, nobody)
        # then
        assert tick.epoch is not None
        assert tick.epoch.id == made

    async def test_tombstones_of_the_old_one_are_gone_and_no_cursor_can_miss_them(
        self, inbox: Inbox, sql: Connection[TupleRow]
    ) -> None:
        # given
        insert(sql)
        sql.execute("DELETE FROM notification")
        (deleted_tx,) = sql.execute("SELECT deleted_tx FROM notification_deleted").fetchone() or ()
        sql.execute("DELETE FROM rowbell_epoch")
        # when
        await inbox.new_epoch()
        # then
        tick = await inbox.tick(None, nobody)
        assert tick.epoch is not None
        assert tick.epoch.purged_tx >= deleted_tx
        assert sql.execute("SELECT count(*) FROM notification_deleted").fetchone() == (0,)

    async def test_restored_rows_of_the_future_are_brought_to_the_present(
        self, inbox: Inbox, sql: Connection[TupleRow]
    ) -> None:
        """They would match every sweep for ever."""
        # given
        restored, sound = insert(sql), insert(sql)
        before = transaction_of(sql, sound)
        sql.execute("ALTER TABLE notification DISABLE TRIGGER notification_stamp")
        sql.execute("UPDATE notification SET changed_tx = %s WHERE id = %s", (10**15, restored))
        sql.execute("ALTER TABLE notification ENABLE ALWAYS TRIGGER notification_stamp")
        sql.execute("DELETE FROM rowbell_epoch")
        # when
        await inbox.new_epoch()
        # then
        tick = await inbox.tick(None, nobody)
        assert tick.snapshot.visible(transaction_of(sql, restored))
        assert (await inbox.tick(tick.snapshot, nobody)).keys == []
        assert transaction_of(sql, sound) == before

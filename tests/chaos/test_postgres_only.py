"""Without brokers: PostgreSQL and the link to it fail, and nothing is missing and nothing comes twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.chaos.load import load
from tests.chaos.test_faults import until_all_seen
from tests.integration.processes import Gateway, eventually, running
from tests.integration.proxy import Proxy
from tests.integration.rows import Database, insert
from tests.integration.subscriber import Subscriber
from tests.integration.systems import PostgresOnly, System

Names = Callable[[str], str]


async def slots(database: Database) -> list[str]:
    cursor = await database.execute("SELECT slot_name::text FROM pg_replication_slots ORDER BY 1")
    return [str(name) for (name,) in await cursor.fetchall()]


async def streaming(system: PostgresOnly) -> bool:
    """Does each gateway have its slot?"""
    async with await psycopg.AsyncConnection.connect(system.database_url, autocommit=True) as database:
        return len(await slots(database)) == len(system.gateways)


async def test_postgresql_killed_under_load_loses_and_repeats_nothing(postgres_only: PostgresOnly, user: Names) -> None:
    alice = user("alice")
    async with postgres_only.subscriber(alice) as client, postgres_only.subscriber(alice, 1) as other:
        async with load(postgres_only.database_url, [alice]) as rows:
            await eventually("half of the rows", lambda: rows.count > 1000)
            postgres_only.server.kill()
            postgres_only.server.start(wal_sender_timeout="5s")  # not from another thread: it ends with its thread
            await eventually("all rows are committed", lambda: rows.count == 2000, 60)
        for device in (client, other):
            await until_all_seen(device, rows.of(alice))
            assert device.subscriptions[0].closed == 1012
    await eventually("both gateways stream again", lambda: streaming(postgres_only))


async def test_the_embedded_postgresql_killed_under_load_comes_back_by_itself(embedded: System, user: Names) -> None:
    alice = user("alice")
    async with embedded.subscriber(alice) as client, load(embedded.database_url, [alice]) as rows:
        await eventually("half of the rows", lambda: rows.count > 1000)
        os.kill(_postmaster(embedded), signal.SIGKILL)
        await eventually("all rows are committed", lambda: rows.count == 2000, 60)
        await until_all_seen(client, rows.of(alice))


async def test_a_link_that_is_cut_again_and_again_loses_and_repeats_nothing(
    postgres_only: PostgresOnly, user: Names, tmp_path: Path
) -> None:
    """Of one gateway, its stream and its SQL alike; the client does not notice."""
    alice = user("alice")
    async with Proxy(postgres_only.server.port) as proxy:
        url = postgres_only.settings["ROWBELL_DATABASE_URL"].replace(
            f":{postgres_only.server.port}/", f":{proxy.port}/"
        )
        settings = {**postgres_only.settings, "ROWBELL_DATABASE_URL": url}
        gateway = await asyncio.to_thread(Gateway, settings, tmp_path / "gateway.log")
        with running(gateway):
            client = Subscriber(gateway.url, postgres_only.token(alice))
            async with client, load(postgres_only.database_url, [alice]) as rows:
                for n in range(4):
                    await eventually(f"part {n}", lambda n=n: rows.count > 400 * (n + 1))  # type: ignore[misc]
                    proxy.cut()
                await eventually("all rows are committed", lambda: rows.count == 2000, 30)
                await until_all_seen(client, rows.of(alice))
                assert len(client.subscriptions) == 1, "the client did not notice"
                assert sorted(client.subscriptions[0].ids("created")) == sorted(rows.of(alice))
            await asyncio.to_thread(gateway.stop)


async def test_a_transaction_held_open_among_thousands_arrives_when_it_commits_and_once(
    system: System, user: Names
) -> None:
    alice, others = user("alice"), user("others")
    async with (
        system.subscriber(alice) as client,
        system.subscriber(others, 1) as busy,
        await psycopg.AsyncConnection.connect(system.database_url) as writer,
    ):
        late = [await insert(writer, alice) for _ in range(10)]
        async with load(system.database_url, [others, alice], count=3000) as rows:
            await eventually("thousands commit around it", lambda: rows.count == 3000, 60)
        await until_all_seen(client, rows.of(alice))
        assert not client.seen & set(late)
        await writer.commit()
        committed = time.monotonic()
        await until_all_seen(client, rows.of(alice) | set(late))
        assert time.monotonic() - committed < 10
        await until_all_seen(busy, rows.of(others))
        assert sorted(client.subscriptions[0].ids()) == sorted(rows.of(alice) | set(late))


async def test_behind_a_prepared_transaction_a_gateway_starts_says_so_and_delivers_by_sweep(
    postgres_only: PostgresOnly, database: Database, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    async with await psycopg.AsyncConnection.connect(postgres_only.database_url, autocommit=True) as writer:
        await writer.execute("BEGIN")
        left = await insert(writer, alice, "left open")
        await writer.execute("PREPARE TRANSACTION 'left open'")
    try:
        gateway = await asyncio.to_thread(Gateway, postgres_only.settings, tmp_path / "gateway.log")
        with running(gateway):
            await eventually("it says so", lambda: "slot_waits" in gateway.log.read_text())
            assert "prepared transaction 'left open'" in gateway.log.read_text()
            async with Subscriber(gateway.url, postgres_only.token(alice), badge=True) as client:
                id = await insert(database, alice)
                await client.until(lambda: id in client.seen, "the row")
                assert gateway.metric("rowbell_events_total", by="live") == 0
                assert gateway.metric("rowbell_events_total", by="rescued") == 1
                await database.execute("COMMIT PREPARED 'left open'")
                await client.until(lambda: left in client.seen, "the row that was left open")
                await eventually("it streams", lambda: "wal_streaming" in gateway.log.read_text())
                live = await insert(database, alice)
                await client.until(lambda: live in client.seen, "the live row")
                assert gateway.metric("rowbell_events_total", by="live") >= 1
                await client.until_unread(3)
    finally:
        cursor = await database.execute("SELECT gid FROM pg_prepared_xacts")
        for (gid,) in await cursor.fetchall():
            await database.execute(f"ROLLBACK PREPARED '{gid}'".encode())


@pytest.mark.parametrize("end", ["stopped", "killed", "frozen"])
async def test_no_slot_is_left_after_any_end_of_a_gateway(
    postgres_only: PostgresOnly, database: Database, tmp_path: Path, end: str
) -> None:
    """wal_sender_timeout is 5 s there."""
    before = await slots(database)
    gateway = await asyncio.to_thread(Gateway, postgres_only.settings, tmp_path / "gateway.log")
    with running(gateway):

        async def has_its_slot() -> bool:
            return len(await slots(database)) == len(before) + 1

        async def left_nothing() -> bool:
            return await slots(database) == before

        await eventually("it has a slot", has_its_slot)
        # One that is frozen between making the slot and reading it is no reader yet, to whom a time-out applies.
        await eventually("it streams", lambda: "wal_streaming" in gateway.log.read_text())
        if end == "stopped":
            await asyncio.to_thread(gateway.stop)
        elif end == "killed":
            gateway.kill()
        else:
            os.kill(gateway.pid, signal.SIGSTOP)
        await eventually("the slot is gone", left_nothing, 10)
        if end == "frozen":
            os.kill(gateway.pid, signal.SIGCONT)
            await eventually("it has a slot again", has_its_slot)


def _postmaster(embedded: System) -> int:
    home = embedded.gateways[0].home  # type: ignore[attr-defined]
    return int((home.path / "embedded" / "postmaster.pid").read_text().split()[0])

"""A gateway is stopped in the middle of its work: its clients move to another one, at a pace, and miss nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from rowbell.gateway.gateway import FLUSH_TIMEOUT, STOP_RATE
from rowbell.gateway.session import RESTARTING
from tests.chaos.load import Load, load
from tests.integration.crowd import Client, Visit, busiest, crowd, until_subscribed
from tests.integration.processes import Gateway, eventually, running
from tests.integration.rows import Database, insert
from tests.integration.systems import System

Names = Callable[[str], str]

CLIENTS = 2000
ROWS = 5000
"""At 500 a second: a fifth of them before the gateway stops, and a fifth when it has."""
UPDATES_A_SECOND = 20
STANDSTILL = 2.0
"""Seconds that PostgreSQL keeps a gateway waiting that has closed its sessions: one that does not wait ends meanwhile.
Less than FLUSH_TIMEOUT."""
GRACE = 30.0
"""Seconds that the documentation tells to give a gateway that stops."""
BUNCHING = 2.5
"""What leaves a gateway at a pace comes to another in bunches: sessions are closed some at a time, and all these
processes share two processors with other tests, so clients hear of it late and together (2.2 was seen at a load of 10,
1.1 on a quiet machine). Without a pace all come within a second, which is 5."""


async def test_two_thousand_clients_of_a_stopping_gateway_move_to_another_at_a_pace_and_miss_nothing(
    two_gateways: System, database: Database, user: Names, tmp_path: Path
) -> None:
    # Given a gateway with two thousand clients, and rows for all of them
    users = [user(f"c{n}") for n in range(CLIENTS)]
    tokens = {name: two_gateways.token(name) for name in users}
    leaving = await asyncio.to_thread(Gateway, two_gateways.settings, tmp_path / "leaving.log")
    staying = two_gateways.gateway(0)
    with running(leaving):
        async with crowd(tokens, [leaving.url, staying.url], STOP_RATE, ack_of) as clients:
            async with load(two_gateways.database_url, users, ROWS) as rows, updating(two_gateways, rows) as versions:
                await eventually("a fifth of the rows", lambda: rows.count > ROWS / 5)
                # When it is stopped
                assert await asyncio.to_thread(leaving.stop, GRACE) == 0, leaving.tail()
            # Then all come to the other one, and have every row in its last version
            await until_subscribed(clients)
            await eventually("every row came", lambda: not any(lacking(clients, rows, versions)), 30)
    for client in clients:
        assert_it_moved_once(client, leaving.url, staying.url)
        assert_nothing_twice(client.visits)
    assert len(versions) > 0
    # and they do not come all at once
    attempts = [client.visits[1].attempted for client in clients]
    assert max(attempts) - min(attempts) >= 0.8 * CLIENTS / STOP_RATE
    assert busiest(attempts) <= STOP_RATE * BUNCHING
    # and what they were given by the one that stopped is recorded
    assert not given(clients) - await recorded(database, users)


async def test_acknowledgements_that_wait_for_postgresql_are_written_before_a_gateway_ends(
    two_gateways: System, database: Database, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    gateway = await asyncio.to_thread(Gateway, two_gateways.settings, tmp_path / "gateway.log")
    with running(gateway):
        async with crowd({alice: two_gateways.token(alice)}, [gateway.url], STOP_RATE, lambda n: "client") as (client,):
            async with deliveries_held(two_gateways):
                ids = {await insert(database, alice) for _ in range(10)}
                await eventually("the ACKs are taken", lambda: client.visits[0].taken == ids)
                stopping = asyncio.create_task(asyncio.to_thread(gateway.stop, GRACE))
                await eventually("the client is closed", lambda: client.visits[0].closed == RESTARTING)
                await asyncio.sleep(STANDSTILL)
                assert gateway.alive, "it waits for PostgreSQL"
                assert not await recorded(database, [alice])
            assert await stopping == 0, gateway.tail()
    assert await recorded(database, [alice]) == {(alice, id) for id in ids}


async def test_a_second_signal_cuts_a_stop_short(
    two_gateways: System, database: Database, user: Names, tmp_path: Path
) -> None:
    # Given a gateway that stops, and waits for PostgreSQL to write an acknowledgement
    alice = user("alice")
    gateway = await asyncio.to_thread(Gateway, two_gateways.settings, tmp_path / "gateway.log")
    with running(gateway):
        async with (
            crowd({alice: two_gateways.token(alice)}, [gateway.url], STOP_RATE, lambda n: "client") as (client,),
            deliveries_held(two_gateways),
        ):
            id = await insert(database, alice)
            await eventually("the ACK is taken", lambda: client.visits[0].taken == {id})
            asked = time.monotonic()
            os.kill(gateway.pid, signal.SIGTERM)
            await eventually("the client is closed", lambda: client.visits[0].closed == RESTARTING)
            assert gateway.alive
            # When it is asked again
            os.kill(gateway.pid, signal.SIGTERM)
            # Then it ends at once, and does not wait for that
            await eventually("it has ended", lambda: not gateway.alive)
            assert time.monotonic() - asked < FLUSH_TIMEOUT


def ack_of(number: int) -> str:
    """Half of them acknowledge."""
    return ("auto", "client-individual")[number % 2]


@asynccontextmanager
async def updating(system: System, rows: Load) -> AsyncIterator[dict[int, int]]:
    """Some of the rows are updated while others are inserted: id → the newest version."""
    versions: dict[int, int] = {}
    writer = asyncio.create_task(_update(system, rows, versions))
    try:
        yield versions
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)


async def _update(system: System, rows: Load, versions: dict[int, int]) -> None:
    rng = random.Random(7)
    async with await psycopg.AsyncConnection.connect(system.database_url, autocommit=True) as database:
        while True:
            await asyncio.sleep(1 / UPDATES_A_SECOND)
            if rows.committed:
                id = rng.choice(rows.committed[rng.choice(list(rows.committed))])
                cursor = await database.execute(
                    "UPDATE notification SET body = 'changed' || version WHERE id = %s RETURNING version", [id]
                )
                row = await cursor.fetchone()
                assert row is not None
                versions[id] = int(row[0])


@asynccontextmanager
async def deliveries_held(system: System) -> AsyncIterator[None]:
    """Nobody can write a delivery meanwhile: what has been acknowledged waits in the gateways."""
    async with await psycopg.AsyncConnection.connect(system.database_url) as database:
        await database.execute("LOCK TABLE notification_delivery IN SHARE MODE")
        yield


def lacking(clients: Sequence[Client], rows: Load, versions: dict[int, int]) -> Iterator[int]:
    """The ids of rows that have not come, or not in the newest version."""
    for client in clients:
        for id in rows.committed.get(client.user, ()):
            if client.newest.get(id, 0) < versions.get(id, 1):
                yield id


def assert_it_moved_once(client: Client, *urls: str) -> None:
    """It was told to come again, went to the next gateway, and was let in at the first attempt."""
    assert tuple(visit.url for visit in client.visits) == urls, client.visits
    assert not any(visit.refused or visit.error for visit in client.visits), client.visits
    assert client.visits[0].closed == RESTARTING, client.visits


def assert_nothing_twice(visits: Sequence[Visit]) -> None:
    """No version twice within a visit and none older after a newer, and what comes again is marked."""
    before: dict[int, int] = {}
    for visit in visits:
        newest: dict[int, int] = {}
        for message in visit.messages:
            assert message.version > newest.get(message.id, 0), f"{message} after version {newest[message.id]}"
            assert message.replayed or message.version > before.get(message.id, 0), f"{message} came again unmarked"
            newest[message.id] = message.version
        before |= newest


def given(clients: Sequence[Client]) -> set[tuple[str, int]]:
    """What the first gateway has handed to its clients, or has their ACK for: (user, notification)."""
    pairs: set[tuple[str, int]] = set()
    for client in clients:
        visit = client.visits[0]
        ids = {message.id for message in visit.messages} if client.ack == "auto" else visit.taken
        pairs |= {(client.user, id) for id in ids}
    return pairs


async def recorded(database: Database, users: Sequence[str]) -> set[tuple[str, int]]:
    """The deliveries of these users: (user, notification)."""
    cursor = await database.execute(
        "SELECT user_id, notification_id FROM notification_delivery WHERE user_id = ANY(%s)", [users]
    )
    return {(str(name), int(str(id))) for name, id in await cursor.fetchall()}

"""Who was handed what."""

from __future__ import annotations

import asyncio
import random

from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.inbox import Inbox
from tests.inbox.writing import insert

RECORDED = "SELECT notification_id, user_id FROM notification_delivery ORDER BY 1, 2"


async def test_a_batch_is_recorded_with_the_time(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    await inbox.record_deliveries([(2, "alice"), (1, "bob"), (1, "alice")])
    assert sql.execute(RECORDED).fetchall() == [(1, "alice"), (1, "bob"), (2, "alice")]
    assert sql.execute(
        "SELECT bool_and(delivered_at BETWEEN now() - interval '1 minute' AND now()) FROM notification_delivery"
    ).fetchone() == (True,)


async def test_again_is_the_same_as_once_and_the_first_time_stays(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    await inbox.record_deliveries([(1, "alice")])
    first = sql.execute("SELECT delivered_at FROM notification_delivery").fetchall()
    await inbox.record_deliveries([(1, "alice"), (1, "alice")])
    assert sql.execute("SELECT delivered_at FROM notification_delivery").fetchall() == first


async def test_nothing_is_nothing_to_record(inbox: Inbox, sql: Connection[TupleRow]) -> None:
    await inbox.record_deliveries([])
    assert sql.execute(RECORDED).fetchall() == []


async def test_a_row_that_is_gone_or_being_deleted_does_not_stand_in_the_way(
    inbox: Inbox, sql: Connection[TupleRow], other: Connection[TupleRow]
) -> None:
    kept, gone, going = insert(sql), insert(sql), insert(sql)
    sql.execute("DELETE FROM notification WHERE id = %s", (gone,))
    with other.transaction():
        other.execute("DELETE FROM notification WHERE id = %s", (going,))
        async with asyncio.timeout(5):
            await inbox.record_deliveries([(kept, "alice"), (gone, "alice"), (going, "alice")])
    assert len(sql.execute(RECORDED).fetchall()) == 3


async def test_gateways_with_the_same_rows_in_any_order_do_not_deadlock(
    inbox: Inbox, another: Inbox, sql: Connection[TupleRow]
) -> None:
    # given: the same rows from two engines at once, each time in another order; unordered, this deadlocks
    shuffled = random.Random(1).sample
    for round in range(10):
        deliveries = [(round * 1000 + n, "alice") for n in range(1000)]
        # when
        await asyncio.gather(
            *(gateway.record_deliveries(shuffled(deliveries, 1000)) for gateway in (inbox, another) for _ in range(3))
        )
    # then
    assert len(sql.execute(RECORDED).fetchall()) == 10_000

"""What Kafka adds: groups, partitions, a broker that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import Consumer, TopicPartition
from structlog.testing import capture_logs

from rowbell.changes import Batch, ChangeSource
from rowbell.changes.kafka import KafkaChanges, skip_to_end
from rowbell.changes.kafka_thread import MAX_UNFINISHED
from rowbell.errors import StreamUnavailable
from rowbell.notification import Change
from stack import Stack
from tests.changes.streams import GARBAGE, PARTITIONS, KafkaStream, ids, opened, take
from tests.integration.processes import eventually

SOON = 30.0
NOBODY_LISTENS = "127.0.0.1:1"


def committed(stream: KafkaStream) -> int:
    """The sum of the group's committed offsets: how many records are done."""
    consumer = Consumer({"bootstrap.servers": stream.servers, "group.id": stream.group})
    try:
        partitions = [TopicPartition(stream.topic, partition) for partition in range(PARTITIONS)]
        return sum(max(0, each.offset) for each in consumer.committed(partitions, timeout=10))
    finally:
        consumer.close()


async def batches_until(source: ChangeSource, dead: int = 0, changes: int = 0) -> AsyncIterator[Batch]:
    """Batches, not done, until they have brought so many dead records and so many changes."""
    async for batch in source.batches():
        yield batch
        dead -= len(batch.dead)
        changes -= len(batch.changes)
        if dead <= 0 and changes <= 0:
            return


async def test_a_dead_record_says_what_it_was_and_where_it_stood(kafka_stream: KafkaStream) -> None:
    kafka_stream.append_garbage()
    kafka_stream.append_garbage()

    async with opened(kafka_stream) as [source], asyncio.timeout(SOON):
        dead = [record async for batch in batches_until(source, dead=2) for record in batch.dead]

    assert [(record.topic, record.offset) for record in dead] == [(kafka_stream.topic, 0), (kafka_stream.topic, 1)]
    assert dead[0].partition == dead[1].partition
    assert (dead[0].key, dead[0].value) == (b"key", GARBAGE)


async def test_records_that_tell_nothing_make_no_batch_and_are_done(kafka_stream: KafkaStream) -> None:
    kafka_stream.append_what_tells_nothing()
    kafka_stream.append([1])

    async with opened(kafka_stream) as [source], asyncio.timeout(SOON):
        taken = await take(source, 1)

    assert ids(taken) == [1]
    assert committed(kafka_stream) == 3


async def test_records_that_tell_nothing_do_not_commit_what_is_unfinished_before_them(
    kafka_stream: KafkaStream,
) -> None:
    kafka_stream.append([1])

    async with opened(kafka_stream) as [source], asyncio.timeout(SOON):
        await take(source, 1, done=False)
        kafka_stream.append_what_tells_nothing()
        kafka_stream.append([2])
        await take(source, 1, done=False)

    assert committed(kafka_stream) == 0


async def test_no_more_batches_are_given_than_may_be_unfinished(kafka_stream: KafkaStream) -> None:
    async with opened(kafka_stream) as [source], asyncio.timeout(2 * SOON):
        batches = source.batches()
        unfinished = []
        for id in range(1, MAX_UNFINISHED + 1):
            kafka_stream.append([id])
            unfinished.append(await anext(batches))
        kafka_stream.append([98, 99])
        third = asyncio.ensure_future(anext(batches))

        # Longer than the owner's patience: the partitions are paused by then.
        done, _ = await asyncio.wait({third}, timeout=1.5)

        assert not done
        for batch in unfinished:
            await source.done(batch)
        assert ids((await third).changes) == [98, 99]


async def test_partitions_that_move_while_a_member_is_behind_are_all_read_when_it_goes_on(
    kafka_stream: KafkaStream,
) -> None:
    def assigned() -> int:
        return sum(log["event"] == "partitions_assigned" and bool(log["partitions"]) for log in logs)

    with capture_logs() as logs:
        async with opened(kafka_stream, kafka_stream) as [first, second], asyncio.timeout(2 * SOON):
            # given
            unfinished = await behind(first, kafka_stream)
            # when
            joining = asyncio.create_task(take(second, 1, done=False))
            await eventually("the second has some", lambda: assigned() == 2)
            for batch in unfinished:
                await first.done(batch)
            await second.close()
            await joining
            await eventually("they are back", lambda: assigned() == 3)
            for number in range(100, 120):
                kafka_stream.append([number], f"user-{number}")
            # then
            awaited = set(range(100, 120))
            while awaited:
                awaited -= set(ids(await take(first, 1)))


async def test_partitions_that_come_to_a_member_that_is_behind_wait_too(kafka_stream: KafkaStream) -> None:
    async with opened(kafka_stream, kafka_stream) as [first, second], asyncio.timeout(2 * SOON):
        # given
        unfinished = await behind(first, kafka_stream)
        moved = asyncio.create_task(take(second, 1, done=False))
        number = 100
        while not moved.done():  # until one is for a partition of the second
            kafka_stream.append([number], f"user-{number}")
            number += 1
            await asyncio.wait({moved}, timeout=0.1)
        # when
        await second.close()
        # then
        third = asyncio.create_task(take(first, 1))
        done, _ = await asyncio.wait({third}, timeout=3.0)
        assert not done
        for batch in unfinished:
            await first.done(batch)
        taken = set(ids(await third))
        while not set(range(100, number)) <= taken:
            taken |= set(ids(await take(first, 1)))


async def behind(source: ChangeSource, stream: KafkaStream) -> list[Batch]:
    """As many batches as it gives before one is done; its partitions are paused."""
    assert isinstance(source, KafkaChanges)
    unfinished = []
    for id in range(1, MAX_UNFINISHED + 1):
        stream.append([id])
        unfinished.append(await anext(source.batches()))
    await eventually("paused", lambda: source._thread is not None and source._thread._paused)
    return unfinished


async def test_a_batch_done_out_of_order_commits_nothing_before_its_predecessor(kafka_stream: KafkaStream) -> None:
    async with opened(kafka_stream) as [source], asyncio.timeout(SOON):
        batches = source.batches()
        kafka_stream.append([1])
        await anext(batches)
        kafka_stream.append([2])
        second = await anext(batches)

        await source.done(second)

    assert committed(kafka_stream) == 0


async def test_what_is_done_is_committed_within_seconds(kafka_stream: KafkaStream) -> None:
    kafka_stream.append([1, 2, 3])

    async with opened(kafka_stream) as [source]:
        async with asyncio.timeout(SOON):
            await take(source, 3)

        await eventually("committed", lambda: committed(kafka_stream) == 3)


async def test_what_was_unfinished_when_its_partition_moved_is_not_committed_by_its_former_member(
    kafka_stream: KafkaStream,
) -> None:
    for number in range(1, 21):
        kafka_stream.append([number], f"user-{number}")

    async with opened(kafka_stream, kafka_stream) as [former, present], asyncio.timeout(2 * SOON):
        batch = await anext(former.batches())
        moved = await take(present, 1, done=False)
        await former.done(batch)

    async with opened(kafka_stream) as [next_one], asyncio.timeout(SOON):
        awaited = set(ids(moved))
        while awaited:
            awaited -= set(ids(await take(next_one, 1)))


async def test_nothing_is_lost_when_members_come_and_go(kafka_stream: KafkaStream) -> None:
    taken: list[Change] = []

    async def consume(source: ChangeSource) -> None:
        async for batch in source.batches():
            taken.extend(batch.changes)
            await source.done(batch)

    async with opened(kafka_stream, kafka_stream) as [first, second]:
        tasks = [asyncio.create_task(consume(first))]
        for number in range(1, 301):
            kafka_stream.append([number], f"user-{number % 20}")
            if number == 100:
                await eventually("some taken", lambda: taken)
                tasks.append(asyncio.create_task(consume(second)))
            if number == 200:
                await first.close()
        await eventually("all taken", lambda: set(ids(taken)) == set(range(1, 301)), within=SOON)
        await second.close()
        await asyncio.gather(*tasks)

    assert committed(kafka_stream) == 300


async def test_a_kafka_that_is_away_is_waited_for_and_logged_once() -> None:
    source = KafkaChanges(NOBODY_LISTENS, "topic", "group")
    with capture_logs() as logs:
        waiting = asyncio.create_task(take(source, 1))

        await eventually("a log", lambda: logs)
        done, _ = await asyncio.wait({waiting}, timeout=1.0)

        assert not done
        await source.close()
        assert await waiting == []
    assert [(log["event"], log["log_level"]) for log in logs] == [("kafka_unreachable", "warning")]


async def test_a_broker_that_restarts_is_found_again(kafka_stream: KafkaStream, stack: Stack) -> None:
    kafka_stream.append([1])

    async with opened(kafka_stream) as [source], asyncio.timeout(120):
        before = await take(source, 1)
        await asyncio.to_thread(stack.stop_program, "kafka")
        await asyncio.to_thread(stack.start_program, "kafka")
        kafka_stream.append([2])
        after = await take(source, 1)

    assert ids(before) == [1]
    assert 2 in ids(after)


async def test_a_topic_that_is_made_later_is_found(stack: Stack) -> None:
    stream = KafkaStream(stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"])
    with capture_logs() as logs:
        async with opened(stream) as [source], asyncio.timeout(2 * SOON):
            waiting = asyncio.create_task(take(source, 1))
            await eventually("a log", lambda: any(log["event"] == "kafka_trouble" for log in logs))

            stream.create_topic()
            stream.append([1])

            assert ids(await waiting) == [1]
    stream.delete_topic()


async def test_skipping_to_the_end_leaves_what_is_there_to_the_sweep(kafka_stream: KafkaStream) -> None:
    kafka_stream.append([1, 2, 3])

    ends = await asyncio.to_thread(skip_to_end, kafka_stream.servers, kafka_stream.topic, kafka_stream.group)

    kafka_stream.append([4])
    async with opened(kafka_stream) as [source], asyncio.timeout(SOON):
        taken = await take(source, 1)
    assert sum(ends.values()) == 3
    assert ids(taken) == [4]


async def test_skipping_to_the_end_is_refused_while_dispatchers_run(kafka_stream: KafkaStream) -> None:
    kafka_stream.append([1])
    async with opened(kafka_stream) as [source], asyncio.timeout(SOON):
        await take(source, 1)

        with pytest.raises(StreamUnavailable, match="stop every dispatcher"):
            await asyncio.to_thread(
                skip_to_end, kafka_stream.servers, kafka_stream.topic, kafka_stream.group, patience=1.0
            )


@pytest.mark.parametrize("topic_exists", [True, False])
def test_skipping_to_the_end_says_what_is_missing(stack: Stack, topic_exists: bool) -> None:
    servers = NOBODY_LISTENS if topic_exists else stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"]

    with pytest.raises(StreamUnavailable, match=f"Kafka at {servers}, topic no.such.topic: ") as refusal:
        skip_to_end(servers, "no.such.topic", "group")

    assert topic_exists or "Unknown topic" in str(refusal.value)

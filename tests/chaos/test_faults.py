"""Nothing missing and nothing twice, whatever fails in between. Frames are counted, never sets of them."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import redis
from confluent_kafka import Consumer, Producer

from rowbell.bus.rabbitmq import RabbitMQBus
from rowbell.changes import Batch
from rowbell.changes.kafka import KafkaChanges
from rowbell.config import Settings
from rowbell.dispatch.dead_letters import KafkaDeadLetters
from rowbell.dispatch.dispatcher import Dispatcher as DispatcherLoop
from rowbell.presence.redis import RedisPresence
from tests.chaos.load import load
from tests.integration.processes import Dispatcher, Gateway, eventually, running
from tests.integration.proxy import Proxy
from tests.integration.rows import Database, insert, unread
from tests.integration.subscriber import Subscriber, assert_nothing_twice
from tests.integration.systems import Pipeline, System

Names = Callable[[str], str]


async def until_all_seen(subscriber: Subscriber, expected: set[int], within: float = 40.0) -> None:
    await subscriber.until(lambda: expected <= subscriber.seen, f"all {len(expected)} rows", within)
    assert_nothing_twice(subscriber)


async def test_dispatchers_killed_three_times_lose_and_repeat_nothing(
    pipeline: Pipeline, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    second = Dispatcher(pipeline.stack.settings_env, tmp_path / "dispatcher-2.log")
    with running(second):
        async with pipeline.subscriber(alice) as client, load(pipeline.database_url, [alice]) as rows:
            for n in range(3):
                await eventually(f"part {n}", lambda n=n: rows.count > 300 + 500 * n)  # type: ignore[misc]
                victim = (pipeline.dispatcher, second)[n % 2]
                victim.kill()
                victim.start()
            await eventually("all rows are committed", lambda: rows.count == 2000, 30)
            await until_all_seen(client, rows.of(alice))
            assert len(client.subscriptions) == 1
            assert sorted(client.subscriptions[0].ids("created")) == sorted(rows.of(alice))


async def test_partitions_of_a_killed_dispatcher_move_within_seconds(
    pipeline: Pipeline, database: Database, user: Names, tmp_path: Path
) -> None:
    second = Dispatcher(pipeline.stack.settings_env, tmp_path / "dispatcher-2.log")
    users = [user(f"u{n}") for n in range(12)]

    async def dispatched_by(process: Dispatcher) -> bool:
        before = process.metric("rowbell_dispatched_total")
        for name in users:
            await insert(database, name)
        await asyncio.sleep(0.2)
        return process.metric("rowbell_dispatched_total") > before

    with running(second):
        await eventually("the second dispatcher has partitions", lambda: dispatched_by(second), 30)
        pipeline.dispatcher.kill()
        killed = time.monotonic()
        lag_free = second.metric("rowbell_dispatched_total")
        for name in users:
            await insert(database, name)
        await eventually(
            "the survivor dispatches for all", lambda: second.metric("rowbell_dispatched_total") >= lag_free + 12, 20
        )
        assert time.monotonic() - killed < 20
        pipeline.dispatcher.start()
        await eventually("the first has partitions again", lambda: dispatched_by(pipeline.dispatcher), 30)


async def test_a_gateway_whose_bus_connection_is_closed_three_times_loses_and_repeats_nothing(
    pipeline: Pipeline, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    async with Proxy(pipeline.stack.ports["STACK_RABBITMQ_PORT"]) as proxy:
        url = pipeline.stack.settings_env["ROWBELL_RABBITMQ_URL"]
        env = {
            **pipeline.stack.settings_env,
            "ROWBELL_RABBITMQ_URL": url.replace(str(pipeline.stack.ports["STACK_RABBITMQ_PORT"]), str(proxy.port)),
        }
        gateway = await asyncio.to_thread(Gateway, env, tmp_path / "gateway.log")
        with running(gateway):
            client = Subscriber(gateway.url, pipeline.token(alice))
            async with client, load(pipeline.database_url, [alice]) as rows:
                for n in range(3):
                    await eventually(f"part {n}", lambda n=n: rows.count > 300 + 500 * n)  # type: ignore[misc]
                    proxy.cut()
                await eventually("all rows are committed", lambda: rows.count == 2000, 30)
                await until_all_seen(client, rows.of(alice))
                assert len(client.subscriptions) == 1, "the client did not notice"
                assert sorted(client.subscriptions[0].ids("created")) == sorted(rows.of(alice))
                assert proxy.accepted >= 4
            await asyncio.to_thread(gateway.stop)


async def test_twenty_clients_that_subscribe_in_the_middle_see_every_row_once(system: System, user: Names) -> None:
    alice = user("alice")
    async with load(system.database_url, [alice]) as rows:
        clients = []
        for n in range(20):
            await eventually(f"part {n}", lambda n=n: rows.count > 90 * n)  # type: ignore[misc]
            clients.append(system.subscriber(alice, n % 2))
            clients[-1].start()
        await eventually("all rows are committed", lambda: rows.count == 2000, 30)
        for client in clients:
            await until_all_seen(client, rows.of(alice))
            assert len(client.subscriptions) == 1
            assert sorted(client.subscriptions[0].ids()) == sorted(rows.of(alice))
            await client.stop()


async def test_after_the_death_of_a_gateway_its_clients_find_everything_elsewhere(
    two_gateways: System, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    gateway = await asyncio.to_thread(Gateway, two_gateways.settings, tmp_path / "gateway.log")
    client = Subscriber(gateway.url, two_gateways.token(alice))
    client.urls.append(two_gateways.gateway(0).url)
    async with client, load(two_gateways.database_url, [alice]) as rows:
        await eventually("half of the rows", lambda: rows.count > 1000)
        gateway.kill()
        await eventually("all rows are committed", lambda: rows.count == 2000, 30)
        await until_all_seen(client, rows.of(alice))
        assert len(client.subscriptions) == 2


class Withholding:
    """A change source that loses one in ten of a user's changes, and knows which."""

    def __init__(self, source: KafkaChanges, recipient: str) -> None:
        self._source = source
        self._recipient = recipient
        self._rng = random.Random(7)
        self.withheld: set[tuple[int, int]] = set()
        """(id, version)"""
        self.enabled = False

    async def batches(self) -> AsyncIterator[Batch]:
        async for batch in self._source.batches():
            kept = []
            for change in batch.changes:
                if self.enabled and change.recipient_id == self._recipient and self._rng.random() < 0.1:
                    self.withheld.add((change.id, change.version))
                else:
                    kept.append(change)
            batch.changes[:] = kept
            yield batch

    async def done(self, batch: Batch) -> None:
        await self._source.done(batch)

    async def close(self) -> None:
        await self._source.close()


async def test_what_the_stream_loses_the_sweep_gives_within_seconds(
    pipeline: Pipeline, database: Database, user: Names
) -> None:
    alice = user("alice")
    await asyncio.to_thread(pipeline.dispatcher.stop)
    settings = Settings.from_env(pipeline.stack.settings_env)
    servers = str(settings.kafka_bootstrap_servers)
    source = Withholding(KafkaChanges(servers, settings.kafka_topic, settings.kafka_group), alice)
    presence, bus = RedisPresence(str(settings.redis_url)), RabbitMQBus(str(settings.rabbitmq_url))
    dead_letters = KafkaDeadLetters(servers, settings.kafka_dead_letter_topic)
    loop = asyncio.create_task(DispatcherLoop(source, presence, bus, dead_letters).run())
    gateway = pipeline.gateways[0]
    try:
        async with pipeline.subscriber(alice) as client:
            first = await insert(database, alice)
            await client.until(lambda: first in client.seen, "the first row")
            source.enabled = True
            rescued = gateway.metric("rowbell_events_total", by="rescued")
            # Below RESCUE keys a sweep: beyond it a pass gives them, and says "replayed" instead.
            async with load(pipeline.database_url, [alice], 300, rate=60) as rows:
                pass
            await client.until(lambda: len(client.messages) == 301, "every row", 15)
            created = rows.committed[alice]
            for id in created[:60]:
                await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [id])
            await client.until(lambda: len(client.messages) == 361, "every update", 15)
            for id in created[60:120]:
                await database.execute("DELETE FROM notification WHERE id = %s", [id])
            await client.until(lambda: len(client.messages) == 421, "every deletion", 15)
            assert sorted(client.subscriptions[0].ids("created")) == [first, *created]
            assert sorted(client.subscriptions[0].ids("updated")) == created[:60]
            assert sorted(client.subscriptions[0].ids("deleted")) == created[60:120]
            assert_nothing_twice(client)
            assert len(source.withheld) > 20
            # What is merely late on a busy machine may be rescued, too.
            assert len(source.withheld) <= gateway.metric("rowbell_events_total", by="rescued") - rescued < 420
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        for part in (source, presence, bus, dead_letters):
            await part.close()
        pipeline.dispatcher.start()


async def test_presence_that_forgot_everything_is_written_again(pipeline: Pipeline, user: Names) -> None:
    alice = user("alice")
    async with pipeline.subscriber(alice) as client, load(pipeline.database_url, [alice], 1500) as rows:
        await eventually("a part", lambda: rows.count > 300)
        with redis.Redis.from_url(pipeline.stack.settings_env["ROWBELL_REDIS_URL"]) as connection:
            connection.flushall()
        await eventually("all rows are committed", lambda: rows.count == 1500, 30)
        await until_all_seen(client, rows.of(alice), 15)
        assert len(client.subscriptions) == 1
    await _fast_path(pipeline, user("bob"))


async def test_with_redis_stopped_rows_still_arrive(pipeline: Pipeline, user: Names) -> None:
    await _stopped(pipeline, user, "redis")


async def test_with_rabbitmq_stopped_rows_still_arrive(pipeline: Pipeline, user: Names) -> None:
    await _stopped(pipeline, user, "rabbitmq")
    for gateway in pipeline.gateways:
        await asyncio.to_thread(gateway.wait_until_ready)


async def test_with_connect_killed_rows_still_arrive(pipeline: Pipeline, user: Names) -> None:
    alice = user("alice")
    async with pipeline.subscriber(alice) as client, load(pipeline.database_url, [alice], 1500) as rows:
        await eventually("a part", lambda: rows.count > 300)
        await asyncio.to_thread(pipeline.stack.kill, "connect", signal.SIGKILL)
        await eventually("all rows are committed", lambda: rows.count == 1500, 30)
        await until_all_seen(client, rows.of(alice), 15)
    await asyncio.to_thread(pipeline.stack.wait_until_answers, "connect")
    await _fast_path(pipeline, user("bob"))


async def test_after_postgres_was_killed_sessions_close_with_1012_and_clients_find_everything(
    pipeline: Pipeline, user: Names
) -> None:
    alice = user("alice")
    async with pipeline.subscriber(alice) as client, load(pipeline.database_url, [alice]) as rows:
        await eventually("a part", lambda: rows.count > 700)
        await asyncio.to_thread(pipeline.stack.kill, "postgres", signal.SIGKILL)
        await asyncio.to_thread(pipeline.stack.wait_until_answers, "postgres")
        await eventually("all rows are committed", lambda: rows.count == 2000, 60)
        await client.until(lambda: client.subscriptions[0].closed is not None, "the old session ends")
        assert client.subscriptions[0].closed == 1012
        await until_all_seen(client, rows.of(alice))
    for gateway in pipeline.gateways:
        await asyncio.to_thread(gateway.wait_until_ready)
    await _fast_path(pipeline, user("bob"))


async def test_a_garbage_record_becomes_a_dead_letter_and_delays_nobody(
    pipeline: Pipeline, database: Database, user: Names
) -> None:
    alice = user("alice")
    settings = Settings.from_env(pipeline.stack.settings_env)
    garbage = f"garbage for {alice}".encode()
    async with pipeline.subscriber(alice) as client:
        # The key and the partitioner are Debezium's, so the garbage lies in front of alice's next row.
        producer = Producer(
            {"bootstrap.servers": str(settings.kafka_bootstrap_servers), "partitioner": "murmur2_random"}
        )
        producer.produce(settings.kafka_topic, key=f'{{"recipient_id":"{alice}"}}'.encode(), value=garbage)
        assert producer.flush(10) == 0
        rescued = pipeline.gateways[0].metric("rowbell_events_total", by="rescued")
        id = await insert(database, alice)
        await client.until(lambda: id in client.seen, "the row behind the garbage", 5)
        assert pipeline.gateways[0].metric("rowbell_events_total", by="rescued") == rescued, "it came at once"
    letter = await asyncio.to_thread(_dead_letter, settings, garbage)
    assert {"reason", "topic", "partition", "offset"} <= letter.keys()
    assert letter["topic"] == settings.kafka_topic.encode()


def _dead_letter(settings: Settings, value: bytes) -> dict[str, bytes]:
    """The headers of the dead letter with this value."""
    consumer = Consumer(
        {
            "bootstrap.servers": str(settings.kafka_bootstrap_servers),
            "group.id": f"test-{time.time()}",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([settings.kafka_dead_letter_topic])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None and message.value() == value:
                return {name: bytes(header) for name, header in message.headers() or []}
        raise AssertionError("there is no such dead letter")
    finally:
        consumer.close()


async def _stopped(pipeline: Pipeline, user: Names, program: str) -> None:
    alice = user("alice")
    async with pipeline.subscriber(alice) as client, load(pipeline.database_url, [alice], 1500) as rows:
        await eventually("a part", lambda: rows.count > 300)
        await asyncio.to_thread(pipeline.stack.stop_program, program)
        await eventually("all rows are committed", lambda: rows.count == 1500, 30)
        await until_all_seen(client, rows.of(alice), 15)
        await asyncio.to_thread(pipeline.stack.start_program, program)
        assert len(client.subscriptions) == 1, "the client did not notice"
    await _fast_path(pipeline, user("bob"))


async def _fast_path(pipeline: Pipeline, user: str) -> None:
    """Rows come through the stream again, by themselves, and soon: none of the last ten was rescued."""
    import psycopg

    async with (
        await psycopg.AsyncConnection.connect(pipeline.database_url, autocommit=True) as database,
        pipeline.subscriber(user) as client,
    ):

        async def ten_by_themselves() -> bool:
            rescued = pipeline.gateways[0].metric("rowbell_events_total", by="rescued")
            ids = {await insert(database, user) for _ in range(10)}
            await client.until(lambda: ids <= client.seen, "ten rows", 15)
            return pipeline.gateways[0].metric("rowbell_events_total", by="rescued") == rescued

        await eventually("the fast path is back", ten_by_themselves, 60)
        assert await unread(database, user) == sorted(client.seen)

"""Committed changes from Debezium's topic in Kafka.

One thread owns the consumer and alone touches it: commits and pauses from another thread block until its poll
returns (1.7 s measured with confluent-kafka 2.16), and `AIOConsumer` costs 60 µs a message, this hand-off 1.1.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from rowbell.changes import Batch
from rowbell.changes.kafka_thread import ConsumerThread, End, Handed, cause
from rowbell.errors import StreamUnavailable
from rowbell.logs import get_logger

log = get_logger("changes.kafka")

CLOSE_SECONDS = 5.0
"""How long leaving the group may take at a stop."""
SESSION_SECONDS = 6
"""How long a member that was killed keeps its partitions: the shortest that brokers allow unless told otherwise."""
REQUEST_SECONDS = 5.0
"""How long one question to Kafka may take when somebody waits at a terminal."""
_HAS_MEMBERS = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS}


def consumer_settings(servers: str, group: str) -> dict[str, str | int | bool]:
    """What librdkafka is told, for a member of the dispatchers' group."""
    return {
        "bootstrap.servers": servers,
        "group.id": group,
        "client.id": "rowbell-dispatcher",
        "auto.offset.reset": "earliest",
        "allow.auto.create.topics": False,
        # Offsets are stored when the effect stands, and committed every second from there.
        "enable.auto.offset.store": False,
        "enable.auto.commit": True,
        "auto.commit.interval.ms": 1000,
        # The classic protocol, because in KIP-848's the session is the broker's setting, 45 s unless changed.
        # No group.instance.id: a member with one keeps its partitions for a session after an orderly stop
        # too, and two dispatchers with the same one (a host name) would fence each other.
        "session.timeout.ms": SESSION_SECONDS * 1000,
        "heartbeat.interval.ms": 1000,
        "max.poll.interval.ms": 30_000,
        "partition.assignment.strategy": "cooperative-sticky",
        # The broker answers a fetch as soon as there is one byte. The wait bounds how long a partition that was
        # just assigned or resumed waits for the fetch that is under way without it.
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 100,
        "socket.nagle.disable": True,
        # What is fetched ahead, 16 MiB: more is memory, not speed. When it is full, look again soon.
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 20,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1000,
        # How soon a topic or a partition that was missing is noticed.
        "topic.metadata.refresh.interval.ms": 5000,
        # librdkafka prints every attempt to connect; what matters reaches `error_cb`.
        "log_level": 2,
    }


class KafkaChanges:
    """The ChangeSource of the pipeline: the event loop's side. The consumer starts with the first `batches()`.

    While Kafka is away it waits and says so once. Not more than MAX_UNFINISHED batches are given before `done`.
    StreamUnavailable from `batches()` means that Kafka refused for good.
    """

    def __init__(self, servers: str, topic: str, group: str) -> None:
        self._settings = consumer_settings(servers, group)
        self._topic = topic
        self._items: asyncio.Queue[Batch | End] = asyncio.Queue()
        """What the owner has handed over."""
        self._thread: ConsumerThread | None = None
        self._closing = False

    async def batches(self) -> AsyncIterator[Batch]:
        if self._thread is None and not self._closing:
            self._start()
        while not self._closing:
            item = await self._items.get()
            if isinstance(item, Batch):
                yield item
            elif item.error is not None:
                raise StreamUnavailable(f"Kafka: topic {self._topic}: {item.error}") from item.error
            else:
                return

    async def done(self, batch: Batch) -> None:
        assert self._thread is not None
        assert isinstance(batch.position, Handed)
        self._thread.finish(batch.position)

    async def close(self) -> None:
        """Store what is done, leave the group, end `batches()`. What was given and is not done comes again."""
        self._closing = True
        self._items.put_nowait(End())
        if self._thread is None:
            return
        self._thread.stop()
        if not await asyncio.to_thread(self._thread.join, CLOSE_SECONDS):
            log.warning("kafka_not_left", seconds=CLOSE_SECONDS)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()

        def hand_over(item: Batch | End) -> None:
            loop.call_soon_threadsafe(self._items.put_nowait, item)

        self._thread = ConsumerThread(self._settings, self._topic, hand_over)
        self._thread.start()


def skip_to_end(servers: str, topic: str, group: str, patience: float = SESSION_SECONDS + 4) -> dict[int, int]:
    """Set the group's offsets to the end of the topic, and return them by partition. Blocks.

    Kafka takes this only from a group without members: while dispatchers run, StreamUnavailable says so. One that
    was killed is a member for its session, so it is tried for a little longer than that: `patience`, in seconds.
    """
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False, "log_level": 2})
    try:
        ends = _ends(consumer, topic)
        _commit_as_nobody(consumer, ends, time.monotonic() + patience)
        return {end.partition: end.offset for end in ends}
    except KafkaException as error:
        raise StreamUnavailable(f"Kafka at {servers}, topic {topic}: {cause(error).str()}") from error
    finally:
        consumer.close()


def _ends(consumer: Consumer, topic: str) -> list[TopicPartition]:
    described = consumer.list_topics(topic, timeout=REQUEST_SECONDS).topics[topic]
    if described.error is not None:
        raise KafkaException(described.error)
    partitions = (TopicPartition(topic, partition) for partition in described.partitions)
    return [
        TopicPartition(topic, each.partition, consumer.get_watermark_offsets(each, timeout=REQUEST_SECONDS)[1])
        for each in partitions
    ]


def _commit_as_nobody(consumer: Consumer, ends: list[TopicPartition], deadline: float) -> None:
    while True:
        try:
            consumer.commit(offsets=ends, asynchronous=False)
            return
        except KafkaException as error:
            if cause(error).code() not in _HAS_MEMBERS:
                raise
            if time.monotonic() > deadline:
                raise StreamUnavailable(
                    "The group has members: stop every dispatcher, then run `rowbell dispatch --from-end` again."
                ) from error
        time.sleep(0.5)

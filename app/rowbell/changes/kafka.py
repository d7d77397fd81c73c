"""Committed changes from Debezium's Kafka topic.

One thread owns the consumer, and only it calls the consumer: commits and pauses from another thread block until its
poll returns (1.7 s measured with confluent-kafka 2.16). `AIOConsumer` costs 60 µs per message, this hand-over 1.1 µs.
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
"""How long leaving the consumer group may take on shutdown."""
SESSION_SECONDS = 6
"""How long a killed member keeps its partitions: the shortest session that brokers allow by default."""
REQUEST_SECONDS = 5.0
"""Timeout of a request to Kafka while a user waits at a terminal."""
_HAS_MEMBERS = {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION, KafkaError.REBALANCE_IN_PROGRESS}


def consumer_settings(servers: str, group: str) -> dict[str, str | int | bool]:
    """Return the librdkafka configuration of a member of the dispatchers' group."""
    return {
        "bootstrap.servers": servers,
        "group.id": group,
        "client.id": "rowbell-dispatcher",
        "auto.offset.reset": "earliest",
        "allow.auto.create.topics": False,
        # An offset is stored when the change has taken effect; stored offsets are committed every second.
        "enable.auto.offset.store": False,
        "enable.auto.commit": True,
        "auto.commit.interval.ms": 1000,
        # The classic protocol, because with KIP-848 the broker sets the session timeout, 45 s by default. No
        # group.instance.id: a static member keeps its partitions for a session even after an orderly shutdown, and two
        # dispatchers with the same id (a host name) would fence each other.
        "session.timeout.ms": SESSION_SECONDS * 1000,
        "heartbeat.interval.ms": 1000,
        "max.poll.interval.ms": 30_000,
        "partition.assignment.strategy": "cooperative-sticky",
        # The broker answers a fetch as soon as there is one byte. The maximum wait bounds how long a partition that was
        # just assigned or resumed waits for the pending fetch that does not include it.
        "fetch.min.bytes": 1,
        "fetch.wait.max.ms": 100,
        "fetch.error.backoff.ms": 100,
        "socket.nagle.disable": True,
        # Prefetch 16 MiB: more would cost memory without adding speed. When the queue is full, check again soon.
        "queued.max.messages.kbytes": 16_384,
        "fetch.queue.backoff.ms": 20,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1000,
        # How soon a new topic or partition is noticed.
        "topic.metadata.refresh.interval.ms": 5000,
        # librdkafka logs every connection attempt; what matters reaches `error_cb`.
        "log_level": 2,
    }


class KafkaChanges:
    """The ChangeSource of pipeline mode, on the event loop. The consumer starts with the first `batches()`.

    While Kafka is unavailable it waits, and logs that once. At most MAX_UNFINISHED batches are delivered before `done`.
    `batches()` raises StreamUnavailable if Kafka refuses permanently.
    """

    def __init__(self, servers: str, topic: str, group: str) -> None:
        self._settings = consumer_settings(servers, group)
        self._topic = topic
        self._items: asyncio.Queue[Batch | End] = asyncio.Queue()
        """Holds what the consumer thread has handed over."""
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
        """Store the offsets of finished batches, leave the group, and end `batches()`. Unfinished batches are delivered
        again.
        """
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
    """Set the group's offsets to the end of the topic. Blocks. Return the offsets by partition.

    Kafka allows this only for a group without members. A killed dispatcher stays a member until its session expires, so
    this is retried for `patience` seconds, by default longer than a session. Raises StreamUnavailable if the group
    still has members then, or Kafka cannot be used.
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

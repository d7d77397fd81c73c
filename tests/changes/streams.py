"""A stream that a test writes and any ChangeSource reads: the same tests for memory and Kafka."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from rowbell.changes import Batch, ChangeSource, DeadRecord
from rowbell.changes.debezium import decode
from rowbell.changes.kafka import KafkaChanges
from rowbell.changes.memory import MemoryChanges, MemoryLog
from rowbell.notification import Change
from tests.changes.envelopes import CREATED, altered, created

GARBAGE = b'{"op": "c"}'
PARTITIONS = 4


class Stream(Protocol):
    def append(self, ids: Collection[int], recipient: str = "alice") -> None:
        """Rows of one recipient, committed in this order."""

    def append_garbage(self) -> None:
        """A record that is no change."""

    def open(self) -> ChangeSource:
        """A member of the one consumer group."""


class MemoryStream:
    def __init__(self) -> None:
        self.log = MemoryLog()

    def append(self, ids: Collection[int], recipient: str = "alice") -> None:
        changes = (decode(created(id, recipient)) for id in ids)
        self.log.append(change for change in changes if isinstance(change, Change))

    def append_garbage(self) -> None:
        self.log.append([DeadRecord(b"key", GARBAGE, "missing required field `source`", "memory", 0, 0)])

    def open(self) -> ChangeSource:
        return MemoryChanges(self.log)


class KafkaStream:
    """A topic of its own on a real broker."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.topic = f"test.{uuid.uuid4().hex}"
        self.group = f"{self.topic}.dispatchers"
        # The partitioner of Java clients, and so of Debezium.
        quietly = {"bootstrap.servers": servers, "log_level": 0, "error_cb": lambda _: None}
        self._producer = Producer(quietly | {"partitioner": "murmur2_random", "allow.auto.create.topics": False})
        self._admin = AdminClient(quietly)

    def create_topic(self) -> None:
        topic = NewTopic(self.topic, num_partitions=PARTITIONS, replication_factor=1)
        self._admin.create_topics([topic])[self.topic].result(timeout=30)

    def delete_topic(self) -> None:
        self._admin.delete_topics([self.topic])[self.topic].result(timeout=30)

    def append(self, ids: Collection[int], recipient: str = "alice") -> None:
        for number, id in enumerate(ids):
            self.produce(recipient.encode(), created(id, recipient))
            if number == 0:
                # librdkafka reorders what is produced around the moment at which it learns of a topic's partitions.
                self._flush()
        self._flush()

    def append_garbage(self) -> None:
        self.produce(b"key", GARBAGE)
        self._flush()

    def append_what_tells_nothing(self) -> None:
        self.produce(b"alice", None)
        self.produce(b"alice", altered(CREATED, op="r"))
        self._flush()

    def produce(self, key: bytes, value: bytes | None) -> None:
        self._producer.produce(self.topic, value, key)

    def open(self) -> KafkaChanges:
        return KafkaChanges(self.servers, self.topic, self.group)

    def _flush(self) -> None:
        assert self._producer.flush(30) == 0


@asynccontextmanager
async def opened(*streams: Stream) -> AsyncIterator[list[ChangeSource]]:
    """Sources that are closed at the end, whatever happens."""
    async with AsyncExitStack() as stack:
        sources = []
        for stream in streams:
            source = stream.open()
            stack.push_async_callback(source.close)
            sources.append(source)
        yield sources


async def take(source: ChangeSource, count: int, done: bool = True) -> list[Change]:
    """At least this many changes from the source, each batch done after it was taken, or not."""
    taken: list[Change] = []
    async for batch in source.batches():
        taken += batch.changes
        if done:
            await source.done(batch)
        if len(taken) >= count:
            break
    return taken


async def take_dead(source: ChangeSource) -> tuple[Batch, list[Change]]:
    """The first batch with dead records, and all changes up to and with it."""
    changes: list[Change] = []
    async for batch in source.batches():
        changes += batch.changes
        await source.done(batch)
        if batch.dead:
            return batch, changes
    raise AssertionError("the source ended")


def ids(changes: Collection[Change]) -> list[int]:
    return [change.id for change in changes]

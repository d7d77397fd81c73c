"""A stream that a test writes and any ChangeSource reads: the same tests for memory, Kafka and PostgreSQL's log."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol
from urllib.parse import quote

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.changes import Batch, ChangeSource, DeadRecord
from rowbell.changes.debezium import decode
from rowbell.changes.kafka import KafkaChanges
from rowbell.changes.memory import MemoryChanges, MemoryLog
from rowbell.changes.pgoutput import COLUMNS, PUBLICATION
from rowbell.changes.wal import WalChanges
from rowbell.notification import Change
from tests.changes.envelopes import CREATED, altered, created
from tests.integration.processes import eventually
from tests.postgres_server import PostgresServer

GARBAGE = b'{"op": "c"}'
MISSING = "missing required field `source`"
PARTITIONS = 4


class Stream(Protocol):
    def append(self, ids: Collection[int], recipient: str = "alice") -> None:
        """Rows of one recipient, committed in this order."""

    def append_garbage(self) -> str:
        """A record that is no change; the value is part of the reason that is to be given."""

    def open(self) -> ChangeSource:
        """A member of the one consumer group; of the log, a reader."""

    async def listened_to(self, source: ChangeSource) -> None:
        """Wait until what is appended from now on comes through the source."""


class MemoryStream:
    def __init__(self) -> None:
        self.log = MemoryLog()

    def append(self, ids: Collection[int], recipient: str = "alice") -> None:
        changes = (decode(created(id, recipient)) for id in ids)
        self.log.append(change for change in changes if isinstance(change, Change))

    def append_garbage(self) -> str:
        self.log.append([DeadRecord(b"key", GARBAGE, MISSING, "memory", 0, 0)])
        return MISSING

    def open(self) -> ChangeSource:
        return MemoryChanges(self.log)

    async def listened_to(self, source: ChangeSource) -> None:
        pass


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

    def append_garbage(self) -> str:
        self.produce(b"key", GARBAGE)
        self._flush()
        return MISSING

    def append_what_tells_nothing(self) -> None:
        self.produce(b"alice", None)
        self.produce(b"alice", altered(CREATED, op="r"))
        self._flush()

    def produce(self, key: bytes, value: bytes | None) -> None:
        self._producer.produce(self.topic, value, key)

    def open(self) -> KafkaChanges:
        return KafkaChanges(self.servers, self.topic, self.group)

    async def listened_to(self, source: ChangeSource) -> None:
        pass

    def _flush(self) -> None:
        assert self._producer.flush(30) == 0


class WalStream:
    """A database of its own, and the log of its server."""

    def __init__(self, server: PostgresServer, database: str) -> None:
        self.server = server
        self.database = database

    def url(self, user: str = "postgres", **settings: str) -> str:
        """With settings of the server for this connection."""
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        return f"{self.server.url(self.database, user)}?options={quote(options)}"

    def connect(self) -> Connection[TupleRow]:
        """A superuser's connection in autocommit mode."""
        return self.server.connect(self.database)

    def append(self, ids: Collection[int], recipient: str = "alice") -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO notification (id, recipient_id, title) OVERRIDING SYSTEM VALUE VALUES (%s, %s, 'Hello')",
                [(id, recipient) for id in ids],
            )

    def append_garbage(self) -> str:
        self.publish(*(name for name in COLUMNS if name != "title"))
        self.append([2**53 - 1])
        self.publish(*COLUMNS)
        return "the publication lacks the column `title`"

    def publish(self, *columns: str) -> None:
        with self.connect() as connection:
            table = f"notification ({', '.join(columns)})"
            connection.execute(f"ALTER PUBLICATION {PUBLICATION} SET TABLE {table}, rowbell_heartbeat".encode())

    def open(self) -> WalChanges:
        return WalChanges(self.url())

    async def listened_to(self, source: ChangeSource) -> None:
        assert isinstance(source, WalChanges)
        source.batches()
        await eventually("streaming", lambda: source.streaming)

    def slots(self) -> list[str]:
        """Of this database, whether they stand or are being made."""
        with self.server.connect() as connection:
            query = "SELECT slot_name FROM pg_replication_slots WHERE database = %s"
            return [name for (name,) in connection.execute(query, [self.database])]

    def walsenders(self) -> list[int]:
        """The server's processes that stream this database's log, or wait to."""
        with self.server.connect() as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsender' AND datname = %s"
            return [pid for (pid,) in connection.execute(query, [self.database])]

    def wait_until_nothing_is_left(self, within: float = 5.0) -> None:
        """Of sources: a slot, or a process of the server."""
        deadline = time.monotonic() + within
        while left := [*self.slots(), *self.walsenders()]:
            assert time.monotonic() < deadline, f"left: {left}"
            time.sleep(0.02)


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

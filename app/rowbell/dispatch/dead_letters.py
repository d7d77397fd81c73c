"""Dead letters: records of the stream that are not changes, kept with the reason and their origin."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from rowbell.changes import DeadRecord
from rowbell.changes.kafka_thread import cause
from rowbell.errors import StreamUnavailable
from rowbell.logs import get_logger

log = get_logger("dispatch.dead_letters")

KEPT_IN_MEMORY = 1000
"""Records that MemoryDeadLetters keeps: enough to see what went wrong."""
DELIVERY_SECONDS = 10
"""Seconds that Kafka may take to confirm a record, or to answer a request."""


class DeadLetters(Protocol):
    """Where undecodable records go. Losing one loses no notification: the sweep delivers its row, if there is one."""

    async def keep(self, records: Sequence[DeadRecord]) -> None:
        """Store all records, each at least once. StreamUnavailable: repeat the call with all of them.

        A record that the store refuses permanently, for example because it is too large, is logged and counts as kept:
        it must not hold up notifications.
        """
        ...

    async def close(self) -> None: ...


class MemoryDeadLetters:
    """Keeps the latest records in memory: for sources without a topic to keep them in, and for tests."""

    def __init__(self) -> None:
        self.records: deque[DeadRecord] = deque(maxlen=KEPT_IN_MEMORY)

    async def keep(self, records: Sequence[DeadRecord]) -> None:
        self.records.extend(records)

    async def close(self) -> None: ...


class KafkaDeadLetters:
    """Keeps records in a Kafka topic, key and value unchanged, with text headers: reason, topic, partition and offset.

    A missing topic is created. The producer starts with the first record, because normally there is none.
    """

    def __init__(self, servers: str, topic: str) -> None:
        self._servers = {"bootstrap.servers": servers, "log_level": 2}
        self._topic = topic
        self._producer: Producer | None = None

    async def keep(self, records: Sequence[DeadRecord]) -> None:
        await asyncio.to_thread(self._keep, records)

    async def close(self) -> None:
        """Drop the producer. Nothing is pending: `keep` returns only when its records are stored."""
        self._producer = None

    def _keep(self, records: Sequence[DeadRecord]) -> None:
        try:
            failures = self._produce(records)
            for _, error in failures:
                if error.code() not in _REFUSALS:
                    raise KafkaException(error)
        except KafkaException as error:
            self._producer = None  # the next attempt looks for the topic again
            raise StreamUnavailable(
                f"dead letters cannot be written to the Kafka topic {self._topic}: {cause(error).str()}"
            ) from error
        for record, refusal in failures:
            _log_loss(record, refusal)

    def _produce(self, records: Sequence[DeadRecord]) -> list[tuple[DeadRecord, KafkaError]]:
        """Send all records to Kafka and wait; return those that it did not confirm, each with the error."""
        producer = self._producer = self._producer or self._open()
        failures: list[tuple[DeadRecord, KafkaError]] = []

        def reporting(record: DeadRecord) -> Callable[[KafkaError | None, Message], None]:
            def report(error: KafkaError | None, _: Message) -> None:
                if error is not None:
                    failures.append((record, error))

            return report

        for record in records:
            try:
                producer.produce(
                    self._topic, record.value, record.key, headers=_headers(record), on_delivery=reporting(record)
                )
            except KafkaException as problem:  # the client itself already finds the record too large
                failures.append((record, cause(problem)))
        producer.flush()
        return failures

    def _open(self) -> Producer:
        producer = Producer(
            self._servers
            | {
                "acks": "all",
                "linger.ms": 0,
                "message.timeout.ms": DELIVERY_SECONDS * 1000,
                "allow.auto.create.topics": False,
                # Above the brokers' default of 1 MB, because the headers are added to a record that was accepted once.
                "message.max.bytes": 10_000_000,
            }
        )
        found = producer.list_topics(self._topic, timeout=DELIVERY_SECONDS).topics[self._topic]
        if found.error is not None:
            self._make_topic()
        return producer

    def _make_topic(self) -> None:
        admin = AdminClient(self._servers)  # kept in a variable: garbage collection would drop unfinished requests
        topic = NewTopic(self._topic, num_partitions=1, replication_factor=-1)
        try:
            admin.create_topics([topic])[self._topic].result(DELIVERY_SECONDS)
        except KafkaException as error:
            if cause(error).code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        log.info("dead_letter_topic_made", topic=self._topic)


_REFUSALS = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.INVALID_RECORD}
"""Errors that a retry does not fix."""


def _log_loss(record: DeadRecord, refusal: KafkaError) -> None:
    log.error(
        "dead_letter_refused",
        refusal=refusal.str(),
        reason=record.reason,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
    )


def _headers(record: DeadRecord) -> list[tuple[str, str | bytes]]:
    return [
        ("reason", record.reason),
        ("topic", record.topic),
        ("partition", str(record.partition)),
        ("offset", str(record.offset)),
    ]

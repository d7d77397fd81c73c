"""Records of Debezium's topic, written without Debezium: for a dispatcher that is to have much to do at once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from confluent_kafka import Consumer, Message, Producer

FIRST_ID = 10**12
"""Of rows that are in no table: far above those that are."""
RECIPIENT = "a-recipient-that-nobody-is"
PATIENCE = 30.0
"""Seconds that Debezium has to write a record."""

Record = tuple[bytes, bytes]
"""A key and a value."""


@dataclass(frozen=True)
class Pattern:
    """A record that Debezium wrote, in pieces: what differs from record to record is left out."""

    key: bytes
    value: bytes

    def record(self, number: int, recipient: str, tx: int) -> Record:
        """That of a new row for this recipient, by this transaction."""
        name = recipient.encode()
        value = self.value.replace(b"%id%", b"%d" % (FIRST_ID + number))
        return self.key.replace(b"%recipient%", name), value.replace(b"%recipient%", name).replace(b"%tx%", b"%d" % tx)


class Topic:
    """The topic of these settings."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._servers = settings["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"]
        self._name = settings.get("ROWBELL_KAFKA_TOPIC", "rowbell.public.notification")
        self._producer = Producer(
            {"bootstrap.servers": self._servers, "linger.ms": 5, "queue.buffering.max.messages": 10_000_000}
        )

    def __enter__(self) -> Topic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._producer.flush(PATIENCE)

    def pattern(self, database: psycopg.Connection[tuple[Any, ...]]) -> Pattern:
        """Insert a row for nobody, and take apart what Debezium writes of it."""
        insert = "INSERT INTO notification (recipient_id, title, data) VALUES (%s, 'Notification', %s)"
        database.execute(insert, [RECIPIENT, '{"postId": "p-100"}'])
        message = self._find(RECIPIENT.encode())
        value = json.loads(message.value() or b"")
        value["after"] |= {"id": "%id%", "recipient_id": "%recipient%", "inserted_tx": "%tx%", "changed_tx": "%tx%"}
        text = json.dumps(value, separators=(",", ":")).encode()
        for number in (b"%id%", b"%tx%"):
            text = text.replace(b'"' + number + b'"', number)
        return Pattern((message.key() or b"").replace(RECIPIENT.encode(), b"%recipient%"), text)

    def write(self, records: Iterable[Record]) -> None:
        """Write these, to the partitions that their keys say, and wait until they are there."""
        for number, (key, value) in enumerate(records):
            self._producer.produce(self._name, value, key)
            if number % 1000 == 0:
                self._producer.poll(0)
        if left := self._producer.flush(PATIENCE):
            raise RuntimeError(f"Kafka has not taken {left} records")

    def _find(self, recipient: bytes) -> Message:
        group = {"group.id": "benchmark", "auto.offset.reset": "earliest", "enable.auto.commit": False}
        consumer = Consumer({"bootstrap.servers": self._servers, **group})
        consumer.subscribe([self._name])
        deadline = time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                message = consumer.poll(1.0)
                if message is not None and not message.error() and recipient in (message.value() or b""):
                    return message
        finally:
            consumer.close()
        raise RuntimeError("Debezium has not written the record of a row")

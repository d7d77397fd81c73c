"""Writes records to Debezium's topic without Debezium, to give a dispatcher much to do at once."""

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
"""First id of the rows, which are in no table: far above those that are."""
RECIPIENT = "a-recipient-that-nobody-is"
PATIENCE = 30.0
"""Seconds in which Debezium must write a record."""

Record = tuple[bytes, bytes]
"""Key and value."""


@dataclass(frozen=True)
class Pattern:
    """A record that Debezium wrote, as a template: placeholders stand for what differs between records."""

    key: bytes
    value: bytes

    def record(self, number: int, recipient: str, tx: int) -> Record:
        """Return the record of a new row for this recipient, inserted by this transaction."""
        name = recipient.encode()
        value = self.value.replace(b"%id%", b"%d" % (FIRST_ID + number))
        return self.key.replace(b"%recipient%", name), value.replace(b"%recipient%", name).replace(b"%tx%", b"%d" % tx)


class Topic:
    """The topic that these settings name."""

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
        """Insert a row for nobody, and make a template of the record that Debezium writes for it."""
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
        """Write records to the partitions that their keys determine, and wait until they are stored. Raises
        RuntimeError.
        """
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

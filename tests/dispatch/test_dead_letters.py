from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from rowbell.changes import DeadRecord
from rowbell.dispatch import dead_letters
from rowbell.dispatch.dead_letters import KafkaDeadLetters, MemoryDeadLetters
from rowbell.errors import StreamUnavailable
from stack import Stack

RECORD = DeadRecord(b'{"recipient_id":"alice"}', b'{"op":', "Input data was truncated", "rowbell.topic", 3, 2**40)
BARE = DeadRecord(None, b"\xff", "é", "rowbell.topic", 0, 0)


class Topic:
    """A dead-letter topic of its own, which does not exist yet."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.name = f"test.{uuid.uuid4().hex}"
        self.letters = KafkaDeadLetters(servers, self.name)

    def read(self, count: int) -> list[Message]:
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.name})
        try:
            consumer.assign([TopicPartition(self.name, 0, 0)])
            return consumer.consume(count, timeout=20)
        finally:
            consumer.close()

    def delete(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers})
        admin.delete_topics([self.name])[self.name].result(timeout=30)


@pytest.fixture
async def topic(stack: Stack) -> AsyncIterator[Topic]:
    topic = Topic(stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"])
    yield topic
    await topic.letters.close()
    await asyncio.to_thread(topic.delete)


async def test_memory_keeps_records_in_order() -> None:
    letters = MemoryDeadLetters()

    await letters.keep([RECORD])
    await letters.keep([BARE])

    assert list(letters.records) == [RECORD, BARE]


async def test_a_record_is_kept_as_it_came_with_its_reason_and_origin(topic: Topic) -> None:
    await topic.letters.keep([RECORD, BARE])

    first, second = await asyncio.to_thread(topic.read, 2)
    assert (first.key(), first.value()) == (RECORD.key, RECORD.value)
    assert first.headers() == [
        ("reason", b"Input data was truncated"),
        ("topic", b"rowbell.topic"),
        ("partition", b"3"),
        ("offset", b"1099511627776"),
    ]
    assert (second.key(), second.value()) == (None, b"\xff")
    assert dict(second.headers() or [])["reason"] == "é".encode()


async def test_a_topic_that_exists_is_written_to(topic: Topic) -> None:
    await topic.letters.keep([RECORD])
    await topic.letters.keep([BARE])

    assert [letter.value() for letter in await asyncio.to_thread(topic.read, 2)] == [RECORD.value, BARE.value]


async def test_a_record_that_kafka_refuses_for_good_is_logged_and_holds_up_nobody(topic: Topic) -> None:
    enormous = DeadRecord(None, b"x" * 20_000_000, "too large to be one of ours", "rowbell.topic", 1, 2)

    with capture_logs() as logs:
        await topic.letters.keep([enormous, RECORD])

    [log] = [log for log in logs if log["event"] == "dead_letter_refused"]
    assert (log["topic"], log["partition"], log["offset"], log["reason"]) == ("rowbell.topic", 1, 2, enormous.reason)
    assert [letter.value() for letter in await asyncio.to_thread(topic.read, 1)] == [RECORD.value]


async def test_a_record_larger_than_the_brokers_limit_is_logged_too(topic: Topic) -> None:
    large = DeadRecord(None, b"x" * 2_000_000, "larger than max.message.bytes", "rowbell.topic", 1, 2)

    with capture_logs() as logs:
        await topic.letters.keep([large])

    assert "dead_letter_refused" in {log["event"] for log in logs}
    await topic.letters.keep([RECORD])


async def test_a_kafka_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "DELIVERY_SECONDS", 1)
    letters = KafkaDeadLetters("127.0.0.1:1", "topic")

    with pytest.raises(StreamUnavailable, match="cannot be written to the Kafka topic topic"):
        await letters.keep([RECORD])

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack import Stack
from tests.changes.streams import KafkaStream, MemoryStream, Stream


@pytest.fixture
def kafka_stream(stack: Stack) -> Iterator[KafkaStream]:
    stream = KafkaStream(stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"])
    stream.create_topic()
    yield stream
    stream.delete_topic()


@pytest.fixture(params=["memory", "kafka"])
def stream(request: pytest.FixtureRequest) -> Stream:
    if request.param == "memory":
        return MemoryStream()
    kafka: KafkaStream = request.getfixturevalue("kafka_stream")
    return kafka

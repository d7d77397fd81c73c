from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stack import Stack
from tests.changes.streams import KafkaStream, MemoryStream, Stream, WalStream
from tests.postgres_server import PostgresServer, migrated, postgres, postgres18

__all__ = ["postgres", "postgres18"]


@pytest.fixture
def kafka_stream(stack: Stack) -> Iterator[KafkaStream]:
    stream = KafkaStream(stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"])
    stream.create_topic()
    yield stream
    stream.delete_topic()


@pytest.fixture(scope="session")
def template(postgres: PostgresServer) -> Iterator[str]:
    with migrated(postgres) as name:
        yield name


@pytest.fixture(scope="session")
def template18(postgres18: PostgresServer) -> Iterator[str]:
    with migrated(postgres18) as name:
        yield name


@pytest.fixture
def wal(postgres: PostgresServer, template: str) -> Iterator[WalStream]:
    """The log of PostgreSQL 15. At the end nothing of a source may be left there."""
    with _wal_stream(postgres, template) as stream:
        yield stream


@pytest.fixture
def wal18(postgres18: PostgresServer, template18: str) -> Iterator[WalStream]:
    """That of PostgreSQL 18."""
    with _wal_stream(postgres18, template18) as stream:
        yield stream


@contextmanager
def _wal_stream(server: PostgresServer, template: str) -> Iterator[WalStream]:
    with server.database(template) as name:
        stream = WalStream(server, name)
        yield stream
        stream.wait_until_nothing_is_left()


@pytest.fixture(params=["wal", "wal18"])
def either_wal(request: pytest.FixtureRequest) -> WalStream:
    stream: WalStream = request.getfixturevalue(request.param)
    return stream


@pytest.fixture(params=["memory", "kafka"])
def kept_stream(request: pytest.FixtureRequest) -> Stream:
    """One that keeps for a source what was appended before it was opened, or was not done."""
    if request.param == "memory":
        return MemoryStream()
    kafka: KafkaStream = request.getfixturevalue("kafka_stream")
    return kafka


@pytest.fixture(params=["memory", "kafka", "wal", "wal18"])
def stream(request: pytest.FixtureRequest) -> Stream:
    if request.param == "memory":
        return MemoryStream()
    stream: Stream = request.getfixturevalue("kafka_stream" if request.param == "kafka" else request.param)
    return stream

"""`rowbell dispatch` as a process: it starts, stops and dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from rowbell.bus import Receiver
from rowbell.bus.rabbitmq import RabbitMQBus
from rowbell.presence.redis import RedisPresence
from stack import Stack
from tests.changes.streams import KafkaStream
from tests.integration.processes import Dispatcher, Process, eventually, running

SOON = 60.0


@pytest.fixture
def stream(stack: Stack) -> Iterator[KafkaStream]:
    stream = KafkaStream(stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"])
    stream.create_topic()
    yield stream
    stream.delete_topic()


@pytest.fixture
def env(stack: Stack, stream: KafkaStream) -> dict[str, str]:
    """What a dispatcher needs, and nothing else; its topic and group are its own."""
    needed = ("ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "ROWBELL_REDIS_URL", "ROWBELL_RABBITMQ_URL")
    return {name: stack.settings_env[name] for name in needed} | {
        "ROWBELL_KAFKA_TOPIC": stream.topic,
        "ROWBELL_KAFKA_GROUP": stream.group,
        "ROWBELL_KAFKA_DEAD_LETTER_TOPIC": f"{stream.topic}.dead-letters",
    }


@pytest.fixture
async def receiver(env: dict[str, str], stream: KafkaStream) -> AsyncIterator[Receiver]:
    """A gateway, at which the users `user-0` to `user-19` of this test are."""
    bus = RabbitMQBus(env["ROWBELL_RABBITMQ_URL"])
    presence = RedisPresence(env["ROWBELL_REDIS_URL"])
    async with bus.receive() as receiver:
        await presence.add(receiver.gateway, [user(stream, number) for number in range(20)])
        yield receiver
    await presence.close()


def user(stream: KafkaStream, number: int) -> str:
    return f"user-{number}.{stream.topic}"


@contextlib.asynccontextmanager
async def gathering(receiver: Receiver) -> AsyncIterator[list[int]]:
    """The ids of the changes that arrive, as they do."""
    ids: list[int] = []

    async def gather() -> None:
        async for changes in receiver.bundles():
            ids.extend(change.id for change in changes)

    task = asyncio.create_task(gather())
    yield ids
    task.cancel()


async def append_until(stream: KafkaStream, condition: Callable[[], bool], first: int) -> int:
    """Append a row every now and then until the condition holds; the id after the last."""
    next_id = first

    def appended() -> bool:
        nonlocal next_id
        stream.append([next_id], user(stream, next_id % 20))
        next_id += 1
        return condition()

    await eventually("the condition", appended, SOON)
    return next_id


async def test_a_row_on_the_topic_reaches_its_gateway_and_sigterm_ends_the_process(
    env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(env, tmp_path / "log")
    async with gathering(receiver) as ids:
        with running(dispatcher):
            stream.append(range(1, 11), user(stream, 0))
            await eventually("all", lambda: ids == list(range(1, 11)), SOON)
            await eventually("counted", lambda: published(dispatcher) == 10)

            assert await asyncio.to_thread(dispatcher.stop, 10) == 0

    events = [json.loads(line)["event"] for line in dispatcher.log.read_text().splitlines()]
    assert events == ["metrics_listening", "partitions_assigned", "stopping", "partitions_revoked"]


async def test_what_was_done_before_a_stop_does_not_come_again(
    env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    async with gathering(receiver) as ids:
        stream.append([1, 2, 3], user(stream, 0))
        with running(Dispatcher(env, tmp_path / "first.log")):
            await eventually("the first", lambda: len(ids) == 3, SOON)

        stream.append([4], user(stream, 0))
        with running(Dispatcher(env, tmp_path / "second.log")):
            await eventually("the fourth", lambda: 4 in ids, SOON)

    assert ids == [1, 2, 3, 4]


async def test_the_partitions_of_a_dispatcher_that_was_killed_move_within_seconds(
    env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    one, two = Dispatcher(env, tmp_path / "one.log"), Dispatcher(env, tmp_path / "two.log")
    async with gathering(receiver) as ids:
        with running(one, two):
            next_id = await append_until(stream, lambda: bool(published(one) and published(two)), 1)

            one.kill()

            everything = range(1, next_id + 20)
            for id in everything[next_id - 1 :]:
                stream.append([id], user(stream, id % 20))
            await eventually("everything", lambda: set(ids) == set(everything), within=20)


async def test_it_can_begin_at_the_end(
    env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    stream.append([1, 2, 3], user(stream, 0))
    dispatcher = Process(["dispatch", "--from-end"], env, tmp_path / "log")
    async with gathering(receiver) as ids:
        with running(dispatcher):
            dispatcher.wait_for("skipped", lambda: "skipped_to_end" in dispatcher.log.read_text(), SOON)
            stream.append([4], user(stream, 0))
            await eventually("the fourth", lambda: bool(ids), SOON)

    assert ids == [4]


async def test_it_waits_for_servers_that_are_not_there_and_stops_all_the_same(tmp_path: Path) -> None:
    nowhere = {
        "ROWBELL_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "ROWBELL_REDIS_URL": "redis://127.0.0.1:1",
        "ROWBELL_RABBITMQ_URL": "amqp://127.0.0.1:1",
    }
    dispatcher = Dispatcher(nowhere, tmp_path / "log")
    with running(dispatcher):
        dispatcher.wait_for("waiting", lambda: "kafka_unreachable" in dispatcher.log.read_text(), SOON)

        assert await asyncio.to_thread(dispatcher.stop, 10) == 0


async def test_a_batch_that_cannot_be_published_does_not_hold_up_a_stop(
    env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(env | {"ROWBELL_RABBITMQ_URL": "amqp://127.0.0.1:1"}, tmp_path / "log")
    with running(dispatcher):
        stream.append([1], user(stream, 0))
        dispatcher.wait_for("waiting", lambda: "dispatch_waits" in dispatcher.log.read_text(), SOON)

        assert await asyncio.to_thread(dispatcher.stop, 20) == 0

    async with gathering(receiver) as ids:
        with running(Dispatcher(env, tmp_path / "next.log")):
            await eventually("the change", lambda: ids == [1], SOON)


async def test_a_broker_that_hangs_does_not_hold_up_a_stop(
    stack: Stack, env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(env, tmp_path / "log")
    with running(dispatcher):
        stream.append([1], user(stream, 0))
        await eventually("connected", lambda: published(dispatcher) == 1, SOON)
        stack.kill("rabbitmq", signal.SIGSTOP)
        try:
            stream.append([2], user(stream, 0))

            assert await asyncio.to_thread(dispatcher.stop, 20) == 0
        finally:
            stack.kill("rabbitmq", signal.SIGCONT)


async def test_a_record_that_is_no_change_goes_to_the_dead_letters(
    env: dict[str, str], stream: KafkaStream, receiver: Receiver, tmp_path: Path
) -> None:
    dispatcher = Dispatcher(env, tmp_path / "log")
    async with gathering(receiver) as ids:
        with running(dispatcher):
            stream.append_garbage()
            stream.append([1], user(stream, 0))

            await eventually("the change", lambda: ids == [1], SOON)
            await eventually("the dead letter", lambda: outcome(dispatcher, "dead_letter") == 1)


@pytest.mark.parametrize("missing", ["ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "ROWBELL_REDIS_URL", "ROWBELL_RABBITMQ_URL"])
def test_a_missing_setting_is_named(missing: str) -> None:
    env = {
        "ROWBELL_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "ROWBELL_REDIS_URL": "redis://127.0.0.1:1",
        "ROWBELL_RABBITMQ_URL": "amqp://127.0.0.1:1",
    }
    del env[missing]

    command = [sys.executable, "-m", "rowbell", "dispatch"]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=SOON)

    assert result.returncode == 2
    assert f"{missing} is not set" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def outcome(dispatcher: Process, outcome: str) -> float:
    return dispatcher.metric("rowbell_dispatched_total", outcome=outcome)


def published(dispatcher: Process) -> float:
    return outcome(dispatcher, "published")

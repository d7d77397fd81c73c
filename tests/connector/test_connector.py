"""`rowbell connector` against a real Kafka Connect and PostgreSQL."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from confluent_kafka import Consumer, Message

from rowbell.connector.definition import Definition
from stack import Stack

NAME = Definition.read().name
TOPIC = "rowbell.public.notification"

Rowbell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rowbell(stack: Stack) -> Rowbell:
    """`rowbell connector ...` as a process of its own."""

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rowbell", "connector", *arguments]
        env = {**os.environ, **stack.settings_env, **environ}
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def another(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Files of a connector with a name, a slot and topics of its own; all of them go away with the test."""
    name = f"other_{uuid.uuid4().hex[:8]}"
    connect = f"{stack.settings_env['ROWBELL_CONNECT_URL']}/connectors/{name}"

    def write(**changes: str) -> Path:
        apart = {"slot.name": name, "topic.prefix": name}
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"name": name, "config": Definition.read().config | apart | changes}))
        return file

    yield write
    requests.delete(connect, timeout=30)
    drop_slot(stack, name)


def drop_slot(stack: Stack, name: str) -> None:
    """Drop it when the connector has let go of it."""
    query = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active"
    left = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s"
    deadline = time.monotonic() + 30
    with psycopg.connect(stack.database_url("postgres"), autocommit=True) as connection:
        while connection.execute(left, [name]).fetchone():
            connection.execute(query, [name])
            assert time.monotonic() < deadline, f"the slot {name} stays in use"
            time.sleep(0.1)


def test_applying_what_is_there_already_changes_nothing(rowbell: Rowbell) -> None:
    # Given a connector, which the stack registered
    # When
    ran = rowbell("apply")
    # Then
    assert (ran.returncode, ran.stdout) == (0, f"{NAME}: unchanged\n{NAME}: streaming\n"), ran.stderr


def test_a_connector_is_made_and_then_updated(rowbell: Rowbell, another: Callable[..., Path], stack: Stack) -> None:
    # Given
    made = rowbell("apply", "--file", str(file := another()))
    # When
    updated = rowbell("apply", "--file", str(another(**{"max.batch.size": "600"})))
    # Then
    assert [made.stdout.split()[1], updated.stdout.split()[1]] == ["created", "updated"], made.stderr + updated.stderr
    url = f"{stack.settings_env['ROWBELL_CONNECT_URL']}/connectors/{file.stem}/config"
    assert requests.get(url, timeout=10).json()["max.batch.size"] == "600"
    assert rowbell("status", "--file", str(file)).stdout.endswith(": RUNNING\ntask 0: RUNNING\n")


def test_a_connector_that_fails_is_reported_with_the_first_line_of_its_trace(
    rowbell: Rowbell, another: Callable[..., Path]
) -> None:
    # Given
    file = str(another(**{"publication.name": "nowhere"}))
    # When
    applied, status = rowbell("apply", "--file", file), rowbell("status", "--file", file)
    # Then
    reason = "ConnectException: Publication autocreation is disabled, please create one and restart the connector."
    assert (applied.returncode, len(applied.stderr.splitlines())) == (1, 1)
    assert reason in applied.stderr
    assert status.returncode == 1
    assert "task 0: FAILED\nreason: " in status.stdout
    assert reason in status.stdout


def test_a_connector_that_runs_but_never_streams_is_not_taken_for_one_that_does(
    rowbell: Rowbell, another: Callable[..., Path]
) -> None:
    # Given a snapshot that fails, which Debezium repeats for ever, RUNNING all the time
    file = another(**{"snapshot.select.statement.overrides.public.notification": "SELECT nonsense"})
    # When
    ran = rowbell("apply", "--file", str(file), "--timeout", "8")
    # Then
    assert ran.returncode == 1
    assert "it is RUNNING, its task is RUNNING, and its position does not advance" in ran.stderr


def test_a_configuration_that_connect_refuses_is_reported_with_the_reason(
    rowbell: Rowbell, another: Callable[..., Path]
) -> None:
    # Given
    file = another(**{"database.password": "wrong"})
    # When
    ran = rowbell("apply", "--file", str(file))
    # Then
    assert ran.returncode == 1
    assert "refused the request with status 400" in ran.stderr
    assert 'password authentication failed for user "connector"' in ran.stderr


def test_the_status_of_a_connector_that_nobody_registered_says_what_to_do(
    rowbell: Rowbell, another: Callable[..., Path]
) -> None:
    # Given
    file = another()
    # When
    ran = rowbell("status", "--file", str(file))
    # Then
    assert (ran.returncode, ran.stdout) == (
        1,
        f"{file.stem}: not registered. To register it: rowbell connector apply\n",
    )


def test_a_connect_that_is_away_is_tried_until_the_time_is_over(rowbell: Rowbell) -> None:
    # Given a port on which nobody listens
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        # When
        ran = rowbell("status", "--timeout", "1", ROWBELL_CONNECT_URL=url)
    # Then
    assert ran.returncode == 1
    assert f"Kafka Connect at {url} cannot be used: [Errno 111] Connection refused" in ran.stderr


def test_the_database_password_is_not_in_what_connect_shows(stack: Stack) -> None:
    # When
    shown = requests.get(f"{stack.settings_env['ROWBELL_CONNECT_URL']}/connectors/{NAME}", timeout=10).text
    # Then
    assert "${file:connector.properties:password}" in shown
    assert stack.home.secret("connector") not in shown


def test_a_row_reaches_the_topic_keyed_by_its_recipient_and_without_its_dedup_key(stack: Stack) -> None:
    # Given
    recipient = f"alice-{uuid.uuid4().hex[:8]}"
    insert = "INSERT INTO notification (recipient_id, title, dedup_key) VALUES (%s, 'Hello', 'once')"
    # When
    with psycopg.connect(stack.database_url("app")) as connection:
        connection.execute(insert, [recipient])
    message = first_message(
        stack, TOPIC, lambda message: json.loads(message.key() or b"null") == {"recipient_id": recipient}
    )
    # Then
    change = json.loads(message.value() or b"null")
    assert (change["op"], change["after"]["title"]) == ("c", "Hello")
    assert "dedup_key" not in change["after"]


def test_a_snapshot_brings_the_unread_rows_with_the_columns_that_streaming_has(
    rowbell: Rowbell, another: Callable[..., Path], stack: Stack
) -> None:
    # Given one row that is unread and one that is read
    read, unread = f"read-{uuid.uuid4().hex[:8]}", f"unread-{uuid.uuid4().hex[:8]}"
    with psycopg.connect(stack.database_url("app")) as connection:
        for recipient in (read, unread):
            connection.execute("INSERT INTO notification (recipient_id, title) VALUES (%s, 'Hello')", [recipient])
        connection.execute("UPDATE notification SET read_at = now() WHERE recipient_id = %s", [read])
    streamed = first_message(stack, TOPIC, lambda message: of(message)["recipient_id"] == unread)
    # When another connector starts, from a snapshot
    file = another()
    assert rowbell("apply", "--file", str(file)).returncode == 0
    # Then
    seen: list[str] = []

    def is_unread(message: Message) -> bool:
        seen.append(of(message)["recipient_id"])
        return seen[-1] == unread

    snapshot = first_message(stack, f"{file.stem}.public.notification", is_unread)
    assert json.loads(snapshot.value() or b"null")["op"] == "r"
    assert of(snapshot) == of(streamed)
    assert read not in seen


def test_the_topic_has_twelve_partitions_whoever_makes_it(
    rowbell: Rowbell, another: Callable[..., Path], stack: Stack
) -> None:
    # Given the stack's own topic, and one that Connect makes
    file = another(**{"topic.creation.notification.include": ".*public.notification"})
    assert rowbell("apply", "--file", str(file)).returncode == 0
    with psycopg.connect(stack.database_url("app")) as connection:
        connection.execute("INSERT INTO notification (recipient_id, title) VALUES ('somebody', 'Hello')")
    # When
    first_message(stack, f"{file.stem}.public.notification", lambda message: True)
    # Then
    assert [partitions(stack, topic) for topic in (TOPIC, f"{file.stem}.public.notification")] == [12, 12]
    assert partitions(stack, "rowbell.public.rowbell_heartbeat") == 1


def of(message: Message) -> dict[str, Any]:
    """The row that a message of the topic holds; an empty recipient for a deletion."""
    row: dict[str, Any] | None = json.loads(message.value() or b"null")["after"]
    return row or {"recipient_id": ""}


def consumer(stack: Stack) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": stack.settings_env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"],
            "group.id": uuid.uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "topic.metadata.refresh.interval.ms": 500,
            "allow.auto.create.topics": False,
        }
    )


def partitions(stack: Stack, topic: str) -> int:
    reader = consumer(stack)
    try:
        return len(reader.list_topics(topic, timeout=10).topics[topic].partitions)
    finally:
        reader.close()


def first_message(stack: Stack, topic: str, wanted: Callable[[Message], bool]) -> Message:
    """The first message of the topic that is wanted; it may come yet, and the topic too."""
    reader = consumer(stack)
    reader.subscribe([topic])
    deadline = time.monotonic() + 30
    try:
        while True:
            message = reader.poll(0.5)
            if message is not None and message.error() is None and wanted(message):
                return message
            assert time.monotonic() < deadline, f"the message did not come in {topic}"
    finally:
        reader.close()

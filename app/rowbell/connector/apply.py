"""Register the connector and see that it streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from rowbell.connector.connect import Connect
from rowbell.connector.definition import Definition
from rowbell.errors import ConnectorError

POLL_SECONDS = 0.2


class Applied(Enum):
    """What `apply` found to do."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


def apply(connect: Connect, definition: Definition) -> Applied:
    """Make the connector be as defined: registered, with this configuration, its failed parts started again."""
    present = connect.config(definition.name)
    # Connect adds the name to what it was given.
    if present == definition.config | {"name": definition.name}:
        connect.restart_failed(definition.name)
        return Applied.UNCHANGED
    connect.put_config(definition.name, definition.config)
    return Applied.CREATED if present is None else Applied.UPDATED


def wait_until_streaming(connect: Connect, name: str, moves: int = 1) -> None:
    """Wait until connector and task run, and the position has moved so often since we began to look.

    RUNNING alone proves nothing: a task can fail a second later, or repeat its start for ever. The position moves with
    the connector's heart-beat, a row that it writes itself every `heartbeat.interval.ms`, so it moves on a quiet
    database too; Connect writes it down after the record is in Kafka. After an update ask for two moves: the task that
    is being replaced writes its last position. ConnectorError with the first line of the trace when a part fails.
    """
    position = connect.offsets(name)
    seen = 0

    def streams() -> bool:
        nonlocal position, seen
        status = connect.status(name)
        if status and status.failure:
            raise ConnectorError(f"The connector {name} failed: {status.failure}")
        if (now := connect.offsets(name)) not in (None, position):
            position, seen = now, seen + 1
        return bool(status and status.is_running) and seen >= moves

    _wait(connect, streams, name)


def _wait(connect: Connect, condition: Callable[[], bool], name: str) -> None:
    while not condition():
        if connect.out_of_time:
            status = connect.status(name)
            state = status.state if status else "unknown to Connect"
            tasks = ", ".join(task.state for task in status.tasks) if status else ""
            raise ConnectorError(
                f"The connector {name} does not stream in time: it is {state}, its task {tasks or 'not there'}, "
                "and its position does not move. Look into the log of Connect and at the slot: "
                "SELECT * FROM pg_replication_slots"
            )
        time.sleep(POLL_SECONDS)

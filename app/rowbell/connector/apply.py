"""Registers the connector and waits until it streams."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from rowbell.connector.connect import Connect
from rowbell.connector.definition import Definition
from rowbell.errors import ConnectorError

POLL_SECONDS = 0.2


class Applied(Enum):
    """What `apply` did."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"


def apply(connect: Connect, definition: Definition) -> Applied:
    """Register the connector or update its configuration if it differs; else restart its failed parts.

    Raises ConnectorError if Connect refuses or cannot be reached.
    """
    present = connect.config(definition.name)
    # Connect adds the name to the configuration.
    if present == definition.config | {"name": definition.name}:
        connect.restart_failed(definition.name)
        return Applied.UNCHANGED
    connect.put_config(definition.name, definition.config)
    return Applied.CREATED if present is None else Applied.UPDATED


def wait_until_streaming(connect: Connect, name: str, moves: int = 1) -> None:
    """Wait until connector and task run, and the connector's position has advanced `moves` times.

    RUNNING alone proves nothing: a task can fail a second later, or restart for ever. The position advances with the
    connector's heart-beat, a row that it writes every `heartbeat.interval.ms`, so it advances on a quiet database as
    well; Connect stores it once the record is in Kafka. After an update, wait for two moves: the task that is being
    replaced stores its last position. Raises ConnectorError with the first line of the trace if a part fails, or if
    this does not happen in time.
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
                f"The connector {name} did not start streaming in time: it is {state}, its task is "
                f"{tasks or 'missing'}, and its position does not advance. See Connect's log, and the replication "
                "slot: SELECT * FROM pg_replication_slots"
            )
        time.sleep(POLL_SECONDS)

"""`rowbell connector`: registers the Debezium connector and shows its state."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rowbell.config import Settings

if TYPE_CHECKING:
    from rowbell.connector.connect import Connect
    from rowbell.connector.definition import Definition

TIMEOUT = 60
"""Seconds. A start takes 2 to 5, an update up to 10, since it waits for two heart-beats."""

EXAMPLE = """example:
  rowbell connector apply
  rowbell connector status

ROWBELL_CONNECT_URL is the address of Connect, for example http://127.0.0.1:8083. The connector reads the address and
password of the database from connector.properties in the working directory of the Connect worker."""

EXAMPLE_APPLY = """example:
  rowbell connector apply
  rowbell connector apply --file connectors/notification-postgres.json"""

EXAMPLE_STATUS = """example:
  rowbell connector status
The exit status is 0 if the connector and its task are running, else 1."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell connector apply [--file FILE] [--timeout SECONDS]` and `rowbell connector status [--file FILE]`."""
    parser = subparsers.add_parser(
        "connector",
        help="register the Debezium connector, or show its state",
        description="Manage the Debezium connector for the table `notification`. Needs ROWBELL_CONNECT_URL.",
        epilog=EXAMPLE,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    apply = actions.add_parser(
        "apply",
        help="register or update it, and wait until it streams",
        description="Register the connector or update its configuration, and wait until changes arrive.",
        epilog=EXAMPLE_APPLY,
    )
    status = actions.add_parser(
        "status",
        help="show the state of the connector and its tasks",
        description="Show the state of the connector and its tasks.",
        epilog=EXAMPLE_STATUS,
    )
    for action in (apply, status):
        action.add_argument(
            "--file", type=Path, metavar="FILE", help="its JSON (default: the one shipped with Rowbell)"
        )
        action.add_argument(
            "--timeout",
            type=float,
            metavar="SECONDS",
            default=TIMEOUT,
            help="how long to keep trying (default: %(default)s)",
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run the action and print its result. Raises ConnectorError if Connect refuses or the connector fails."""
    from rowbell.connector.connect import Connect
    from rowbell.connector.definition import Definition

    settings.require("connect_url")
    definition = Definition.read(args.file)
    with Connect(str(settings.connect_url), args.timeout) as connect:
        return _apply(connect, definition) if args.action == "apply" else _status(connect, definition.name)


def _apply(connect: Connect, definition: Definition) -> int:
    from rowbell.connector.apply import Applied, apply, wait_until_streaming

    done = apply(connect, definition)
    print(f"{definition.name}: {done.value}", flush=True)
    wait_until_streaming(connect, definition.name, moves=2 if done is Applied.UPDATED else 1)
    print(f"{definition.name}: streaming")
    return 0


def _status(connect: Connect, name: str) -> int:
    status = connect.status(name)
    if status is None:
        print(f"{name}: not registered. To register it: rowbell connector apply")
        return 1
    print(f"{name}: {status.state}")
    for task in status.tasks:
        print(f"task {task.number}: {task.state}")
    if status.failure:
        print(f"reason: {status.failure}")
    return 0 if status.is_running else 1

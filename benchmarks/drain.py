"""Many rows for many connected users: `python -m benchmarks.drain [--mode MODE] [--rows N] [--users N]`.

Subscriptions use `ack:auto`, so each frame's delivery is recorded. Frames are counted on the wire by one client process
for all users (`benchmarks.counting_client`). Processor time is what each process used until the last delivery was
recorded.

*postgres-only*: one transaction of all rows. The time is from the confirmation of the commit to the last frame and,
separately, to the last recorded delivery.

*pipeline*: twice. First the throughput of dispatcher, RabbitMQ and gateways together: the dispatcher is halted
(SIGSTOP), all records are written to its topic, and it is resumed; the time is from the first frame to the last. The
records are copies of one that Debezium wrote, with other ids and recipients, and with the id of a transaction that
stays open meanwhile: no gateway can find them in the table, so every frame has passed through Kafka and RabbitMQ. Then,
as in the other modes, one transaction of all rows, through Debezium: whatever does not arrive within seconds is read
from the table instead, by sweeps (*rescued*) and in pages, so this shows how fast users get their rows, and not how
fast the pipeline is.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import machine, targets
from benchmarks.clients import Clients
from benchmarks.records import Topic
from benchmarks.targets import Target

PATIENCE = 120.0
"""Seconds within which all deliveries must be recorded."""

INSERT = """
    INSERT INTO notification (recipient_id, title, data)
    SELECT %(prefix)s || n %% %(users)s, 'Notification ' || n, '{"postId": "p-100"}' FROM generate_series(1, %(rows)s) n
"""

RESCUED = ("rowbell_events_total", {"by": "rescued"})

MODES = ("postgres-only", "pipeline")


@dataclass
class Result:
    """The result of one run; times in epoch seconds."""

    title: str
    rows: int
    begun: float
    """When the commit was confirmed; or when the first frame arrived, if what precedes it is not measured."""
    counted: dict[str, Any]
    """See `Clients.counted`."""
    recorded: float
    """When the last delivery was in the table."""
    rescued: int
    """Frames sent by a sweep."""
    cpu: dict[str, float]
    """Name → seconds of processor time."""

    @property
    def is_whole(self) -> bool:
        """Whether every row arrived exactly once."""
        return self.counted["frames"] == self.counted["distinct"] == self.rows


def commit(target: Target, rows: int, users: int) -> Result:
    """Measure one transaction of all rows."""
    prefix = "drain-"
    with _connected(target, prefix, rows, users) as (clients, database):
        rescued = target.counter(*RESCUED)
        with database.transaction():
            database.execute(INSERT, {"prefix": prefix, "rows": rows, "users": users})
            before = target.cpu()
        committed = time.time()
        title = f"{target.name}: one transaction of {rows:,} rows"
        return _result(title, committed, target, rows, before, rescued, clients, database, prefix)


def catch_up(target: Target, rows: int, users: int) -> Result:
    """Measure how a dispatcher catches up with records that wait in its topic."""
    prefix = "caught-up-"
    assert target.stack is not None
    with _connected(target, prefix, rows, users) as (clients, database), Topic(target.stack.settings_env) as topic:
        pattern = topic.pattern(database)
        with psycopg.connect(target.database_url) as writer:  # its transaction stays open until all have come
            tx = _value(writer, "SELECT pg_current_xact_id()::text::bigint")
            rescued = target.counter(*RESCUED)
            target.stack.kill("dispatcher", signal.SIGSTOP)
            try:
                topic.write(pattern.record(number, f"{prefix}{number % users}", tx) for number in range(rows))
                before = target.cpu()
            finally:
                target.stack.kill("dispatcher", signal.SIGCONT)
            title = f"{target.name}: {rows:,} records that wait in Kafka"
            return _result(title, None, target, rows, before, rescued, clients, database, prefix)


@contextmanager
def _connected(
    target: Target, prefix: str, rows: int, users: int
) -> Iterator[tuple[Clients, psycopg.Connection[tuple[Any, ...]]]]:
    """Connect the users, who expect this many rows, and the database."""
    with Clients() as clients, psycopg.connect(target.database_url, autocommit=True) as database:
        clients.come([(target.urls[n % len(target.urls)], target.token(f"{prefix}{n}")) for n in range(users)], 1)
        clients.expect(rows)
        yield clients, database


def _result(
    title: str,
    begun: float | None,
    target: Target,
    rows: int,
    before: dict[str, float],
    rescued: float,
    clients: Clients,
    database: psycopg.Connection[tuple[Any, ...]],
    prefix: str,
) -> Result:
    counted = clients.counted()
    recorded = _wait_until_recorded(database, prefix, rows)
    # Read it while the connection is open: a process that ends between two reads of /proc would be missing in both.
    used = {name: seconds - before[name] for name, seconds in target.cpu().items() if name != "this benchmark"}
    rescued = target.counter(*RESCUED) - rescued
    return Result(title, rows, begun or counted["first"], counted, recorded, int(rescued), used)


def _wait_until_recorded(database: psycopg.Connection[tuple[Any, ...]], prefix: str, rows: int) -> float:
    deadline = time.time() + PATIENCE
    count = "SELECT count(*) FROM notification_delivery WHERE starts_with(user_id, %s)"
    while _value(database, count, prefix) != rows:
        if time.time() > deadline:
            raise RuntimeError(f"not all deliveries were recorded within {PATIENCE:.0f} s")
        time.sleep(0.05)
    return time.time()


def _value(database: psycopg.Connection[tuple[Any, ...]], query: str, *arguments: object) -> int:
    row = database.execute(query, arguments).fetchone()
    assert row is not None
    return int(row[0])


def show(results: list[Result]) -> None:
    for result in results:
        counted, seconds = result.counted, result.counted["last"] - result.begun
        first, recorded = counted["first"] - result.begun, result.recorded - result.begun
        live = result.rows - counted["replayed"] - result.rescued
        table = Table(title=f"{result.title}\n{machine.describe()}", show_header=False)
        table.add_row("messages/s, until the last frame", f"{result.rows / seconds:,.0f}")
        table.add_row("first frame, last frame, last delivery", _seconds(first, seconds, recorded))
        table.add_row("frames, distinct", f"{counted['frames']}, {counted['distinct']}")
        table.add_row("live, rescued, paged", f"{live / result.rows:.1%}, {result.rescued}, {counted['replayed']}")
        for name, used in {**result.cpu, "client": counted["cpu"]}.items():
            table.add_row(f"processor time per message: {name}", f"{used / result.rows * 1e6:.1f} µs")
        Console(width=110).print(table)


def _seconds(*values: float) -> str:
    return ", ".join(f"{value:.2f} s" for value in values)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, help="the mode to measure (default: each in turn)")
    parser.add_argument("--rows", type=int, default=100_000, help="number of rows (default: %(default)s)")
    parser.add_argument(
        "--users", type=int, default=200, help="number of users, each connected once (default: %(default)s)"
    )
    parser.add_argument(
        "--gateways",
        type=int,
        nargs="+",
        default=[1, 2],
        help="numbers of gateways to try in postgres-only mode (default: 1 2)",
    )
    args = parser.parse_args(arguments)
    results = []
    if args.mode in (None, "postgres-only"):
        for gateways in args.gateways:
            with targets.embedded() if gateways == 1 else targets.postgres_only(gateways) as target:
                results.append(commit(target, args.rows, args.users))
    if args.mode in (None, "pipeline"):
        with targets.pipeline() as target:
            results.append(catch_up(target, args.rows, args.users))
            results.append(commit(target, args.rows, args.users))
    show(results)
    return 0 if all(result.is_whole for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

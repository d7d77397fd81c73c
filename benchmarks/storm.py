"""All users reconnect at once: `python -m benchmarks.storm [--sessions N]`.

Five thousand users are connected, each subscribed to their notifications and to the number of unread ones; every second
one has three unread rows. The gateway is killed (SIGKILL). While it is away, each of the others gets a row; then
another gateway starts, and when it is ready all users connect at the same moment, without any limit on the rate.
Meanwhile five hundred more rows are committed. The benchmark counts the frames, each of which must arrive exactly once,
the time until the last subscription is live, and every statement that the gateway sends to PostgreSQL between its start
and that time (`log_statement` of its login).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import machine, targets
from benchmarks.clients import Clients
from benchmarks.targets import Beside

SESSIONS = 5000
UNREAD = 3
"""Unread rows of every second user."""
MEANWHILE = 500
"""Rows committed, one by one, while the users connect."""

INSERT = "INSERT INTO notification (recipient_id, title) SELECT 'storm-' || n, 'Hello' FROM unnest(%s::int[]) AS n"

KINDS = {
    "begin, commit and settings": r"(BEGIN|COMMIT|ROLLBACK|SET|SHOW)\b",
    "checks of connections": r";",
    "snapshots (of passes and sweeps)": r"SELECT pg_current_snapshot",
    "passes: ids of unread rows": r"SELECT recipient_id, string_agg\(.* FROM unread_notification",
    "bodies of rows": r"SELECT id, recipient_id, version, type, title",
    "numbers of unread rows": r"SELECT recipient, \(SELECT count",
    "expired rows": r"SELECT now\(\) AS at",
    "keys of the sweep": r"(\(SELECT id, recipient_id, version|SELECT id, recipient_id, version, tx)",
    "revoked tokens": r"SELECT user_id, extract",
    "deliveries": r"INSERT INTO notification_delivery",
    "reading the log": r"(CREATE_REPLICATION_SLOT|START_REPLICATION|IDENTIFY_SYSTEM)",
}
"""Kind → pattern of the beginning of such a statement."""

STATEMENT = re.compile(r"LOG:  (?:statement|execute [^:]*|received replication command): (.*?)(?=\n\S|\Z)", re.DOTALL)
"""A statement in PostgreSQL's log. Its lines after the first begin with a tab."""


@dataclass
class Storm:
    """The result of the benchmark."""

    sessions: int
    start: float
    """Seconds until the gateway was ready."""
    live: float
    """Seconds from then until the last subscription was live."""
    cpu: float
    """Processor seconds of the gateway, including its start."""
    rows: int
    frames: int
    distinct: int
    statements: Counter[str]


def measure(place: Beside, sessions: int) -> Storm:
    """Kill a gateway with this many sessions, and have all users connect to the next one."""
    everybody = range(sessions)
    with Clients() as clients, psycopg.connect(place.database_url, autocommit=True) as database:
        places = [(f"ws://127.0.0.1:{place.env['ROWBELL_PORT']}/ws", place.token(f"storm-{n}")) for n in everybody]
        database.execute(INSERT, [[*everybody[::2]] * UNREAD])
        rows = len(everybody[::2]) * UNREAD
        with place.gateway() as gateway:
            clients.expect(rows)
            clients.come(places, badge=True)
            clients.counted()
            os.kill(gateway.pid, signal.SIGKILL)
        clients.leave()
        database.execute(INSERT, [[*everybody[1::2]]])
        rows += len(everybody[1::2]) + MEANWHILE
        clients.expect(rows)
        with _statements(place) as statements, ThreadPoolExecutor() as beside:
            began = time.monotonic()
            with place.gateway() as gateway:
                ready = time.monotonic()
                inserting = beside.submit(_insert_one_by_one, place, sessions)
                seconds = clients.come(places, at_once=sessions, badge=True)
                used = machine.cpu_seconds(gateway.pid)
                until = place.log.stat().st_size
                inserting.result()
                counted = clients.counted()
                clients.leave()
    return Storm(
        sessions,
        ready - began,
        seconds,
        used,
        rows,
        counted["frames"],
        counted["distinct"],
        statements(until),
    )


def _insert_one_by_one(place: Beside, sessions: int) -> None:
    with psycopg.connect(place.database_url, autocommit=True) as database:
        for number in range(MEANWHILE):
            database.execute(INSERT, [[number * sessions // MEANWHILE]])


class _Statements:
    """The statements that the gateway's login sends from now on, by kind."""

    def __init__(self, place: Beside) -> None:
        self._log = place.log
        self._begin = place.log.stat().st_size

    def __call__(self, until: int) -> Counter[str]:
        text = self._log.read_bytes()[self._begin : until].decode()
        return Counter(_kind(" ".join(sql.split())) for sql in STATEMENT.findall(text))


@contextmanager
def _statements(place: Beside) -> Iterator[_Statements]:
    with psycopg.connect(place.superuser_url, autocommit=True) as superuser:
        superuser.execute("ALTER ROLE gateway SET log_statement = 'all'")
        yield _Statements(place)


def _kind(sql: str) -> str:
    return next((kind for kind, begin in KINDS.items() if re.match(begin, sql, re.IGNORECASE)), "checks at the start")


def show(storm: Storm) -> None:
    table = Table(
        title=f"{storm.sessions:,} users reconnect at once\n{machine.describe()}",
        show_header=False,
    )
    table.add_row("the gateway starts in", f"{storm.start:.1f} s")
    table.add_row("all subscriptions are live after", f"{storm.live:.1f} s")
    table.add_row("processor time of the gateway, including its start", f"{storm.cpu:.1f} s")
    table.add_row("unread rows, frames, distinct", f"{storm.rows}, {storm.frames}, {storm.distinct}", end_section=True)
    for kind, number in storm.statements.most_common():
        table.add_row(f"statements: {kind}", str(number))
    table.add_section()
    table.add_row("statements, total", str(storm.statements.total()))
    Console(width=110).print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="number of users (default: %(default)s)")
    args = parser.parse_args(arguments)
    with targets.beside(targets.UNLIMITED) as place:
        storm = measure(place, args.sessions)
    show(storm)
    return 1 if storm.frames != storm.rows or storm.distinct != storm.rows else 0


if __name__ == "__main__":
    sys.exit(main())

"""One transaction of many rows for many connected users: `python -m benchmarks.drain [--rows N] [--users N]`.

`ack:auto`, so each frame's delivery is recorded. The time is from the moment the commit is confirmed to the last frame,
counted on the wire by one client process for all users (`benchmarks.counting_client`), and, apart, to the last recorded
delivery. Processor time is what each process used from the commit to the last delivery.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import targets
from benchmarks.targets import Target

PATIENCE = 120.0
"""Seconds that the deliveries may take."""

INSERT = """
    INSERT INTO notification (recipient_id, title, data)
    SELECT 'drain-' || n %% %(users)s, 'Notification ' || n, '{"postId": "p-100"}' FROM generate_series(1, %(rows)s) n
"""


@dataclass
class Result:
    target: str
    rows: int
    first: float
    """Seconds from the confirmed commit to the first frame, and to the last; both of all users."""
    last: float
    recorded: float
    """Seconds to the last recorded delivery."""
    frames: int
    distinct: int
    replayed: int
    """Frames that came by paging, because a socket's queue was full."""
    cpu: dict[str, float]
    """Name → seconds of processor time."""
    client: float


def measure(target: Target, rows: int, users: int) -> Result:
    command = [sys.executable, "-m", "benchmarks.counting_client"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        try:
            return _measure(target, rows, users, client)
        finally:
            client.kill()


def _measure(target: Target, rows: int, users: int, client: subprocess.Popen[str]) -> Result:
    assert client.stdin is not None
    places = [(target.urls[n % len(target.urls)], target.token(f"drain-{n}")) for n in range(users)]
    client.stdin.write(json.dumps({"users": places, "expected": rows}) + "\n")
    client.stdin.flush()
    _said(client, "subscribed")
    with psycopg.connect(target.database_url, autocommit=True) as database:
        with database.transaction():
            database.execute(INSERT, {"rows": rows, "users": users})
            before = target.cpu()
        committed = time.time()
        said = _said(client, "last")
        recorded = _wait_until_recorded(database, rows)
        # While the connection is open: a process that ends between two looks at /proc would be in neither.
        used = {name: seconds - before[name] for name, seconds in target.cpu().items() if name != "this benchmark"}
    return Result(
        target.name,
        rows,
        said["first"] - committed,
        said["last"] - committed,
        recorded - committed,
        said["frames"],
        said["distinct"],
        said["replayed"],
        used,
        said["cpu"],
    )


def _said(client: subprocess.Popen[str], what: str) -> dict[str, Any]:
    """The client's next line, which must tell this."""
    assert client.stdout is not None
    line = client.stdout.readline()
    said: dict[str, Any] = json.loads(line) if line else {"error": "the counting client ended"}
    if what not in said:
        raise RuntimeError(said["error"])
    return said


def _wait_until_recorded(database: psycopg.Connection, rows: int) -> float:
    count = "SELECT count(*) FROM notification_delivery WHERE user_id LIKE 'drain-%'"
    deadline = time.time() + PATIENCE
    while database.execute(count).fetchone() != (rows,):
        if time.time() > deadline:
            raise RuntimeError(f"not all deliveries were recorded within {PATIENCE:.0f} s")
        time.sleep(0.05)
    return time.time()


def show(results: list[Result]) -> None:
    for result in results:
        table = Table(title=f"Drain of {result.rows} rows, {result.target}", show_header=False)
        table.add_row("messages/s, commit → last frame", f"{result.rows / result.last:,.0f}")
        table.add_row("first frame, last frame, last delivery", _seconds(result.first, result.last, result.recorded))
        table.add_row("frames, distinct, of them paged", f"{result.frames}, {result.distinct}, {result.replayed}")
        for name, seconds in {**result.cpu, "client": result.client}.items():
            table.add_row(f"processor a message: {name}", f"{seconds / result.rows * 1e6:.1f} µs")
        Console(width=100).print(table)


def _seconds(*values: float) -> str:
    return ", ".join(f"{value:.2f} s" for value in values)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="of the transaction (default: %(default)s)")
    parser.add_argument("--users", type=int, default=200, help="connected once each (default: %(default)s)")
    parser.add_argument("--gateways", type=int, nargs="+", default=[1, 2], help="processes to try (default: 1 2)")
    args = parser.parse_args(arguments)
    results = []
    for gateways in args.gateways:
        start = targets.embedded if gateways == 1 else lambda n=gateways: targets.postgres_only(n)
        with start() as target:
            results.append(measure(target, args.rows, args.users))
    show(results)
    return 1 if any(result.frames != result.rows or result.distinct != result.rows for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

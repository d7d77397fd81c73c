"""Throughput and memory of reading PostgreSQL's WAL: `python -m benchmarks.wal --database-url URL`.

One transaction inserts the rows while nobody takes changes; then all changes are taken and discarded. CPU and memory
are those of this process: connection, decoding and rendering. The database must be migrated, and keeps the rows: use a
separate one. The login inserts and reads the WAL: the owner, with REPLICATION.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import time
from dataclasses import dataclass

import psycopg
import uvloop
from rich.console import Console
from rich.table import Table

from rowbell.changes.wal import WalChanges

INSERT = """
    INSERT INTO notification (recipient_id, title, type, body, data, actor_id)
    SELECT 'user-' || i %% 1000, 'Title ' || i, 'COMMENT', repeat('text ', 20), '{"postId": "p-100"}', 'user-1'
    FROM generate_series(1, %s) i
"""


@dataclass
class Figures:
    """The result of the benchmark; times in seconds."""

    rows: int
    insert_seconds: float
    first_seconds: float
    """From the commit to the first change: PostgreSQL decodes the transaction from the WAL, which it had spilled to
    disk."""
    seconds: float
    """From the first change to the last."""
    cpu_seconds: float
    batches: int
    resident: int
    """Bytes of memory before the transaction."""
    grown: int
    """Maximum bytes by which the process grew."""

    def table(self) -> Table:
        """Return the figures as a table to print."""
        table = Table(title=f"one transaction of {self.rows:,} rows", show_header=False)
        for name, value in (
            ("INSERT", f"{self.rows / self.insert_seconds:,.0f} rows/s"),
            ("commit → first change", f"{self.first_seconds * 1000:,.0f} ms"),
            ("read", f"{self.rows / self.seconds:,.0f} changes/s"),
            ("CPU", f"{self.cpu_seconds / self.rows * 1e6:.1f} µs per change"),
            ("on one core", f"{self.rows / self.cpu_seconds:,.0f} changes/s"),
            ("mean batch", f"{self.rows / self.batches:,.0f} changes"),
            ("memory before", f"{self.resident / 2**20:,.0f} MiB"),
            ("memory grown by", f"{self.grown / 2**20:,.1f} MiB"),
        ):
            table.add_row(name, value)
        return table


async def measure(database_url: str, rows: int) -> Figures:
    """Insert the rows in one transaction, and take their changes."""
    source = WalChanges(database_url)
    batches = source.batches()
    while not source.streaming:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    resident, began = _resident(), time.perf_counter()
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(INSERT, [rows])
    committed = time.perf_counter()
    taken, count, most, first, cpu = 0, 0, resident, 0.0, _cpu_seconds()
    async for batch in batches:
        first = first or time.perf_counter()
        taken += len(batch.changes)
        count += 1
        most = max(most, _resident())
        if taken >= rows:
            break
    ended = time.perf_counter()
    cpu = _cpu_seconds() - cpu
    await source.close()
    return Figures(rows, committed - began, first - committed, ended - first, cpu, count, resident, most - resident)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wal", description=__doc__)
    parser.add_argument("--database-url", required=True, help="a migrated database that is used for nothing else")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the transaction (default: %(default)s)")
    arguments = parser.parse_args()
    Console().print(uvloop.run(measure(arguments.database_url, arguments.rows)).table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Latency from commit to client: `python -m benchmarks.latency [--mode embedded|pipeline]`.

Fifty users are connected once each, evenly distributed over the gateways; single-row transactions are committed at a
steady rate, to one user after the other. A row's time starts when the commit is confirmed to the writer and, for the
stricter figure, when its INSERT is sent; it ends when the frame has been received and parsed. Writer and clients share
one process.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field

import psycopg
import uvloop
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks import targets
from benchmarks.targets import Target
from rowbell.stomp.client import Client, Connected, Message, Receipt

USERS = 50
WRITERS = 8
"""Connections that write: a single one would wait for the disk at each commit."""
MODES = {"embedded": (targets.embedded, [20, 500, 2000]), "pipeline": (targets.pipeline, [20, 500])}
"""Mode → (what starts it, rates in rows per second)."""
WARM_UP = {"embedded": 3.0, "pipeline": 20.0}
"""Seconds at the full rate before the measurement, in which JVMs compile."""
SETTLE = 10.0
"""Seconds in which the last rows must arrive."""


@dataclass
class Run:
    """A measurement at one rate: id of a row → epoch seconds of each of its events."""

    rate: int
    sent: dict[int, float] = field(default_factory=dict)
    committed: dict[int, float] = field(default_factory=dict)
    received: dict[int, float] = field(default_factory=dict)
    counted_from: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    """name → mean milliseconds since the commit."""
    cpu: dict[str, float] = field(default_factory=dict)
    """program → share of one core."""

    whole: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever no row is missing."""

    def receive(self, id: int) -> None:
        """Record that the client has received a row."""
        self.received[id] = time.time()
        if len(self.received) >= len(self.sent):
            self.whole.set()

    async def settle(self) -> None:
        """Wait until everything has been received, or for SETTLE seconds."""
        self.whole.clear()
        if self.missing():
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE):
                    await self.whole.wait()

    def milliseconds(self, begin: dict[int, float]) -> list[float]:
        """Return the times from `begin` to the receipt of the counted rows, sorted."""
        counted = (id for id, at in self.sent.items() if at >= self.counted_from)
        return sorted((self.received[id] - begin[id]) * 1000 for id in counted if id in self.received)

    def missing(self) -> int:
        """Return the number of rows that have not been received."""
        return len(self.sent.keys() - self.received.keys())


async def client(url: str, token: str, run: Run, subscribed: asyncio.Event) -> None:
    """Connect as a user, and record when each notification arrived."""
    stomp = Client(beat=(0, 0))
    async with connect(url, subprotocols=["v12.stomp"], compression=None, max_queue=None) as socket:  # type: ignore[list-item]
        await socket.send(stomp.connect({"Authorization": f"Bearer {token}"}))
        async for data in socket:
            stomp.receive_data(data)
            while (event := stomp.next_event()) is not None:
                if isinstance(event, Message):
                    run.receive(int(event.headers["notification-id"]))
                elif isinstance(event, Connected):
                    await socket.send(stomp.subscribe("/user/queue/notifications", id="s", receipt="r"))
                elif isinstance(event, Receipt):
                    subscribed.set()
    raise RuntimeError(f"the gateway closed a connection: {socket.close_code} {socket.close_reason}")


Connection = psycopg.AsyncConnection[tuple[int]]


async def write(connections: list[Connection], users: list[str], run: Run, seconds: float) -> None:
    """Commit rows at a steady rate, from the connections in turn."""
    begun = time.time()

    async def write_every(connection: Connection, first: int) -> None:
        for n in range(first, int(run.rate * seconds), len(connections)):
            await asyncio.sleep(max(0.0, begun + n / run.rate - time.time()))
            at = time.time()
            cursor = await connection.execute(
                "INSERT INTO notification (recipient_id, title, data) VALUES (%s, %s, %s) RETURNING id",
                [users[n % len(users)], f"Notification {n}", '{"postId": "p-100"}'],
            )
            row = await cursor.fetchone()
            assert row is not None
            run.committed[row[0]] = time.time()
            run.sent[row[0]] = at

    await asyncio.gather(*(write_every(connection, first) for first, connection in enumerate(connections)))


async def measure(target: Target, rate: int, seconds: float) -> Run:
    """Measure at `rate` rows per second, after a warm-up. Raises an ExceptionGroup if a connection is lost."""
    run = Run(rate)
    users = [f"bench-{rate}-{n}" for n in range(USERS)]
    async with asyncio.TaskGroup() as tasks:  # a client that ends ends the measurement
        clients = []
        for n, user in enumerate(users):
            subscribed = asyncio.Event()
            url = target.urls[n % len(target.urls)]
            clients.append(tasks.create_task(client(url, target.token(user), run, subscribed)))
            await subscribed.wait()
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(
                    await psycopg.AsyncConnection.connect(target.database_url, autocommit=True)
                )
                for _ in range(WRITERS)
            ]
            await write(connections, users, run, WARM_UP[target.name])
            before, usage, begun = _means(target), target.cpu(), time.time()
            run.counted_from = begun
            await write(connections, users, run, seconds)
        run.cpu = {name: (used - usage[name]) / (time.time() - begun) for name, used in target.cpu().items()}
        await run.settle()
        run.stages = _stages(before, _means(target))
        for each in clients:
            each.cancel()
    return run


STAGES = {
    "the dispatcher has decoded it": targets.IN_DISPATCHER,
    "a gateway has queued its frame": targets.IN_GATEWAY,
}


def _means(target: Target) -> dict[str, tuple[float, float]]:
    """Return stage → (sum of seconds, count) over its processes."""
    return {stage: target.histogram(metric) for stage, metric in STAGES.items()}


def _stages(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {
        stage: (after[stage][0] - before[stage][0]) / max(1.0, after[stage][1] - before[stage][1]) * 1000
        for stage in STAGES
    }


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Return the 50th, 95th and 99th percentile."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def show(console: Console, mode: str, runs: list[Run]) -> None:
    table = Table(title=f"Commit → client, {mode}, milliseconds")
    for column in ("rows/s", "rows", "missing", "from", "p50", "p95", "p99", "max"):
        table.add_column(column, justify="right")
    for run in runs:
        for name, begin in (("commit confirmed", run.committed), ("INSERT sent", run.sent)):
            values = run.milliseconds(begin)
            cells = [*quantiles(values), values[-1]]
            table.add_row(
                str(run.rate), str(len(values)), str(run.missing()), name, *(f"{value:.1f}" for value in cells)
            )
    console.print(table)
    where = Table(title="Where the time goes: mean milliseconds since the commit, and shares of one core")
    where.add_column("")
    for run in runs:
        where.add_column(f"{run.rate} rows/s", justify="right")
    for stage in STAGES:
        where.add_row(stage, *(f"{run.stages[stage]:.1f} ms" for run in runs))
    where.add_row(
        "the client has parsed it (since the commit was confirmed)",
        *(f"{statistics.fmean(run.milliseconds(run.committed)):.1f} ms" for run in runs),
        end_section=True,
    )
    for program in runs[0].cpu:
        where.add_row(f"processor: {program}", *(f"{run.cpu[program]:.0%}" for run in runs))
    console.print(where)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=MODES, help="the mode to measure (default: each in turn)")
    parser.add_argument("--rates", type=int, nargs="+", help="rows per second (default: 20 500, embedded also 2000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each rate is measured (default: 30)")
    args = parser.parse_args(arguments)
    missing = 0
    for mode in [args.mode] if args.mode else MODES:
        start, rates = MODES[mode]
        with start() as target:
            runs = [uvloop.run(measure(target, rate, args.seconds)) for rate in args.rates or rates]
        show(Console(width=110), mode, runs)
        missing += sum(run.missing() for run in runs)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

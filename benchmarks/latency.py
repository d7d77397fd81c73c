"""Commit → client through the whole pipeline, on a stack of its own: `make bench`, or `python -m benchmarks.latency`.

Fifty users, each connected once, half of them at either gateway; single-row transactions at a steady rate, to one user
after the other. A row's time begins when the commit was confirmed to the writer, and, for the stricter figure, when
its INSERT was sent; it ends when the frame has been received and parsed. Writer and clients share one process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import requests
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from rowbell.auth import Tokens
from rowbell.stomp.client import Client, Connected, Message, Receipt
from stack import Stack

USERS = 50
WARM_UP = 20.0
"""Seconds at the full rate before anything counts: the JVMs compile meanwhile."""
SETTLE = 10.0
"""Seconds that the last rows have to arrive."""


@dataclass
class Run:
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
    """Set whenever nothing is missing."""

    def receive(self, id: int) -> None:
        self.received[id] = time.time()
        if len(self.received) >= len(self.sent):
            self.whole.set()

    async def settle(self) -> None:
        """Until everything has been received, or is late beyond hope."""
        self.whole.clear()
        if self.missing():
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE):
                    await self.whole.wait()

    def milliseconds(self, begin: dict[int, float]) -> list[float]:
        counted = (id for id, at in self.sent.items() if at >= self.counted_from)
        return sorted((self.received[id] - begin[id]) * 1000 for id in counted if id in self.received)

    def missing(self) -> int:
        return len(self.sent.keys() - self.received.keys())


async def client(url: str, token: str, run: Run, subscribed: asyncio.Event) -> None:
    """One connected user: notes when each notification came."""
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


async def write(database: psycopg.AsyncConnection[tuple[int]], users: list[str], run: Run, seconds: float) -> None:
    """Commit rows at the steady rate."""
    begun = time.time()
    for n in range(int(run.rate * seconds)):
        await asyncio.sleep(max(0.0, begun + n / run.rate - time.time()))
        at = time.time()
        cursor = await database.execute(
            "INSERT INTO notification (recipient_id, title, data) VALUES (%s, %s, %s) RETURNING id",
            [users[n % len(users)], f"Notification {n}", '{"postId": "p-100"}'],
        )
        row = await cursor.fetchone()
        assert row is not None
        run.committed[row[0]] = time.time()
        run.sent[row[0]] = at


async def measure(stack: Stack, rate: int, seconds: float) -> Run:
    run = Run(rate)
    tokens = Tokens(stack.settings_env["ROWBELL_JWT_SECRET"])
    users = [f"bench-{rate}-{n}" for n in range(USERS)]
    gateways = [
        f"ws://127.0.0.1:{stack.ports[name]}/ws" for name in ("STACK_GATEWAY_8114_PORT", "STACK_GATEWAY_8115_PORT")
    ]
    async with asyncio.TaskGroup() as tasks:  # a client that ends ends the measurement
        clients = []
        for n, user in enumerate(users):
            subscribed = asyncio.Event()
            clients.append(tasks.create_task(client(gateways[n % 2], tokens.issue(user, 3600), run, subscribed)))
            await subscribed.wait()
        url = stack.owner_env["ROWBELL_DATABASE_URL"]
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as database:
            await write(database, users, run, WARM_UP)
            before, usage, begun = _means(stack), _cpu(stack), time.time()
            run.counted_from = begun
            await write(database, users, run, seconds)
        run.cpu = {name: (used - usage[name]) / (time.time() - begun) for name, used in _cpu(stack).items()}
        await run.settle()
        run.stages = _stages(before, _means(stack))
        for each in clients:
            each.cancel()
    return run


STAGES = {
    "the dispatcher has decoded it": ("rowbell_commit_to_dispatch_seconds", ("STACK_DISPATCHER_METRICS_PORT",)),
    "a gateway has queued its frame": (
        "rowbell_commit_to_socket_seconds",
        ("STACK_GATEWAY_8114_METRICS_PORT", "STACK_GATEWAY_8115_METRICS_PORT"),
    ),
}


def _means(stack: Stack) -> dict[str, tuple[float, float]]:
    """stage → (sum of seconds, count) over its processes."""
    found = {}
    for stage, (metric, ports) in STAGES.items():
        total = count = 0.0
        for port in ports:
            text = requests.get(f"http://127.0.0.1:{stack.ports[port]}/metrics", timeout=5).text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    total += sample.value if sample.name == f"{metric}_sum" else 0
                    count += sample.value if sample.name == f"{metric}_count" else 0
        found[stage] = (total, count)
    return found


def _stages(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {
        stage: (after[stage][0] - before[stage][0]) / max(1.0, after[stage][1] - before[stage][1]) * 1000
        for stage in STAGES
    }


def _cpu(stack: Stack) -> dict[str, float]:
    """program → processor seconds of it and its children so far, those that have ended included."""
    ticks = os.sysconf("SC_CLK_TCK")
    children: dict[int, list[int]] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            used[int(entry.name)] = sum(map(int, fields[11:15])) / ticks  # proc(5): utime, stime, cutime, cstime

    def tree(pid: int) -> float:
        return used.get(pid, 0.0) + sum(tree(child) for child in children.get(pid, ()))

    own = time.process_time()
    return {name: tree(program.pid) for name, program in stack.programs().items()} | {"this benchmark": own}


def quantiles(values: list[float]) -> tuple[float, float, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94], cuts[98]


def show(console: Console, runs: list[Run]) -> None:
    table = Table(title="Commit → client, milliseconds")
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=int, nargs="+", default=[20, 500], help="rows per second (default: 20 500)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each rate is measured (default: 30)")
    args = parser.parse_args()
    console = Console(width=110)
    with Stack.temporary() as stack:
        stack.start()
        runs = [uvloop.run(measure(stack, rate, args.seconds)) for rate in args.rates]
        show(console, runs)
    return 1 if any(run.missing() for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())

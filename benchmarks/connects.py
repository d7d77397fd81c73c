"""The cost of accepting a session: `python -m benchmarks.connects [--sessions N]`.

A session is a WebSocket handshake, CONNECT with a token (HS256), CONNECTED, SUBSCRIBE to /user/queue/notifications, and
its receipt, which the gateway sends once it has looked for unread rows. Fifty clients, each another user, do so at a
time, and stay. For comparison, the handshake alone is measured with uvicorn and an application that accepts and waits,
without and with Starlette.

The rate is that of one processor: sessions divided by the seconds of processor time that the process used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks import machine, targets
from benchmarks.bare import bare
from benchmarks.clients import Clients

SESSIONS = 5000
WARM_UP = 500
"""Sessions that connect and disconnect before the measurement."""


@dataclass
class Run:
    """The measurement of one server; `seconds` by the clock, `cpu` of the server's processor time."""

    name: str
    sessions: int
    seconds: float
    cpu: float
    clients: float
    """Seconds of processor time that the clients used."""


def measure(name: str, pid: int, places: Sequence[tuple[str, str | None]]) -> Run:
    """Measure the server with this process id, with a session for each (URL, token or None)."""
    with Clients() as clients:
        clients.warm_up(pid, places[:WARM_UP])
        before, theirs = machine.cpu_seconds(pid), machine.cpu_seconds(clients.pid)
        seconds = clients.come(places)
        after = machine.cpu_seconds(pid)
        return Run(name, len(places), seconds, after - before, machine.cpu_seconds(clients.pid) - theirs)


def show(runs: list[Run]) -> None:
    alone = runs[1]
    table = Table(title=f"Connecting, {alone.sessions:,} sessions\n{machine.describe()}")
    for column in ("", "per session", "per processor second", "by the clock", "ratio", "clients"):
        table.add_column(column, justify="right" if column else "left")
    for run in runs:
        table.add_row(
            run.name,
            f"{run.cpu / run.sessions * 1e6:,.0f} µs",
            f"{run.sessions / run.cpu:,.0f}",
            f"{run.sessions / run.seconds:,.0f}/s",
            f"{run.cpu / alone.cpu:.2f}",
            f"{run.clients / run.sessions * 1e6:,.0f} µs",
        )
    Console(width=110).print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="number of sessions (default: %(default)s)")
    args = parser.parse_args(arguments)
    runs = []
    with targets.postgres_only(1, targets.UNLIMITED) as target:
        places = [(target.urls[0], target.token(f"connects-{n}")) for n in range(args.sessions)]
        runs.append(measure("gateway", target.processes["gateway 1"], places))
    for name, kind in (("uvicorn alone", ()), ("uvicorn and Starlette", ("starlette",))):
        with bare(targets.free_port(), *kind) as alone:
            runs.append(measure(name, alone.pid, [(alone.url, None)] * args.sessions))
    show(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

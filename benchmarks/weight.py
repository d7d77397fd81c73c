"""The memory of an idle session: `python -m benchmarks.weight [--sessions N]`.

Each session belongs to another user: connected, authenticated, subscribed to /user/queue/notifications, without any
rows. The figure is the growth of the gateway's process (PSS) divided by the number of sessions, and excludes what the
kernel keeps for a socket. For comparison, the same is measured for uvicorn with an application that accepts and waits.
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

SESSIONS = 10_000
WARM_UP = 200
"""Sessions that connect and disconnect before the measurement, so that what only the first ones allocate is there by
then."""


@dataclass
class Growth:
    """How much a server's process has grown."""

    name: str
    sessions: int
    before: int
    """Bytes of memory without sessions."""
    after: int
    """Bytes of memory with all sessions."""

    @property
    def a_session(self) -> float:
        """KiB per session."""
        return (self.after - self.before) / self.sessions / 1024


def measure(name: str, pid: int, places: Sequence[tuple[str, str | None]]) -> Growth:
    """Measure the server with this process id, with a session for each (URL, token or None)."""
    with Clients() as clients:
        before = clients.warm_up(pid, places[:WARM_UP])
        clients.come(places)
        return Growth(name, len(places), before, machine.settled_pss(pid))


def show(growths: list[Growth]) -> None:
    alone = growths[-1]
    table = Table(title=f"Memory of an idle session, with {alone.sessions:,} sessions\n{machine.describe()}")
    for column in ("", "process without sessions", "with all sessions", "per session", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for growth in growths:
        mebibytes = (f"{size / 2**20:,.1f} MiB" for size in (growth.before, growth.after))
        ratio = f"{growth.a_session / alone.a_session:.2f}"
        table.add_row(growth.name, *mebibytes, f"{growth.a_session:.1f} KiB", ratio)
    Console(width=110).print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="number of sessions (default: %(default)s)")
    args = parser.parse_args(arguments)
    growths = []
    with targets.postgres_only(1, targets.UNLIMITED) as target:
        places = [(target.urls[0], target.token(f"weight-{n}")) for n in range(args.sessions)]
        growths.append(measure("gateway", target.processes["gateway 1"], places))
    with bare(targets.free_port()) as alone:
        growths.append(measure("uvicorn alone", alone.pid, [(alone.url, None)] * args.sessions))
    show(growths)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What an idle session weighs: `python -m benchmarks.weight [--sessions N]`.

Each session is another user's: connected, authenticated, subscribed to /user/queue/notifications, without any row. The
figure is what the gateway's process has grown by (PSS), divided by the sessions: without what the kernel keeps for a
socket. Beside it the same for uvicorn with an application that accepts and waits.
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
"""Sessions that come and go before anything is measured: whatever a first one makes for all is there then."""


@dataclass
class Growth:
    name: str
    sessions: int
    before: int
    """Bytes of memory without a session, and with all."""
    after: int

    @property
    def a_session(self) -> float:
        """KiB."""
        return (self.after - self.before) / self.sessions / 1024


def measure(name: str, pid: int, places: Sequence[tuple[str, str | None]]) -> Growth:
    with Clients() as clients:
        before = clients.warm_up(pid, places[:WARM_UP])
        clients.come(places)
        return Growth(name, len(places), before, machine.settled_pss(pid))


def show(growths: list[Growth]) -> None:
    alone = growths[-1]
    table = Table(title=f"Memory of an idle session, {alone.sessions:,} of them\n{machine.describe()}")
    for column in ("", "process without", "with all", "a session", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    for growth in growths:
        mebibytes = (f"{size / 2**20:,.1f} MiB" for size in (growth.before, growth.after))
        ratio = f"{growth.a_session / alone.a_session:.2f}"
        table.add_row(growth.name, *mebibytes, f"{growth.a_session:.1f} KiB", ratio)
    Console(width=110).print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="how many (default: %(default)s)")
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

"""The cost of a message for a gateway, from the bus's bundle to the socket: `python -m benchmarks.cost [--messages N]`.

Two hundred users are connected; each message is for one of them. Bundles arrive through a pipe (`benchmarks.feed`),
each in its own turn of the event loop: of one message, or of ten, for ten users or all for the same one. The figure is
the processor time of the gateway's whole process, minus that for the same number of bundles that are read, decoded and
discarded.

On a *busy* server the next bundle is available before the last one is processed; an *idle* one sleeps until a message
arrives, two thousand times a second, and so do the clients, which the kernel must wake: that is part of the cost of
sending.

*Sent* rows have been read already, so no delivery is recorded; *sent and recorded* rows are new. For comparison,
uvicorn alone sends the same bytes, in the same minutes and from the same kind of pipe, and does nothing else. Rounds
alternate between all of these; the figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count

import msgspec
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks import machine, targets
from benchmarks.bare import bare
from benchmarks.clients import Clients
from benchmarks.feed import DELIVER, DROP, Feed
from rowbell.bus.rabbitmq import encode_bundle
from rowbell.notification import Change, Notification, render, with_event
from rowbell.stomp import server as stomp

USERS = 200
AFTERWARDS = 0.7
"""Seconds after the last bundle that also count: deliveries are written in batches."""
A_TRANSACTION = 1.0
"""Seconds for which the id of one transaction is given to changes. The transaction ends at once; two to four seconds
later the sweep lets the ledgers forget what it saw, as always, and they would drop later changes with that id."""


@dataclass(frozen=True)
class Pattern:
    """How messages are bundled."""

    name: str
    messages: int
    """Messages per bundle."""
    users: int
    """Number of users that they are for."""
    interval: float = 0.0
    """Seconds between bundles."""

    def bundle(self, number: int) -> list[int]:
        """Return the users of the messages of a bundle."""
        return [(number * self.users + each % self.users) % USERS for each in range(self.messages)]


PATTERNS = (
    Pattern("one, busy", 1, 1),
    Pattern("ten for ten, busy", 10, 10),
    Pattern("ten for one, busy", 10, 1),
    Pattern("one, idle", 1, 1, interval=1 / 2000),
)

GATEWAY = {"nothing": DROP, "sent": DELIVER, "sent and recorded": DELIVER}
ALONE = {"nothing": DROP, "sent": DELIVER}

Costs = dict[tuple[str, str, str], list[float]]
"""(server, pattern, what is done) → microseconds per message, for each round."""


class Rows:
    """Makes changes that nobody has seen, as a busy table would."""

    def __init__(self, database: psycopg.Connection) -> None:
        self._database = database
        self._ids = count(1)
        self._tx, self._until = 0, 0.0

    def change(self, user: int, is_read: bool) -> Change:
        """Return the change of a new row for the user, or of an updated one that is read."""
        if time.monotonic() > self._until:
            row = self._database.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            self._tx, self._until = row[0], time.monotonic() + A_TRANSACTION
        id = next(self._ids)
        written = notification(id, user)
        version, inserted_tx = (2, 1) if is_read else (1, self._tx)
        at = time.time_ns() // 1000
        return Change(
            id, written.recipient_id, version, inserted_tx, self._tx, render(written), read=is_read, committed_at=at
        )


def notification(id: int, user: int) -> Notification:
    """Return a typical row for the user."""
    return Notification(
        id=id,
        recipient_id=f"cost-{user}",
        version=1,
        type="COMMENT",
        title=f"Notification {id}",
        body=None,
        data='{"postId": "p-100"}',
        actor_id=None,
        channel="IN_APP",
        created_at=1795338840791,
        expires_at=None,
        read_at=None,
        inserted_tx=1,
        changed_tx=1,
    )


class Frames:
    """Makes the frames that a gateway makes from changes: with its codec, and of the same size."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._connection = stomp.Connection("sixteen-letters-", subprotocol="v12.stomp")
        for text in (
            "CONNECT\naccept-version:1.2\nhost:-\n\n\0",
            "SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\n\n\0",
        ):
            self._connection.receive_data(text)
            if isinstance(self._connection.next_event(), stomp.Connect):
                self._connection.connected("cost")

    def frame(self, user: int) -> str:
        """Return the MESSAGE frame of a new row for the user."""
        id = next(self._ids)
        change = Change(id, f"cost-{user}", 1, 1, 1, render(notification(id, user)))
        headers = f"event:created\nnotification-id:{id}\nversion:1\n"
        return self._connection.message("1", headers, with_event("created", change))


@dataclass
class Server:
    """A server under test, and its bundles."""

    name: str
    pid: int
    feed: Feed
    clients: Clients
    bundle: Callable[[list[int], str], bytes]
    """(users of the messages, what is done) → the bundle."""
    done: dict[str, bytes]

    def measure(self, pattern: Pattern, what: str, messages: int) -> float:
        """Return microseconds per message."""
        bundles = messages // pattern.messages
        bodies: Iterable[bytes] = (self.bundle(pattern.bundle(number), what) for number in range(bundles))
        if not pattern.interval:
            bodies = list(bodies)
        self.clients.expect(0 if self.done[what] == DROP else messages)
        before = machine.cpu_seconds(self.pid)
        self.feed.run(bodies, pattern.interval, self.done[what])
        self.clients.counted()
        time.sleep(AFTERWARDS)
        return (machine.cpu_seconds(self.pid) - before) / messages * 1e6


def compare(servers: list[Server], rounds: int, messages: int) -> Costs:
    """Measure every pattern on every server, in alternating rounds."""
    costs: Costs = defaultdict(list)
    for _ in range(rounds):
        for pattern in PATTERNS:
            for server in servers:
                for what in server.done:
                    costs[server.name, pattern.name, what].append(server.measure(pattern, what, messages))
    return costs


def show(costs: Costs) -> None:
    cost = {key: statistics.median(values) for key, values in costs.items()}
    table = Table(title=f"Processor time per message, from the bundle to the socket\n{machine.describe()}")
    for column in ("messages in a bundle", "", "bundle", "sent", "ratio", "sent and recorded"):
        table.add_column(column, justify="right" if column not in ("messages in a bundle", "") else "left")
    for pattern in PATTERNS:
        alone = cost["uvicorn alone", pattern.name, "sent"] - cost["uvicorn alone", pattern.name, "nothing"]
        for server in ("gateway", "uvicorn alone"):
            nothing = cost[server, pattern.name, "nothing"]
            sent = cost[server, pattern.name, "sent"] - nothing
            recorded = cost.get((server, pattern.name, "sent and recorded"))
            table.add_row(
                pattern.name,
                server,
                f"{nothing:.1f} µs",
                f"{sent:.1f} µs",
                f"{sent / alone:.2f}",
                "" if recorded is None else f"{recorded - nothing:.1f} µs",
                end_section=server == "uvicorn alone",
            )
    Console(width=110).print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000, help="messages per measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of measurements (default: %(default)s)")
    args = parser.parse_args(arguments)
    changes, frames = Feed(), Feed()
    with (
        targets.fed(changes.reader) as target,
        bare(targets.free_port(), str(frames.reader), pass_fds=[frames.reader]) as alone,
        Clients() as users,
        Clients() as strangers,
        psycopg.connect(target.database_url, autocommit=True) as database,
    ):
        users.come([(target.urls[0], target.token(f"cost-{n}")) for n in range(USERS)])
        strangers.come([(alone.url, None)] * USERS)
        rows, framed = Rows(database), Frames()

        def of_changes(of: list[int], what: str) -> bytes:
            return encode_bundle([rows.change(user, is_read=what == "sent") for user in of])

        def of_frames(of: list[int], what: str) -> bytes:
            return msgspec.msgpack.encode([(user, framed.frame(user)) for user in of])

        servers = [
            Server("gateway", target.processes["gateway"], changes, users, of_changes, GATEWAY),
            Server("uvicorn alone", alone.pid, frames, strangers, of_frames, ALONE),
        ]
        costs = compare(servers, args.rounds, args.messages)
    show(costs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

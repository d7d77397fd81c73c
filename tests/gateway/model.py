"""A discrete-event simulation of everything around a subscription; the subscription itself is the real code.

Simulated: a table under overlapping, long and aborted transactions; a stream that loses, repeats, delays by minutes
and reorders changes, and decodes commits before they are visible; slow sockets with bounded queues; sweeps; and
subscriptions of one user that come and go on two gateways. One run is one seed. `run` returns the violations that the
clients saw, counted as frames, never as sets.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from rowbell.notification import DELETED, Change
from rowbell.snapshot import Snapshot

USER = "alice"
WRITES_END = 40.0
"""Seconds of simulated time in which the table is written."""
QUIET_END = 400.0
"""By then every transaction has ended, every late change has arrived and every socket has drained."""
SWEEP_INTERVAL = 2.0


@dataclass(frozen=True)
class Row:
    id: int
    version: int
    inserted_tx: int
    changed_tx: int
    read: bool = False
    hidden: bool = False

    def change(self) -> Change:
        json = None if self.hidden else f'"id":{self.id}}}'
        return Change(self.id, USER, self.version, self.inserted_tx, self.changed_tx, json, self.read, self.hidden)


@dataclass
class Table:
    """What committed and became visible, and who is still writing."""

    rows: dict[int, Row] = field(default_factory=dict)
    tombstones: dict[int, int] = field(default_factory=dict)
    next_tx: int = 100
    next_id: int = 1
    in_progress: dict[int, dict[int, Row | None]] = field(default_factory=dict)
    """transaction → what it writes: id → row, or None for a deletion."""

    def snapshot(self) -> Snapshot:
        xip = frozenset(self.in_progress)
        return Snapshot(min(xip, default=self.next_tx), self.next_tx, xip)

    def begin(self) -> int:
        tx, self.next_tx = self.next_tx, self.next_tx + 1
        self.in_progress[tx] = {}
        return tx

    def write(self, tx: int, rng: random.Random) -> None:
        """One statement: an insert, or an update or deletion of a row that nobody else has locked."""
        mine = self.in_progress[tx]
        locked = {id for other, writes in self.in_progress.items() if other != tx for id in writes}
        candidates = [row for row in {**self.rows, **mine}.values() if row is not None and row.id not in locked]
        choice = rng.random()
        if choice < 0.5 or not candidates:
            mine[self.next_id] = Row(self.next_id, 1, tx, tx, hidden=rng.random() < 0.1)
            self.next_id += 1
            return
        row = rng.choice(candidates)
        if choice < 0.65:
            mine[row.id] = None
        else:
            read, hidden = rng.random() < 0.4, rng.random() < 0.15
            mine[row.id] = Row(row.id, row.version + 1, row.inserted_tx, tx, read, hidden)

    def changes_of(self, tx: int) -> list[Change]:
        """What a decoder makes of the transaction's writes (each row's last state)."""
        return [
            row.change() if row is not None else Change(id, USER, DELETED, 0, tx)
            for id, row in self.in_progress[tx].items()
            if row is not None or id in self.rows
        ]

    def make_visible(self, tx: int) -> None:
        for id, row in self.in_progress.pop(tx).items():
            if row is not None:
                self.rows[id] = row
            elif self.rows.pop(id, None) is not None:
                self.tombstones[id] = tx

    def abort(self, tx: int) -> None:
        del self.in_progress[tx]

    def unseen(self, floor: Snapshot) -> tuple[array[int], dict[int, int]]:
        """A pass: unread ids for the empty floor, else ids and tombstones that the floor does not see."""
        if floor.xmin == floor.xmax == self.next_tx:
            return array("q"), {}
        if floor.xmax == 0:
            return array("q", sorted(r.id for r in self.rows.values() if not r.read and not r.hidden)), {}
        ids = sorted(row.id for row in self.rows.values() if not floor.visible(row.changed_tx))
        return array("q", ids), {id: tx for id, tx in self.tombstones.items() if not floor.visible(tx)}

    def keys(self, previous: Snapshot) -> list[tuple[int, int, int]]:
        ids, deleted = self.unseen(previous)
        return [(id, self.rows[id].version, self.rows[id].changed_tx) for id in ids] + [
            (id, DELETED, tx) for id, tx in deleted.items()
        ]


@dataclass
class Client:
    """What one subscription's client was sent, and what it makes of it."""

    frames: int = 0
    versions: dict[int, int] = field(default_factory=dict)
    """id → the newest version seen, DELETED included."""
    shown: dict[int, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def receive(self, delivery: Any) -> None:
        event, change = delivery.event, delivery.change
        self.frames += 1
        last = self.versions.get(change.id, 0)
        if change.version <= last:
            self.violations.append(f"{change.id} v{change.version} after v{last}")
        if event == "created" and last:
            self.violations.append(f"{change.id} created twice")
        if (event == "deleted") != (change.deleted or change.hidden):
            self.violations.append(f"{change.id} is told as {event}")
        self.versions[change.id] = change.version
        if event == "deleted":
            self.shown.pop(change.id, None)
        else:
            self.shown[change.id] = change.version


class Socket:
    """One session: a subscription of the real code, a bounded queue, and a client that may read slowly."""

    def __init__(self, model: Model, slow: bool) -> None:
        self.model = model
        self.subscription = model.code.Subscription(USER)
        self.client = Client()
        self.queue: deque[Any] = deque()
        self.limit = model.rng.choice([3, 6, 50])
        self.slow = slow
        self.writing = False
        self.open = True
        self.live_at: Snapshot | None = None
        self.carry_out(self.subscription.drained())

    def has_room(self) -> bool:
        return len(self.queue) < self.limit

    def offer(self, change: Change) -> None:
        delivery = self.subscription.offered(change, self.has_room)
        self.enqueue([delivery] if delivery else [])

    def carry_out(self, answer: Any) -> None:
        self.enqueue(answer.send)
        if answer.live:
            self.live_at = self.model.table.snapshot()
        if answer.query is not None:
            self.model.later(self.model.short(), lambda: self.run_query(answer.query))
        elif not self.queue and self.waiting():
            self.carry_out(self.subscription.drained())

    def waiting(self) -> bool:
        return self.subscription.state.name == "WAITING"

    def run_query(self, query: Any) -> None:
        table, subscription = self.model.table, self.subscription
        result: Callable[[], Any]
        if hasattr(query, "floor"):
            first, (ids, deleted) = table.snapshot(), table.unseen(query.floor)
            result = lambda: subscription.passed(first, ids, deleted)  # noqa: E731
        else:
            rows = [table.rows[id].change() for id in query.ids if id in table.rows]
            result = lambda: subscription.paged(rows)  # noqa: E731
        self.model.later(self.model.query_time(), lambda: self.carry_out(result()))

    def enqueue(self, deliveries: list[Any]) -> None:
        self.queue.extend(deliveries)
        if self.queue and not self.writing:
            self.writing = True
            self.model.later(self.write_time(), self.write_one)

    def write_one(self) -> None:
        self.client.receive(self.queue.popleft())
        if self.queue:
            self.model.later(self.write_time(), self.write_one)
            return
        self.writing = False
        if self.waiting():
            self.carry_out(self.subscription.drained())

    def write_time(self) -> float:
        rng = self.model.rng
        if self.slow:
            return rng.choice([0.05, 0.5, 3.0])
        return 0.001


class Gateway:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.sockets: list[Socket] = []
        self.previous: Snapshot | None = None
        self.sweep: Any = None
        model.later(model.rng.uniform(0, SWEEP_INTERVAL), self.tick)

    def tick(self) -> None:
        """Take this sweep's snapshot and keys; offer those of the one before."""
        table, code = self.model.table, self.model.code
        snapshot, listed = table.snapshot(), frozenset({USER} if self.sockets else ())
        before, self.sweep = self.sweep, None
        if self.previous is not None:
            keys = {USER: table.keys(self.previous)} if listed else {}
            self.sweep = code.Sweep(self.previous, snapshot, listed, keys)
        self.previous = snapshot
        if before is not None:
            self.offer(before)
        else:
            self.model.later(SWEEP_INTERVAL, self.tick)

    def offer(self, sweep: Any) -> None:
        missing = [(socket, socket.subscription.misses(sweep)) for socket in self.sockets]
        for socket, _ in missing:
            socket.carry_out(self.model.code.Answer())
        wanted = {id for _, keys in missing for id, _, _ in keys or ()}
        rows = {id: row.change() for id, row in self.model.table.rows.items() if id in wanted}

        def rescue() -> None:
            for socket, keys in missing:
                if keys is None:
                    continue
                present = [
                    Change(id, USER, DELETED, 0, tx) if version == DELETED else rows.get(id) for id, version, tx in keys
                ]
                changes = [change for change in present if change is not None]
                socket.carry_out(self.model.code.Answer(socket.subscription.rescued(sweep, changes, socket.has_room)))
            self.model.later(SWEEP_INTERVAL, self.tick)

        self.model.later(self.model.query_time(), rescue)


class Model:
    def __init__(self, code: ModuleType, seed: int) -> None:
        self.code = code
        self.rng = random.Random(seed)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.table = Table()
        self.loss = self.rng.choice([0.0, 0.1, 1.0])
        self.closed: list[Socket] = []
        self.gateways = [Gateway(self), Gateway(self)]

    # Time.

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now + delay, self.count, action))

    def short(self) -> float:
        return self.rng.uniform(0.0, 0.01)

    def query_time(self) -> float:
        return self.rng.choices([0.005, 0.3, 7.0], [8, 2, 1])[0] * self.rng.uniform(0.5, 1.5)

    # The world.

    def transaction(self) -> None:
        """One transaction; long ones stay open while many others come and go."""
        tx = self.table.begin()
        for _ in range(self.rng.choices([1, 3, 12], [12, 4, 1])[0]):
            self.table.write(tx, self.rng)
        self.later(
            self.rng.choices([0.002, 0.5, 15.0], [8, 2, 1])[0] * self.rng.uniform(0.5, 1.5), lambda: self.end(tx)
        )
        if self.now < WRITES_END:
            self.later(self.rng.choices([0.01, 0.3, 3.0], [4, 6, 1])[0], self.transaction)

    def end(self, tx: int) -> None:
        if self.rng.random() < 0.1:
            self.table.abort(tx)
            return
        for change in self.table.changes_of(tx):
            self.stream(change)
        # The commit is in the log, and so decoded; snapshots see it a little later, or much later.
        self.later(self.rng.choices([0.0, 0.02, 4.0], [10, 4, 1])[0], lambda: self.table.make_visible(tx))

    def stream(self, change: Change) -> None:
        for gateway in self.gateways:
            if self.rng.random() < self.loss:
                continue
            for _ in range(self.rng.choices([1, 2], [9, 1])[0]):
                delay = self.rng.choices([0.005, 0.5, 5.0, 120.0], [14, 3, 2, 1])[0] * self.rng.uniform(0.2, 1.5)
                self.later(delay, lambda gateway=gateway: [socket.offer(change) for socket in gateway.sockets])  # type: ignore[misc]

    def join(self) -> None:
        gateway = self.rng.choice(self.gateways)
        socket = Socket(self, slow=self.rng.random() < 0.3)
        gateway.sockets.append(socket)
        if self.rng.random() < 0.5:
            self.later(self.rng.uniform(0.1, 30.0), lambda: self.leave(gateway, socket))

    def leave(self, gateway: Gateway, socket: Socket) -> None:
        gateway.sockets.remove(socket)
        self.closed.append(socket)
        self.join()

    def run(self) -> tuple[int, list[str]]:
        """(frames, violations) of this seed."""
        for at in (0.0, 1.0, 5.0, self.rng.uniform(0, WRITES_END)):
            self.later(at, self.join)
        self.later(0.0, self.transaction)
        while self.events and self.events[0][0] < QUIET_END:
            self.now, _, action = heapq.heappop(self.events)
            action()
        sockets = [socket for gateway in self.gateways for socket in gateway.sockets]
        violations = [v for socket in sockets + self.closed for v in socket.client.violations]
        for socket in sockets:
            violations += self.differences(socket)
        return sum(socket.client.frames for socket in sockets + self.closed), violations

    def differences(self, socket: Socket) -> list[str]:
        """The client's final state against the table's."""
        assert not self.table.in_progress, "the simulation must run until every transaction has ended"
        if socket.queue or socket.live_at is None or socket.subscription.state.name != "LIVE":
            return [f"not live at the end: {socket.subscription.state}"]
        shown, found = socket.client.shown, []
        for row in self.table.rows.values():
            due = not row.hidden and (not row.read or not socket.live_at.visible(row.changed_tx))
            if due and shown.get(row.id) != row.version:
                found.append(f"{row.id} v{row.version} is missing, the client has v{shown.get(row.id)}")
        for id, version in shown.items():
            state = self.table.rows.get(id)
            if state is None or state.hidden or state.version != version:
                found.append(f"{id} v{version} is stale, the table has {state}")
        return found


def run(code: ModuleType, seed: int) -> tuple[int, list[str]]:
    return Model(code, seed).run()

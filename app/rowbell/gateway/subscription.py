"""One subscription's path through replay and live delivery, without I/O.

Its inputs are changes, passes, pages, sweeps and drained sockets; its answers say what to send and which query to run
next, and `gateway.feed` carries them out. A subscription is *live* or *paging*.

    WAITING ──drained──► LISTING ──pass──► READING ──page of several──► WAITING (for the next page, or pass)
       ▲                                      │
       │                                      └──the only page, enqueued──► LIVE
       └──────────── queue full, or a sweep it cannot follow ────────────────┘

Live: changes from the bus go through the ledger to the socket. Paging: it reads from SQL, in passes. A pass takes, in
one REPEATABLE READ transaction, a snapshot `first` and the ids that the floor did not see; then it reads the rows a
page at a time, as the socket drains. At the end of the pass the floor becomes `first`. A pass of several pages is
followed by another one, because much may have happened meanwhile; after a single page the subscription is live as soon
as that page is enqueued. Joining, resuming and catching up after a slow socket all use this one mechanism.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from rowbell.gateway.ledger import Ledger
from rowbell.notification import DELETED, Change
from rowbell.snapshot import EMPTY, Snapshot

PAGE = 200
"""Rows per query: a socket holds at most one page besides its bounded queue."""

PAGE_CHARACTERS = 1 << 20
"""Characters after which the rest of a page, or of what a sweep found, is left to be read again once these are written:
200 rows may have 8 MiB."""

HELD = 64
"""Live changes kept while the last page is read. The sweep would deliver them too; keeping them saves its delay."""

FOLLOWED = 1000
"""Keys of one recipient from which on a sweep cannot be followed, because it may have left out others."""

RESCUE = 200
"""The most rows that one sweep delivers; if more are missing, a pass is cheaper and its memory is bounded."""


class State(Enum):
    """The states of a subscription; see the diagram above. All but LIVE are paging."""

    WAITING = "waiting for the socket to drain"
    LISTING = "a pass is being taken"
    READING = "a page is being read"
    LIVE = "live"


class ReadPass(NamedTuple):
    """Query for the ids that `floor` does not see; with the EMPTY floor, for the unread ids; with None, for no ids."""

    floor: Snapshot | None


class ReadRows(NamedTuple):
    """Query for the rows with these ids that still exist."""

    ids: Sequence[int]


class Delivery(NamedTuple):
    """A change to send, with the event that the client is sent: `created`, `updated` or `deleted`."""

    event: str
    change: Change
    replayed: bool


@dataclass(slots=True)
class Answer:
    """What to do next: send, report that the subscription is live, run the query."""

    send: list[Delivery] = field(default_factory=list)
    query: ReadPass | ReadRows | None = None
    live: bool = False


class Given(NamedTuple):
    """What the client has been given, including what is still on its way; see `rowbell.inbox.Given`."""

    floor: Snapshot
    first: Snapshot
    through: int
    sent: dict[int, tuple[int, int]]


class Sweep(NamedTuple):
    """What one sweep found between `previous` and `snapshot`: the keys of the recipients that were listed."""

    previous: Snapshot
    snapshot: Snapshot
    listed: frozenset[str]
    keys: dict[str, list[tuple[int, int, int]]]
    """recipient → (id, version, tx); a tombstone's version is DELETED."""


class Subscription:
    """The state machine of one subscription. Owned by its `Feed`; no method waits or raises."""

    __slots__ = (
        "_deleted", "_first", "_from_now", "_full", "_held", "_ids", "_next", "_once", "_several", "ledger",
        "recipient", "state",
    )  # fmt: skip

    def __init__(self, recipient: str, from_now: bool = False) -> None:
        """With `from_now` nothing is replayed: the first floor is a snapshot of the moment when it begins."""
        self.recipient = recipient
        self._from_now = from_now
        self.ledger = Ledger(EMPTY)
        self.state = State.WAITING
        self._first = EMPTY
        """Tracks the snapshot of the current pass."""
        self._ids: array[int] = array("q")
        """Tracks the ids of that pass, in order; `_next` is where its next page begins."""
        self._next = 0
        self._several = False
        """Tracks whether that pass takes more than one page."""
        self._deleted: dict[int, int] = {}
        """Tracks the tombstones of that pass: id → transaction of the deletion."""
        self._full = False
        """Tracks whether that pass is the full replay, of unread rows only."""
        self._held: list[Change] = []
        """Tracks live changes that arrived during the pass or its only page, to be sent once live."""
        self._once = False
        """Tracks whether the subscription has been live: the receipt is sent only the first time."""

    # Events.

    def drained(self) -> Answer:
        """The socket's queue is empty: a waiting subscription reads its next page or takes a pass."""
        if self.state is not State.WAITING:
            return Answer()
        if self._next < len(self._ids):
            return self._read_page()
        self.state = State.LISTING
        begins = self._from_now and self.ledger.floor == EMPTY
        return Answer(query=ReadPass(None if begins else self.ledger.floor))

    def passed(self, first: Snapshot, ids: array[int], deleted: dict[int, int]) -> Answer:
        """The pass was taken: `ids` are those that the floor did not see, in order; `deleted` are tombstones
        (id → transaction).
        """
        self._first = first
        self._full = self.ledger.floor == EMPTY
        self._deleted = deleted
        self._ids = array("q", sorted([*ids, *deleted])) if deleted else ids
        self._next = 0
        self._several = len(self._ids) > PAGE
        if self._several:
            self._held.clear()
        return self._read_page() if self._ids else self._end_of_page([])

    def paged(self, rows: Iterable[Change]) -> Answer:
        """The page was read: `rows` are those requested that still exist, in any order."""
        by_id = {row.id: row for row in rows}
        page = self._ids[self._next : self._next + PAGE]
        send: list[Delivery] = []
        characters = 0
        for id in page:
            if characters >= PAGE_CHARACTERS:
                self._several = True
                break
            self._next += 1
            change = self._tombstone(id) if id in self._deleted else by_id.get(id)
            if change is not None and not (self._full and (change.read or change.hidden)):
                self._give_page_row(change, send)
                characters += len(change.json or "")
        return self._end_of_page(send)

    def offered(self, change: Change, has_room: Callable[[], bool]) -> Delivery | None:
        """The bus brought a change: return what to send, if anything. `has_room` says whether the socket's queue takes
        another frame.
        """
        if self.state is State.LIVE:
            return self._give(change, has_room)
        if self._may_hold() and len(self._held) < HELD:
            self._held.append(change)
        return None

    def misses(self, sweep: Sweep) -> list[tuple[int, int, int]] | None:
        """Return the keys of the sweep that were never sent; pass their rows to `rescued`, even if there are none.

        None means that the sweep does not concern this subscription: it is paging; or its floor covers all that the
        sweep saw; or it cannot follow the sweep and becomes paging (WAITING), because its floor does not cover the
        sweep's beginning, its recipient was not listed, or there is too much.
        """
        if self.state is not State.LIVE or self.ledger.floor.covers(sweep.snapshot):
            return None
        keys = sweep.keys.get(self.recipient, ())
        missed = [key for key in keys if self.ledger.lacks(*key)]
        if not self._follows(sweep) or len(keys) >= FOLLOWED or len(missed) > RESCUE:
            self.state = State.WAITING
            return None
        return missed

    def rescued(self, sweep: Sweep, changes: Iterable[Change], has_room: Callable[[], bool]) -> list[Delivery]:
        """Return what to send of `changes`, the present rows and tombstones for the missed keys. If all of it is sent,
        the floor rises to the sweep's snapshot.
        """
        send: list[Delivery] = []
        characters = 0
        for change in changes:
            if self.state is not State.LIVE:
                break
            # These deliveries are queued later, so the queue's own bound does not count them yet.
            if delivery := self._give(change, has_room if characters < PAGE_CHARACTERS else _no_room):
                send.append(delivery)
            characters += len(change.json or "")
        if self.state is State.LIVE and self._follows(sweep):
            self.ledger.raise_floor(sweep.snapshot)
        return send

    def given(self) -> Given:
        """Return what has been sent so far, as snapshots and versions."""
        through = self._ids[self._next - 1] if self._next else 0
        return Given(self.ledger.floor, self._first, through, dict(self.ledger.sent))

    # Private.

    def _follows(self, sweep: Sweep) -> bool:
        return self.recipient in sweep.listed and self.ledger.floor.covers(sweep.previous)

    def _give(self, change: Change, has_room: Callable[[], bool]) -> Delivery | None:
        """Return what to send of a change. If the queue is full, return None and begin paging."""
        event = self.ledger.event_for(change)
        if event is not None and not has_room():
            # Not remembered: the pass that begins when the socket has drained finds it again.
            self.state = State.WAITING
            return None
        if event is not None or self.ledger.lacks(change.id, change.version, change.tx):
            self.ledger.remember(change)
        return Delivery(event, change, replayed=False) if event is not None else None

    def _give_page_row(self, change: Change, send: list[Delivery]) -> None:
        event = self.ledger.event_for(change)
        if event is not None:
            send.append(Delivery(event, change, replayed=True))
            if not self._first.visible(change.tx):
                # What `first` sees need not be remembered: it is under the floor when the pass ends.
                self.ledger.remember(change)

    def _read_page(self) -> Answer:
        self.state = State.READING
        page = self._ids[self._next : self._next + PAGE]
        if self._deleted and all(id in self._deleted for id in page):
            return self.paged([])
        return Answer(query=ReadRows([id for id in page if id not in self._deleted]))

    def _end_of_page(self, send: list[Delivery]) -> Answer:
        if self._next < len(self._ids):
            self.state = State.WAITING
            return Answer(send)
        several, self._several = self._several, False
        self.ledger.raise_floor(self._first)
        self._ids, self._next, self._deleted = array("q"), 0, {}
        if several:
            self._held.clear()
            self.state = State.WAITING
            return Answer(send)
        return self._go_live(send)

    def _go_live(self, send: list[Delivery]) -> Answer:
        self.state = State.LIVE
        held, self._held = self._held, []
        send += filter(None, (self._give(change, lambda: True) for change in held))
        first_time, self._once = not self._once, True
        return Answer(send, live=first_time)

    def _may_hold(self) -> bool:
        return self.state is State.LISTING or (self.state is State.READING and not self._several)

    def _tombstone(self, id: int) -> Change:
        return Change(id, self.recipient, DELETED, 0, self._deleted[id])


def _no_room() -> bool:
    return False

"""One subscription's way through replay and live delivery, without I/O.

It is told changes, passes, pages, sweeps and drained sockets, and answers with what to send and which query to run
next; `gateway.feed` carries the answers out. A subscription is *live* or *paging*.

    WAITING ──drained──► LISTING ──pass──► READING ──page of several──► WAITING (for the next page, or pass)
       ▲                                      │
       │                                      └──the only page, enqueued──► LIVE
       └──────────── queue full, or a sweep it cannot follow ────────────────┘

Live: changes from the bus go through the ledger to the socket. Paging: it reads from SQL, in passes. A pass takes, in
one REPEATABLE READ transaction, a snapshot `first` and the ids that the floor did not see; then it reads bodies a page
at a time as the socket drains. At its end the floor is `first`. After a pass of several pages another one follows,
because much may have happened meanwhile; after a single page the subscription is live at the moment that page is
enqueued. Join, resume and a slow client are this one mechanism.
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
"""Rows a query of bodies asks for: one page is what a socket holds beside its bounded queue."""

PAGE_CHARACTERS = 1 << 20
"""After so many the rest of a page, or of what a sweep found, is read again when they are written: 200 rows may have
8 MiB."""

HELD = 64
"""Live changes kept while the last page is read. Dropping one is safe, the sweep gives it: this saves its delay."""

FOLLOWED = 1000
"""Keys of one recipient in one sweep that are looked at. Where a sweep has so many, it may have left out others."""

RESCUE = 200
"""Rows that one sweep gives; when more are missing a pass is cheaper and its memory is bounded."""


class State(Enum):
    WAITING = "waiting for the socket to drain"
    LISTING = "a pass is being taken"
    READING = "a page is being read"
    LIVE = "live"


class ReadPass(NamedTuple):
    """Query: the ids that `floor` does not see; with the EMPTY floor, the unread ids; with None no ids at all."""

    floor: Snapshot | None


class ReadRows(NamedTuple):
    """Query: the rows with these ids, those that still exist."""

    ids: Sequence[int]


class Delivery(NamedTuple):
    """A change to send, as the event the client is told."""

    event: str
    change: Change
    replayed: bool


@dataclass(slots=True)
class Answer:
    """What to do after something happened, in this order: send, run the query, tell that it is live."""

    send: list[Delivery] = field(default_factory=list)
    query: ReadPass | ReadRows | None = None
    live: bool = False


class Given(NamedTuple):
    """What the client has been given, up to what is still on its way; see `rowbell.inbox.Given`."""

    floor: Snapshot
    first: Snapshot
    through: int
    sent: dict[int, tuple[int, int]]


class Sweep(NamedTuple):
    """What one sweep found: between `previous` and `snapshot`, the keys of each recipient that was listed."""

    previous: Snapshot
    snapshot: Snapshot
    listed: frozenset[str]
    keys: dict[str, list[tuple[int, int, int]]]
    """recipient → (id, version, tx); a tombstone's version is DELETED."""


class Subscription:
    __slots__ = (
        "_deleted", "_first", "_from_now", "_full", "_held", "_ids", "_next", "_once", "_several", "ledger",
        "recipient", "state",
    )  # fmt: skip

    def __init__(self, recipient: str, from_now: bool = False) -> None:
        """`from_now`: what there is when it begins is not replayed; the snapshot of that moment is its first floor."""
        self.recipient = recipient
        self._from_now = from_now
        self.ledger = Ledger(EMPTY)
        self.state = State.WAITING
        self._first = EMPTY
        """Tracks the snapshot of the pass that is being read."""
        self._ids: array[int] = array("q")
        """Tracks the ids of that pass, in order; `_next` is where its next page begins."""
        self._next = 0
        self._several = False
        """Does it take more than one page?"""
        self._deleted: dict[int, int] = {}
        """Tracks the tombstones of that pass: id → transaction of the deletion."""
        self._full = False
        """Is this pass the full replay, of unread rows only?"""
        self._held: list[Change] = []
        self._once = False
        """Has it been live before? (The receipt is sent the first time only.)"""

    # What happens to it.

    def drained(self) -> Answer:
        """The socket's queue is empty: a waiting subscription goes on with its next page, or takes a pass."""
        if self.state is not State.WAITING:
            return Answer()
        if self._next < len(self._ids):
            return self._read_page()
        self.state = State.LISTING
        begins = self._from_now and self.ledger.floor == EMPTY
        return Answer(query=ReadPass(None if begins else self.ledger.floor))

    def passed(self, first: Snapshot, ids: array[int], deleted: dict[int, int]) -> Answer:
        """The pass was taken: `ids` that the floor did not see, in order, and tombstones (id → transaction)."""
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
        """The page was read: the rows among the ids asked for that still exist, in any order."""
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
        """The bus brought a change. `has_room` says whether the socket's queue takes one more."""
        if self.state is State.LIVE:
            return self._give(change, has_room)
        if self._may_hold() and len(self._held) < HELD:
            self._held.append(change)
        return None

    def misses(self, sweep: Sweep) -> list[tuple[int, int, int]] | None:
        """The keys of the sweep that were never sent; give their rows to `rescued`, and do so for an empty list too.

        None: the sweep is not for this subscription. It is paging, or is sure of all the sweep saw, or cannot follow
        it and becomes paging (WAITING): its floor does not cover the sweep's beginning, its recipient was not in the
        sweep's list, or there is too much.
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
        """The present rows behind what it missed, and tombstones. Then the floor rises to the sweep's snapshot."""
        send: list[Delivery] = []
        characters = 0
        for change in changes:
            if self.state is not State.LIVE:
                break
            # What is given here is queued later: the queue's own bound does not see it yet.
            if delivery := self._give(change, has_room if characters < PAGE_CHARACTERS else _no_room):
                send.append(delivery)
            characters += len(change.json or "")
        if self.state is State.LIVE and self._follows(sweep):
            self.ledger.raise_floor(sweep.snapshot)
        return send

    def given(self) -> Given:
        """What has been sent by now, as snapshots and versions."""
        through = self._ids[self._next - 1] if self._next else 0
        return Given(self.ledger.floor, self._first, through, dict(self.ledger.sent))

    # How it is done.

    def _follows(self, sweep: Sweep) -> bool:
        return self.recipient in sweep.listed and self.ledger.floor.covers(sweep.previous)

    def _give(self, change: Change, has_room: Callable[[], bool]) -> Delivery | None:
        """Where the queue is full nothing is given: from there on it is paging."""
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
                # What `first` sees needs no memory: it lies under the floor when the pass ends.
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

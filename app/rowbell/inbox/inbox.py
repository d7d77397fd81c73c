"""What a gateway asks of SQL: what changed, what is unread, what rows say, and who was handed them."""

from __future__ import annotations

import sys
from array import array
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from rowbell.inbox import statements
from rowbell.inbox.connection import async_engine, patiently, translated
from rowbell.inbox.epoch import Epoch, renew
from rowbell.notification import Change, Notification, change_of
from rowbell.snapshot import EMPTY, Snapshot

UNFILTERED = 5000
"""Keys that a tick reads whoever they are for; beyond it asks for its recipients only."""
OF_ONE = 1000
"""Keys of one recipient that a tick reads then. Who has that many is not followed key by key, but reads pages."""

NEW_EPOCH_SECONDS = 600.0
"""How long one answer may take while a new epoch is made: every row that a restore brought may have to be written, and
the gateways wait for each other."""
MOST_UNREAD = 1000
"""The highest count of unread rows that is told; beyond it a count says that there are more."""
MARKED_AT_ONCE = 5000
"""Rows that one transaction marks as read: about 0.2 s, in which it holds their locks."""

COLUMNS = Notification.__struct_fields__
"""In the order of `statements.ROWS`."""


class Key(NamedTuple):
    """Which row changed, without what it says."""

    id: int
    recipient_id: str
    version: int
    """DELETED for a deletion."""
    tx: int


class Revocation(NamedTuple):
    """Tokens of this user that were issued before this time, in seconds since the epoch, are refused."""

    user: str
    before: float


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at what changed since the one before."""

    snapshot: Snapshot
    epoch: Epoch | None
    """None: it ended (crash, failover, restore), a new one must be made, and `keys` is empty."""
    recipients: frozenset[str]
    """Those who were registered when the snapshot had been taken: only for them is `keys` complete."""
    keys: list[Key]
    """In no order. May hold keys of other recipients. Where there are OF_ONE of a recipient, there may be more."""
    revocations: list[Revocation]
    """All of them, where there is no previous snapshot."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one recipient's floor did not see. Requests for the same share one: it is not to be changed."""

    ids: array[int] = field(default_factory=lambda: array("q"))
    """Of rows, ascending."""
    deleted: dict[int, int] = field(default_factory=dict)
    """Of tombstones: id → deleted_tx. Their ids are not in `ids`."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What several subscriptions have to be shown, all seen at one moment."""

    first: Snapshot
    epoch: Epoch | None
    """As in Tick; `found` is then empty for each request."""
    found: list[Found]
    """In the order of the requests."""


@dataclass(frozen=True, slots=True)
class Given:
    """Which rows of its recipient a subscription's client has been given, each in its latest state."""

    epoch: UUID
    """In which the snapshots hold; in another one nothing was given."""
    floor: Snapshot
    """All that is visible here."""
    first: Snapshot
    """Of what is visible here the rows with an id up to `through`: a replay has come so far."""
    through: int
    sent: Mapping[int, tuple[int, int]]
    """Beyond these snapshots: id → (version, transaction)."""
    withheld: Collection[int]
    """Ids that are excepted: they are on their way to the client, or it refused them."""


class Inbox:
    """The gateway's SQL, over a pool of connections.

    Every method raises DatabaseUnavailable when PostgreSQL cannot be asked at present (it is enough to call again
    later), and DatabaseError when tables or rights are missing.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        """For what is one statement: it saves the round trips of BEGIN and COMMIT."""
        self._swept: UUID | None = None
        """Tracks the epoch of the last tick's snapshot, which is the `previous` of the next one."""
        self._refused: UUID | None = None
        """Tracks the epoch under which time went backwards: its row is there, and yet it has ended."""

    @classmethod
    def connect(cls, database_url: str, *, pool_size: int = 5, application_name: str = "rowbell-gateway") -> Inbox:
        """An inbox over its own pool. Connects when first used; SettingsError if libpq cannot read the URL."""
        return cls(async_engine(database_url, pool_size, application_name))

    async def close(self) -> None:
        await self._engine.dispose()

    async def ping(self) -> None:
        """Returns if SQL is answered."""
        async with _transaction(self._single) as connection:
            await connection.execute(statements.PING)

    # Reading, each from one snapshot.

    async def tick(self, previous: Snapshot | None, recipients: Callable[[], Collection[str]]) -> Tick:
        """What the snapshot `previous`, the last tick's, did not see; nothing if it is None.

        `recipients` is called when the snapshot has been taken: who registers later pages from a newer one.
        """
        async with _transaction(self._reading) as connection:
            snapshot, epoch = await self._now(connection, previous.xmax if previous else 0)
            if epoch:
                self._swept = epoch.id
            registered = frozenset(recipients())
            keys = await _keys(connection, previous, registered) if previous and epoch else []
            revocations = await _revocations(connection, previous or EMPTY) if epoch else []
            return Tick(snapshot, epoch, registered, keys, revocations)

    async def take_pass(self, requests: Sequence[tuple[str, Snapshot]]) -> Passes:
        """For each (recipient, floor): which rows and tombstones the floor did not see.

        For EMPTY these are the unread rows, without tombstones. Requests with the same floor share one query.
        """
        async with _transaction(self._reading) as connection:
            newest = max((floor.xmax for _, floor in requests), default=0)
            first, epoch = await self._now(connection, newest)
            if epoch is None:
                return Passes(first, None, [Found() for _ in requests])
            by_floor = {
                floor: await _found(connection, floor, recipients) for floor, recipients in _group(requests).items()
            }
            return Passes(first, epoch, [by_floor[floor][recipient] for recipient, floor in requests])

    async def rows(self, ids: Collection[int]) -> list[Change]:
        """What these rows say, in the order of their ids. One that does not exist (any more) is left out."""
        async with _transaction(self._single) as connection:
            rows = (await connection.execute(statements.ROWS, {"ids": list(ids)})).all()
        return [change_of(Notification(**dict(zip(COLUMNS, row, strict=True)))) for row in rows]

    async def count_unread(self, recipients: Collection[str]) -> dict[str, int]:
        """How many rows the unread query has for each; MOST_UNREAD + 1 stands for any number beyond."""
        async with _transaction(self._single) as connection:
            parameters = {"recipients": list(recipients), "most": MOST_UNREAD + 1}
            rows = (await connection.execute(statements.COUNT_UNREAD, parameters)).all()
        return {recipient: int(count) for recipient, count in rows}

    async def expired(self, since: datetime | None, recipients: Collection[str]) -> tuple[datetime, set[str]]:
        """(now, those of `recipients` of whom an unread row expired after `since`). Without `since` nobody."""
        async with _transaction(self._single) as connection:
            parameters = {"since": since, "recipients": list(recipients)}
            row = (await connection.execute(statements.EXPIRED, parameters)).one()
        return row.at, set(row.recipients)

    # Writing.

    async def mark_ids(self, recipient: str, ids: Collection[int], seen: Collection[int], epoch: UUID) -> bool:
        """Mark as read those of these rows that are the recipient's, shown to clients and unread.

        `seen` are the transactions, of the epoch, in which the client saw them. False: some cannot be marked at
        present, because somebody has locked them or SQL does not see what the client saw. Call it again.
        """
        async with _transaction(self._engine) as connection:
            if await connection.scalar(statements.UNSEEN_OF, {"seen": list(seen), "epoch": epoch}):
                return False
            parameters = {"recipient": recipient, "ids": list(ids)}
            return bool(await connection.scalar(statements.MARK_IDS, parameters))

    async def mark_given(self, recipient: str, given: Given) -> bool:
        """Mark as read what the recipient's client has been given, and nothing that it has not. False as above.

        In transactions of MARKED_AT_ONCE rows: interrupted anywhere, it can be called again.
        """
        parameters = {
            "recipient": recipient,
            "epoch": given.epoch,
            "floor_xmax": given.floor.xmax,
            "floor_xip": list(given.floor.xip),
            "first_xmax": given.first.xmax,
            "first_xip": list(given.first.xip),
            "through": given.through,
            "ids": list(given.sent),
            "versions": [version for version, _ in given.sent.values()],
            "withheld": list(given.withheld),
            "most": MARKED_AT_ONCE,
        }
        seen = {"seen": list({tx for _, tx in given.sent.values()}), "epoch": given.epoch}
        after: int | None = 0
        all_of_them = True
        while after is not None:
            async with _transaction(self._engine) as connection:
                if await connection.scalar(statements.UNSEEN_OF, seen):
                    return False
                after, whole = (await connection.execute(statements.MARK_GIVEN, parameters | {"after": after})).one()
            all_of_them = all_of_them and whole
        return all_of_them

    async def record_deliveries(self, deliveries: Collection[tuple[int, str]]) -> None:
        """Remember that these (notification id, user) were handed over; again is the same as once."""
        if not deliveries:
            return
        ids, users = zip(*deliveries, strict=True)
        async with _transaction(self._single) as connection:
            await connection.execute(statements.RECORD_DELIVERIES, {"ids": list(ids), "users": list(users)})

    async def new_epoch(self) -> UUID:
        """Begin the epoch that `tick` or `take_pass` found missing; of several gateways one does. Returns its id."""
        async with _transaction(self._engine) as connection, patiently(connection, NEW_EPOCH_SECONDS):
            return await connection.run_sync(renew, self._refused)

    async def _now(self, connection: AsyncConnection, newest: int) -> tuple[Snapshot, Epoch | None]:
        """The snapshot, and the epoch if it holds; `newest` is the highest xmax that was seen before."""
        now = (await connection.execute(statements.NOW)).one()
        snapshot = Snapshot.parse(now.snapshot)
        if now.epoch is None:
            return snapshot, None
        if newest > snapshot.xmax and now.epoch == self._swept:
            # A row of another epoch than the last tick's was made after time went backwards, by another gateway.
            self._refused = now.epoch
            return snapshot, None
        return snapshot, Epoch(now.epoch, now.purged_tx)


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    with translated():
        async with engine.begin() as connection:
            yield connection


async def _keys(connection: AsyncConnection, previous: Snapshot, recipients: frozenset[str]) -> list[Key]:
    unseen = _unseen(previous)
    rows = (await connection.execute(statements.KEYS, unseen | {"most": UNFILTERED + 1})).all()
    if len(rows) > UNFILTERED:
        parameters = unseen | {"recipients": list(recipients), "most": OF_ONE}
        rows = (await connection.execute(statements.KEYS_OF, parameters)).all()
    return [Key(*row) for row in rows]


async def _revocations(connection: AsyncConnection, previous: Snapshot) -> list[Revocation]:
    return [Revocation(*row) for row in await connection.execute(statements.REVOKED, _unseen(previous))]


async def _found(connection: AsyncConnection, floor: Snapshot, recipients: set[str]) -> dict[str, Found]:
    found = {recipient: Found() for recipient in recipients}
    parameters: dict[str, object] = {"recipients": list(recipients)}
    if floor == EMPTY:
        for recipient, ids in await connection.execute(statements.UNREAD_IDS, parameters):
            _unpack(ids, found[recipient].ids)
        return found
    parameters |= _unseen(floor)
    for recipient, ids in await connection.execute(statements.CHANGED_IDS, parameters):
        _unpack(ids, found[recipient].ids)
    for recipient, id, deleted_tx in await connection.execute(statements.DELETIONS, parameters):
        found[recipient].deleted[id] = deleted_tx
    return found


def _group(requests: Iterable[tuple[str, Snapshot]]) -> dict[Snapshot, set[str]]:
    recipients: dict[Snapshot, set[str]] = {}
    for recipient, floor in requests:
        recipients.setdefault(floor, set()).add(recipient)
    return recipients


def _unpack(ids: bytes, into: array[int]) -> None:
    """Append ids that came as 8 bytes each, big-endian."""
    into.frombytes(ids)
    if sys.byteorder == "little":
        into.byteswap()


def _unseen(snapshot: Snapshot) -> dict[str, object]:
    """The parameters of `statements.UNSEEN`."""
    return {"xmax": snapshot.xmax, "xip": list(snapshot.xip)}

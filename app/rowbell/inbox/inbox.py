"""The gateway's queries: what changed, what is unread, the content of rows, and records of deliveries."""

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
from rowbell.inbox.connection import answer_timeout, async_engine, translate_errors
from rowbell.inbox.epoch import Epoch, renew
from rowbell.notification import Change, Notification, change_of
from rowbell.snapshot import EMPTY, Snapshot

UNFILTERED = 5000
"""Maximum number of keys that a tick reads for all recipients; beyond that it asks for its own recipients only."""
OF_ONE = 1000
"""Maximum number of keys per recipient that a tick then reads. A recipient with more is not followed by key, but
pages."""

NEW_EPOCH_SECONDS = 600.0
"""How long one answer may take while a new epoch is created: every row that a restore brought may have to be updated,
and the gateways wait for each other."""
MOST_UNREAD = 1000
"""The highest count of unread rows that is reported; a higher number is reported as "more"."""
MARKED_AT_ONCE = 5000
"""Rows that one transaction marks as read: it takes about 0.2 s, during which they are locked."""

COLUMNS = Notification.__struct_fields__
"""Columns, in the order of `statements.ROWS`."""


class Key(NamedTuple):
    """Identifies a changed row and its version, without its content."""

    id: int
    recipient_id: str
    version: int
    """DELETED for a deletion."""
    tx: int


class Revocation(NamedTuple):
    """Revokes tokens of this user issued before this time, in seconds since the epoch."""

    user: str
    before: float


@dataclass(frozen=True, slots=True)
class Tick:
    """The result of one tick: what changed since the previous one."""

    snapshot: Snapshot
    epoch: Epoch | None
    """None if the epoch has ended (crash, failover, restore); a new one must be created, and `keys` is empty."""
    recipients: frozenset[str]
    """The recipients registered once the snapshot was taken: `keys` is complete for them alone."""
    keys: list[Key]
    """Unordered. May contain keys of other recipients. A recipient with OF_ONE keys may have more."""
    revocations: list[Revocation]
    """All revocations if there is no previous snapshot."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one recipient's floor snapshot did not see. Shared between identical requests, so it must not be
    modified.
    """

    ids: array[int] = field(default_factory=lambda: array("q"))
    """Ids of rows, ascending."""
    deleted: dict[int, int] = field(default_factory=dict)
    """Tombstones: id → deleted_tx. Their ids are not in `ids`."""


@dataclass(frozen=True, slots=True)
class Passes:
    """What several subscriptions must be shown, all from one snapshot."""

    first: Snapshot
    epoch: Epoch | None
    """As in Tick; if None, `found` is empty for each request."""
    found: list[Found]
    """In the order of the requests."""


@dataclass(frozen=True, slots=True)
class Given:
    """Which rows of its recipient a subscription's client has been given, each in its latest state."""

    epoch: UUID
    """The epoch in which the snapshots are valid; in any other, nothing was given."""
    floor: Snapshot
    """Everything visible in this snapshot was given."""
    first: Snapshot
    """Of the rows visible in this snapshot, those with an id up to `through` were given: the progress of a replay."""
    through: int
    sent: Mapping[int, tuple[int, int]]
    """Given beyond these snapshots: id → (version, transaction)."""
    withheld: Collection[int]
    """Ids that are excluded: on their way to the client, or refused by it."""


class Inbox:
    """The gateway's SQL, over a connection pool.

    Every method raises DatabaseUnavailable if PostgreSQL cannot be used at present (call again later), and
    DatabaseError if tables or rights are missing.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._single = engine.execution_options(isolation_level="AUTOCOMMIT")
        """For single statements: saves the round trips of BEGIN and COMMIT."""
        self._swept: UUID | None = None
        """Tracks the epoch of the last tick's snapshot, which is the `previous` of the next tick."""
        self._refused: UUID | None = None
        """Tracks the epoch in which time went backwards: it has ended, although its row still exists."""

    @classmethod
    def connect(cls, database_url: str, *, pool_size: int = 5, application_name: str = "rowbell-gateway") -> Inbox:
        """Return an inbox with its own pool, which connects when first used. Raises SettingsError if libpq cannot parse
        the URL.
        """
        return cls(async_engine(database_url, pool_size, application_name))

    async def close(self) -> None:
        """Close the pool."""
        await self._engine.dispose()

    async def ping(self) -> None:
        """Return if SQL is answered; raise otherwise."""
        async with _transaction(self._single) as connection:
            await connection.execute(statements.PING)

    # Reading; each method reads from one snapshot.

    async def tick(self, previous: Snapshot | None, recipients: Callable[[], Collection[str]]) -> Tick:
        """Return what `previous`, the last tick's snapshot, did not see; no keys if it is None.

        `recipients` is called once the snapshot has been taken: whoever registers later pages from a newer one.
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
        """For each (recipient, floor), return the rows and tombstones that the floor did not see.

        For the floor EMPTY these are the unread rows, without tombstones. Requests with the same floor share one query.
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
        """Return the content of these rows, ordered by id. Rows that do not exist (any more) are omitted."""
        async with _transaction(self._single) as connection:
            rows = (await connection.execute(statements.ROWS, {"ids": list(ids)})).all()
        return [change_of(Notification(**dict(zip(COLUMNS, row, strict=True)))) for row in rows]

    async def count_unread(self, recipients: Collection[str]) -> dict[str, int]:
        """Return the number of unread rows by recipient; MOST_UNREAD + 1 stands for any higher number."""
        async with _transaction(self._single) as connection:
            parameters = {"recipients": list(recipients), "most": MOST_UNREAD + 1}
            rows = (await connection.execute(statements.COUNT_UNREAD, parameters)).all()
        return {recipient: int(count) for recipient, count in rows}

    async def expired(self, since: datetime | None, recipients: Collection[str]) -> tuple[datetime, set[str]]:
        """Return (now, the `recipients` with an unread row that expired after `since`); none if `since` is None."""
        async with _transaction(self._single) as connection:
            parameters = {"since": since, "recipients": list(recipients)}
            row = (await connection.execute(statements.EXPIRED, parameters)).one()
        return row.at, set(row.recipients)

    # Writing.

    async def mark_ids(self, recipient: str, ids: Collection[int], seen: Collection[int], epoch: UUID) -> bool:
        """Mark those of these rows as read that are the recipient's, visible to clients, and unread.

        `seen` contains the transactions, of `epoch`, in which the client saw them. Return False if some cannot be
        marked at present, because they are locked or because SQL does not see yet what the client saw; call again then.
        """
        async with _transaction(self._engine) as connection:
            if await connection.scalar(statements.UNSEEN_OF, {"seen": list(seen), "epoch": epoch}):
                return False
            parameters = {"recipient": recipient, "ids": list(ids)}
            return bool(await connection.scalar(statements.MARK_IDS, parameters))

    async def mark_given(self, recipient: str, given: Given) -> bool:
        """Mark as read what the recipient's client has been given, and nothing else. Return False as `mark_ids` does.

        Runs in transactions of MARKED_AT_ONCE rows; if it is interrupted anywhere, it can be called again.
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
        """Record that these (notification id, user) were delivered; idempotent."""
        if not deliveries:
            return
        ids, users = zip(*deliveries, strict=True)
        async with _transaction(self._single) as connection:
            await connection.execute(statements.RECORD_DELIVERIES, {"ids": list(ids), "users": list(users)})

    async def new_epoch(self) -> UUID:
        """Create the epoch that `tick` or `take_pass` found missing. Of several gateways, one does so. Return its
        id.
        """
        async with _transaction(self._engine) as connection, answer_timeout(connection, NEW_EPOCH_SECONDS):
            return await connection.run_sync(renew, self._refused)

    async def _now(self, connection: AsyncConnection, newest: int) -> tuple[Snapshot, Epoch | None]:
        """Return the snapshot, and the epoch if it is valid; `newest` is the highest xmax seen before."""
        now = (await connection.execute(statements.NOW)).one()
        snapshot = Snapshot.parse(now.snapshot)
        if now.epoch is None:
            return snapshot, None
        if newest > snapshot.xmax and now.epoch == self._swept:
            # An epoch other than that of the last tick was created after time went backwards, by another gateway.
            self._refused = now.epoch
            return snapshot, None
        return snapshot, Epoch(now.epoch, now.purged_tx)


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    with translate_errors():
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
    """Append ids that are encoded as 8 bytes each, big-endian."""
    into.frombytes(ids)
    if sys.byteorder == "little":
        into.byteswap()


def _unseen(snapshot: Snapshot) -> dict[str, object]:
    """Return the parameters of `statements.UNSEEN`."""
    return {"xmax": snapshot.xmax, "xip": list(snapshot.xip)}

"""Decodes PostgreSQL's logical replication protocol, as far as changes of `notification` need it. Does no I/O.

It reads protocol version 1 with `binary 'true'` (PostgreSQL 15): a transaction is sent as a whole after it has
committed, and values have the format of the types' send functions, which no server setting affects: bigint is 8 bytes,
timestamptz 8 bytes of microseconds since 2000, jsonb the byte 1 followed by its text. A TOASTed column that an UPDATE
did not change is not in the stream.

Source: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
        https://www.postgresql.org/docs/current/protocol-replication.html
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from rowbell.changes.rows import MAX_ID, deleted, incomplete
from rowbell.errors import UndecodableRecord
from rowbell.notification import DELETED, Change, Notification, change_of

PUBLICATION = "notification_publication"
OPTIONS = f"(proto_version '1', publication_names '{PUBLICATION}', binary 'true')"
"""Options of START_REPLICATION SLOT ... LOGICAL ... for streams that this module decodes."""

TABLE = ("public", "notification")
"""Schema and name. Other tables of the publication yield no changes."""

_BIGINT, _TEXT, _TIMESTAMPTZ, _JSONB = 20, 25, 1184, 3802
_TYPES = {_BIGINT: "bigint", _TEXT: "text", _TIMESTAMPTZ: "timestamptz", _JSONB: "jsonb"}
COLUMNS = {
    "id": _BIGINT,
    "version": _BIGINT,
    "inserted_tx": _BIGINT,
    "changed_tx": _BIGINT,
    "created_at": _TIMESTAMPTZ,
    "recipient_id": _TEXT,
    "title": _TEXT,
    "type": _TEXT,
    "body": _TEXT,
    "data": _JSONB,
    "actor_id": _TEXT,
    "channel": _TEXT,
    "expires_at": _TIMESTAMPTZ,
    "read_at": _TIMESTAMPTZ,
}
"""Name → type OID of the columns of a change, in the order in which `_written` takes them: numbers that are never null
come first. Columns are found by name, whatever their order in the table."""
_NULLABLE = {"body", "actor_id", "expires_at", "read_at"}

_EPOCH_2000 = 946_684_800_000
"""2000-01-01 in epoch milliseconds."""
_MIN_TIME, _MAX_TIME = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999 in epoch milliseconds. Values beyond are infinity, or break readers downstream."""


class _Unchanged:
    """Type of the placeholder for a TOASTed value that is not in the stream."""


_UNCHANGED = _Unchanged()
_Value = bytes | None | _Unchanged

_INT16 = struct.Struct("!H").unpack_from
_INT32 = struct.Struct("!I").unpack_from
_INT64 = struct.Struct("!q").unpack
_NUMBERS = struct.Struct("!5q").unpack
_BEGIN = struct.Struct("!QqI").unpack_from
_COLUMN = struct.Struct("!Ii").unpack_from

_INSERT, _UPDATE, _DELETE, _BEGINS, _COMMITS, _RELATION = b"IUDBCR"
_ROWS = frozenset(b"IUD")
_SKIPPED = frozenset(b"TOYM")
"""Truncate (which the table refuses), Origin, Type, Message."""
_NEW, _KEY, _OLD = b"NKO"
_NULL, _TOASTED, _BINARY = b"nub"
_IS_KEY = 1

_DAMAGED = (struct.error, IndexError, TypeError, ValueError)
"""Raised when malformed data is decoded. UnicodeDecodeError is a ValueError."""


Wanted = Callable[[str], bool]
"""Returns whether the rows of this recipient are wanted."""


class Decoder:
    """Decodes pgoutput's messages, in order, into changes. Keeps the current transaction and the described relations.

    A row whose recipient is not `wanted` is counted and skipped without decoding the rest, at a quarter of the cost.
    """

    def __init__(self, wanted: Wanted | None = None) -> None:
        self._wanted = wanted
        self._relations: dict[int, _Relation | None] = {}
        """OID → its layout; None for other tables."""
        self.skipped = 0
        """Counts the skipped rows."""
        self.xid = 0
        """Id of the current transaction; 0 between transactions."""
        self.committed_at = 0
        """Commit time of the current or last transaction: epoch microseconds of the server's clock."""

    def decode(self, message: bytes, at: int = 0) -> Change | None:
        """Return the change in the message that begins at `at`, or None if it contains no wanted one.

        A row without an unchanged TOASTed column is a Change that is `incomplete`. The `tx` of a deletion has 32 bits.
        Raises UndecodableRecord for a message that violates the protocol; later messages can still be decoded.
        """
        try:
            kind = message[at]
            if kind in _ROWS:
                return self._row(kind, message, at + 1)
            if kind == _BEGINS:
                self.xid = 0
                _, committed_at, self.xid = _BEGIN(message, at + 1)
                self.committed_at = committed_at + _EPOCH_2000 * 1000
            elif kind == _COMMITS:
                self.xid = 0
            elif kind == _RELATION:
                self._learn(message, at + 1)
            elif kind not in _SKIPPED:
                raise UndecodableRecord(f"a message of the unknown type {chr(kind)!r}")
        except _DAMAGED as error:
            raise UndecodableRecord(f"not a message of pgoutput: {error}") from error
        return None

    def _row(self, kind: int, message: bytes, at: int) -> Change | None:
        (oid,) = _INT32(message, at)
        try:
            relation = self._relations[oid]
        except KeyError:
            raise UndecodableRecord(f"a row of relation {oid}, which was not described") from None
        if relation is None:
            return None
        if relation.complaint is not None:
            raise UndecodableRecord(relation.complaint)
        if self.xid == 0:
            raise UndecodableRecord("a row outside of a transaction")
        at += 4
        if self._wanted is not None:
            # The first tuple, be it the old key or the new row, names the recipient: that never changes.
            recipient_id = _recipient(message, at + 1, relation)
            if recipient_id is not None and not self._wanted(recipient_id):
                self.skipped += 1
                return None
        old: list[_Value] | None = None
        if kind != _INSERT and message[at] in (_KEY, _OLD):
            old, at, _ = _values(message, at + 1, relation)
        if kind == _DELETE:
            _expect_end(message, at)
            return self._deleted(relation, old)
        if message[at] != _NEW:
            raise UndecodableRecord("a row without its new values")
        values, at, whole = _values(message, at + 1, relation)
        _expect_end(message, at)
        if not whole:
            relation.fill(values, old)
            if _UNCHANGED in values:
                return self._incomplete(relation, values)
        return self._written(relation, values)

    def _written(self, relation: _Relation, values: list[Any]) -> Change:
        try:
            number_1, number_2, number_3, number_4, created_at, *rest = relation.pick(values)
            # One call for the five columns that are never null: separate calls would each cost a tenth of the total.
            id, version, inserted_tx, changed_tx, created = _NUMBERS(
                number_1 + number_2 + number_3 + number_4 + created_at
            )
            recipient_id, title, type, body, data, actor_id, channel, expires_at, read_at = rest
            notification = Notification(
                id=id,
                recipient_id=recipient_id.decode(),
                version=version,
                type=type.decode(),
                title=title.decode(),
                body=None if body is None else body.decode(),
                data=_text_of_jsonb(data),
                actor_id=None if actor_id is None else actor_id.decode(),
                channel=channel.decode(),
                created_at=_milliseconds(created),
                expires_at=None if expires_at is None else _milliseconds(*_INT64(expires_at)),
                read_at=None if read_at is None else _milliseconds(*_INT64(read_at)),
                inserted_tx=inserted_tx,
                changed_tx=changed_tx,
            )
        except (*_DAMAGED, AttributeError) as error:
            raise UndecodableRecord(relation.explain(values)) from error
        _check_key(id, notification.recipient_id)
        _check_numbers(version, inserted_tx, changed_tx)
        return change_of(notification, self.committed_at)

    def _incomplete(self, relation: _Relation, values: list[Any]) -> Change:
        row = dict(zip(COLUMNS, relation.pick(values), strict=True))
        if row["recipient_id"] is _UNCHANGED:
            raise UndecodableRecord(
                "`recipient_id` is not in the stream: the recipient is unknown; is it in the replica identity?"
            )
        try:
            id, version, inserted_tx, changed_tx = (
                _INT64(row[name])[0] for name in ("id", "version", "inserted_tx", "changed_tx")
            )
            recipient_id = row["recipient_id"].decode()
            channel = None if row["channel"] is _UNCHANGED else row["channel"].decode()
        except (*_DAMAGED, AttributeError) as error:
            raise UndecodableRecord(relation.explain(values)) from error
        _check_key(id, recipient_id)
        _check_numbers(version, inserted_tx, changed_tx)
        read = row["read_at"] is not None
        return incomplete(id, recipient_id, version, inserted_tx, changed_tx, read, channel, self.committed_at)

    def _deleted(self, relation: _Relation, old: list[Any] | None) -> Change:
        row = {} if old is None else dict(zip(COLUMNS, relation.pick(old), strict=True))
        try:
            (id,) = _INT64(row["id"])
            recipient_id = row["recipient_id"].decode()
        except (*_DAMAGED, KeyError, AttributeError) as error:
            raise UndecodableRecord(
                "a DELETE without `id` and `recipient_id`: is the replica identity (recipient_id, id)?"
            ) from error
        _check_key(id, recipient_id)
        return deleted(id, recipient_id, self.xid, self.committed_at)

    def _learn(self, message: bytes, at: int) -> None:
        """Read a Relation message, which precedes the first row of a table, and comes again when the table has
        changed.
        """
        (oid,) = _INT32(message, at)
        self._relations.pop(oid, None)
        schema, at = _name(message, at + 4)
        table, at = _name(message, at)
        if (schema, table) != TABLE:
            self._relations[oid] = None
            return
        at += 1  # skip the replica identity: the columns' flags are more precise
        (count,) = _INT16(message, at)
        at += 2
        keys, names, types = [], [], []
        for _ in range(count):
            keys.append(bool(message[at] & _IS_KEY))
            name, at = _name(message, at + 1)
            names.append(name)
            types.append(_COLUMN(message, at)[0])
            at += 8
        _expect_end(message, at)
        self._relations[oid] = _Relation(keys, names, types)


class _Relation:
    """The layout of `notification`, computed once for the many rows that follow."""

    def __init__(self, keys: list[bool], names: list[str], types: list[int]) -> None:
        self.count = len(names)
        self.complaint = _complaint(dict(zip(names, types, strict=True)))
        """Why its rows cannot be decoded, reported for each of them; None if they can."""
        self._keys = keys
        if self.complaint is None:
            self.recipient = names.index("recipient_id")
            """Index of the recipient among the values."""
            self.pick: Callable[[Sequence[Any]], tuple[Any, ...]] = itemgetter(*map(names.index, COLUMNS))
            """Picks the values of COLUMNS, in that order, from those of a row."""

    def fill(self, values: list[_Value], old: list[_Value] | None) -> None:
        """Replace unchanged values with the old ones, where the old row has them: for columns of the replica
        identity.
        """
        if old is None:
            return
        for index, is_key in enumerate(self._keys):
            if is_key and values[index] is _UNCHANGED:
                values[index] = old[index]

    def explain(self, values: list[Any]) -> str:
        """Return which value does not fit its column."""
        for (name, type), value in zip(COLUMNS.items(), self.pick(values), strict=True):
            if value is None:
                if name not in _NULLABLE:
                    return f"`{name}` is null"
                continue
            try:
                if value is not _UNCHANGED:
                    _READERS[type](value)
            except _DAMAGED as error:
                return f"`{name}` is not a {_TYPES[type]}: {error}"
        return "the values do not form a row of `notification`"


def _complaint(columns: dict[str, int]) -> str | None:
    for name, wanted in COLUMNS.items():
        if name not in columns:
            return f"the publication lacks the column `{name}` of notification"
        if columns[name] != wanted:
            return f"the column `{name}` of notification has the type with OID {columns[name]}, not {_TYPES[wanted]}"
    return None


def _values(message: bytes, at: int, relation: _Relation) -> tuple[list[_Value], int, bool]:
    """Return the values of a row, the position after it, and whether all values are in the stream."""
    (count,) = _INT16(message, at)
    if count != relation.count:
        raise UndecodableRecord(f"a row of {count} values, where the table has {relation.count} columns")
    at += 2
    whole = True
    values: list[_Value] = []
    append, length = values.append, _INT32
    for _ in range(count):
        kind = message[at]
        if kind == _BINARY:
            start = at + 5
            at = start + length(message, at + 1)[0]
            append(message[start:at])
        elif kind == _NULL:
            append(None)
            at += 1
        elif kind == _TOASTED:
            append(_UNCHANGED)
            whole = False
            at += 1
        else:
            raise UndecodableRecord(f"a value of the kind {chr(kind)!r}, where only binary ones were requested")
    return values, at, whole


def _recipient(message: bytes, at: int, relation: _Relation) -> str | None:
    """Return the recipient of the row whose values begin at `at`, or None if it is not in the stream."""
    at += 2
    for _ in range(relation.recipient):
        at += 5 + _INT32(message, at + 1)[0] if message[at] == _BINARY else 1
    if message[at] != _BINARY:
        return None
    return message[at + 5 : at + 5 + _INT32(message, at + 1)[0]].decode()


def _name(message: bytes, at: int) -> tuple[str, int]:
    """Return a zero-terminated string and the position after it."""
    end = message.index(0, at)
    return message[at:end].decode(), end + 1


def _expect_end(message: bytes, at: int) -> None:
    if at != len(message):
        raise UndecodableRecord(f"the message has {len(message)} bytes, where its parts end at {at}")


def _check_key(id: int, recipient_id: str) -> None:
    if not 0 < id <= MAX_ID:
        raise UndecodableRecord(f"`id` is {id}, and must be 1 to {MAX_ID}")
    if not recipient_id:
        raise UndecodableRecord("`recipient_id` is empty")


def _check_numbers(version: int, inserted_tx: int, changed_tx: int) -> None:
    if not 0 < version < DELETED:
        raise UndecodableRecord(f"`version` is {version}, and must be 1 to {DELETED - 1}")
    if inserted_tx < 0 or changed_tx < 0:
        raise UndecodableRecord("`inserted_tx` or `changed_tx` is negative")


def _milliseconds(microseconds: int) -> int:
    """Convert microseconds since 2000 to epoch milliseconds, rounded down. Raises ValueError beyond the years 1 to
    9999.
    """
    milliseconds = microseconds // 1000 + _EPOCH_2000
    if not _MIN_TIME <= milliseconds <= _MAX_TIME:
        raise ValueError("it is not in the years 1 to 9999")
    return milliseconds


def _text_of_jsonb(value: bytes) -> str:
    """Return the JSON text. It need not be parsed: PostgreSQL printed it, and the table's CHECK makes it an object."""
    if value[0] != 1:
        raise ValueError(f"it has version {value[0]}, where only 1 is known")
    return value[1:].decode()


_READERS: dict[int, Callable[[bytes], object]] = {
    _BIGINT: _INT64,
    _TEXT: bytes.decode,
    _TIMESTAMPTZ: lambda value: _milliseconds(*_INT64(value)),
    _JSONB: _text_of_jsonb,
}

# The copy stream around pgoutput's messages

_DATA, _KEEPALIVE = b"wk"
_DATA_HEADER = struct.Struct("!BQQq")
_KEEPALIVE_LAYOUT = struct.Struct("!BQqB")
_STATUS = struct.Struct("!cQQQqB")


class CopyStream:
    """The stream that START_REPLICATION opens: takes the server's messages, returns changes, and makes the status
    updates.
    """

    def __init__(self, wanted: Wanted | None = None) -> None:
        self._decoder = Decoder(wanted)
        self._decode = self._decoder.decode
        self.sent = 0
        """When the server sent the pgoutput message that was received last: microseconds since 2000."""
        self.position = 0
        """WAL position of the message that was received last."""
        self.received = 0
        """WAL position up to which everything was received; the next status update confirms it."""
        self.confirmed = 0
        """WAL position that the last status update confirmed."""
        self.reply_wanted = False
        """Tracks whether the server wants a status update at once."""
        self.answer_wanted = False
        """Tracks whether the server owes us a keep-alive that we requested."""

    @property
    def lag(self) -> float:
        """Seconds between the commit and the sending of what was received last, both by the server's clock."""
        if not self._decoder.committed_at:
            return 0.0
        return max(0, self.sent + _EPOCH_2000 * 1000 - self._decoder.committed_at) / 1_000_000

    @property
    def skipped(self) -> int:
        """Number of skipped rows."""
        return self._decoder.skipped

    @property
    def in_transaction(self) -> bool:
        """Whether the current transaction is still being received."""
        return self._decoder.xid != 0

    def receive(self, message: bytes) -> Change | None:
        """Return the change in the message, if any. Raises UndecodableRecord as `Decoder.decode` does."""
        if message[:1] == b"w":
            try:
                _, position, _, self.sent = _DATA_HEADER.unpack_from(message)
            except struct.error as error:
                raise UndecodableRecord(f"a truncated message of the stream: {error}") from error
            if position:  # the Relation and Begin messages of some transactions have no position
                self.position = position
                if position > self.received:
                    self.received = position
            return self._decode(message, _DATA_HEADER.size)
        try:
            kind, end, _, wanted = _KEEPALIVE_LAYOUT.unpack(message)
        except struct.error as error:
            raise UndecodableRecord(f"not a message of the stream: {error}") from error
        if kind != _KEEPALIVE:
            raise UndecodableRecord(f"a message of the stream of the unknown type {chr(kind)!r}")
        self.received = max(self.received, end)
        self.reply_wanted = self.reply_wanted or wanted != 0
        self.answer_wanted = False
        return None

    def status(self, now: float, ask: bool = False) -> bytes:
        """Return the standby status update that confirms everything received; `now` is in epoch seconds.

        With `ask` the server is to answer at once with a keep-alive.
        """
        self.reply_wanted = False
        self.answer_wanted = self.answer_wanted or ask
        self.confirmed = self.received
        clock = int(now * 1_000_000) - _EPOCH_2000 * 1000
        return _STATUS.pack(b"r", self.received, self.received, self.received, clock, ask)


def payload(message: bytes) -> bytes:
    """Return the pgoutput message that a message of the stream wraps."""
    return message[_DATA_HEADER.size :]


def lsn(position: int) -> str:
    """Format a WAL position as PostgreSQL prints it, e.g. `16/B374D848`."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"

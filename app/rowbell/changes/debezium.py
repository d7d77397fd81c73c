"""Decodes Debezium's envelope, JSON without schemas: one record value of the topic → one Change.

Non-obvious properties of Debezium 3.7's output: jsonb is a *string* of JSON; a timestamptz is ISO text; a TOASTed
column that an UPDATE did not change has the value `"__debezium_unavailable_value"`; in the `before` of a DELETE only
the replica identity (recipient_id, id) is real, and the rest are placeholders; `source.ts_us` is the commit time of the
transaction, and `source.txId` the low 32 bits of its id.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from rowbell.changes.rows import MAX_ID, check_data, deleted, incomplete
from rowbell.errors import UndecodableRecord
from rowbell.notification import DELETED, Change, Notification, change_of

UNAVAILABLE = "__debezium_unavailable_value"
"""Stands for a column that is missing from the replication stream."""

_Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
_Version = Annotated[int, Meta(ge=1, lt=DELETED)]
_Xid64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Xid32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
_Microseconds = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# The bounds are those of the table, and keep every number within what the bus encoding can carry.
_Recipient = Annotated[str, Meta(min_length=1)]
_Time = Annotated[datetime, Meta(tz=True)]


class _Key(Struct, gc=False):
    id: _Id
    recipient_id: _Recipient


class _Row(_Key, gc=False):
    version: _Version
    type: str
    title: str
    body: str | None
    data: str
    actor_id: str | None
    channel: str
    created_at: _Time
    expires_at: _Time | None
    read_at: _Time | None
    inserted_tx: _Xid64
    changed_tx: _Xid64


class _Source(Struct, rename="camel", gc=False):
    ts_us: _Microseconds = msgspec.field(name="ts_us")
    tx_id: _Xid32 | None = None


class _Envelope(Struct, gc=False):
    op: str
    source: _Source
    before: _Key | None = None
    after: _Row | None = None


_decode = msgspec.json.Decoder(_Envelope).decode

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def decode(value: bytes | None) -> Change | None:
    """Return the change that a record of the topic describes, or None if it describes none.

    None is returned for a tombstone (no value) and for a row of Debezium's own snapshot (`op` = `r`), which the sweep
    delivers. An UPDATE without an unchanged TOASTed column yields a Change that is `incomplete`. The `tx` of a deletion
    has 32 bits. Raises UndecodableRecord, which names the field, for anything else.
    """
    if value is None:
        return None
    try:
        envelope = _decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableRecord(f"not a Debezium envelope of `notification`: {error}") from error
    match envelope.op:
        case "c" | "u":
            return _written(envelope)
        case "d":
            return _deleted(envelope)
        case "r":
            return None
    raise UndecodableRecord(f"`op` is {envelope.op!r}: only c, u, d and r are known")


def _written(envelope: _Envelope) -> Change:
    row = envelope.after
    if row is None:
        raise UndecodableRecord(f"`op` is {envelope.op!r} and `after` is null")
    if UNAVAILABLE in (row.data, row.body, row.title, row.type, row.actor_id, row.channel, row.recipient_id):
        return _incomplete(row, envelope.source.ts_us)
    check_data(row.data, "after.data")
    notification = Notification(
        id=row.id,
        recipient_id=row.recipient_id,
        version=row.version,
        type=row.type,
        title=row.title,
        body=row.body,
        data=row.data,
        actor_id=row.actor_id,
        channel=row.channel,
        created_at=_milliseconds(row.created_at),
        expires_at=None if row.expires_at is None else _milliseconds(row.expires_at),
        read_at=None if row.read_at is None else _milliseconds(row.read_at),
        inserted_tx=row.inserted_tx,
        changed_tx=row.changed_tx,
    )
    return change_of(notification, envelope.source.ts_us)


def _incomplete(row: _Row, committed_at: int) -> Change:
    if row.recipient_id == UNAVAILABLE:
        raise UndecodableRecord(
            "`after.recipient_id` is unavailable: the recipient is unknown; is it in the replica identity?"
        )
    return incomplete(
        row.id,
        row.recipient_id,
        row.version,
        row.inserted_tx,
        row.changed_tx,
        row.read_at is not None,
        None if row.channel == UNAVAILABLE else row.channel,
        committed_at,
    )


def _deleted(envelope: _Envelope) -> Change:
    key, source = envelope.before, envelope.source
    if key is None:
        raise UndecodableRecord("`op` is 'd' and `before` is null: is the replica identity (recipient_id, id)?")
    if source.tx_id is None:
        raise UndecodableRecord("`op` is 'd' and `source.txId` is missing: the deletion cannot be placed in time")
    return deleted(key.id, key.recipient_id, source.tx_id, source.ts_us)


def _milliseconds(time: datetime) -> int:
    """Return epoch milliseconds, rounded down, in integer arithmetic: floats would turn .791 into 790."""
    return (time - _EPOCH) // _MILLISECOND

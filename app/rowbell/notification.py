"""The values that travel: a row of `notification`, and a change of one.

The JSON that clients see is rendered here, once, by the process that reads the change (the dispatcher from Debezium, a
gateway from SQL), so replayed and live rows are byte-identical. `with_event` prepends the only member that depends on
the subscription, `event`.
"""

from __future__ import annotations

import msgspec

IN_APP = "IN_APP"
"""The channel that gateways deliver. Rows of any other channel are hidden from clients."""

DELETED = 2**63 - 1
"""The version of a deletion: greater than any version a row can have."""


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table, as read from Debezium or SQL. Times are epoch milliseconds, rounded down."""

    id: int
    recipient_id: str
    version: int
    type: str
    title: str
    body: str | None
    data: str
    """The jsonb column as PostgreSQL prints it, embedded unchanged in the JSON."""
    actor_id: str | None
    channel: str
    created_at: int
    expires_at: int | None
    read_at: int | None
    inserted_tx: int
    changed_tx: int


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The state of one row after one committed transaction. This is what the bus carries.

    `tx` is the transaction that made the change: the row's `changed_tx` (64 bits). For a deletion that came through
    replication only the low 32 bits are known, and the gateway widens them (`Snapshot.widen`).
    """

    id: int
    recipient_id: str
    version: int
    """The row's version, or DELETED."""
    inserted_tx: int
    tx: int
    json: str | None = None
    """The rendered object without its opening brace and `event`. None for a deletion, for a hidden row, and for a row
    that replication could not supply completely (an unchanged TOASTed column), which must be read from SQL."""
    read: bool = False
    hidden: bool = False
    """The channel is not IN_APP: to clients the row does not exist."""
    committed_at: int = 0
    """When the transaction committed, in epoch microseconds; 0 if the source does not say (rows from SQL)."""

    @property
    def deleted(self) -> bool:
        """Whether the change is a deletion."""
        return self.version == DELETED

    @property
    def incomplete(self) -> bool:
        """Whether the row must be read from SQL before it can be sent."""
        return self.json is None and not self.hidden and self.version != DELETED


class _Shown(msgspec.Struct, frozen=True, rename="camel"):
    id: int
    version: int
    recipient_id: str
    type: str
    title: str
    body: str | None
    data: msgspec.Raw
    actor_id: str | None
    channel: str
    created_at: int
    expires_at: int | None
    read_at: int | None


_encode = msgspec.json.Encoder().encode


def change_of(row: Notification, committed_at: int = 0) -> Change:
    """Return the change whose result is `row`; `committed_at` is in epoch microseconds, 0 if unknown."""
    hidden = row.channel != IN_APP
    return Change(
        row.id,
        row.recipient_id,
        row.version,
        row.inserted_tx,
        row.changed_tx,
        None if hidden else render(row),
        row.read_at is not None,
        hidden,
        committed_at,
    )


def render(row: Notification) -> str:
    """Render the members that are the same for every subscription: `"id":42,"version":1,...}`."""
    shown = _Shown(
        row.id,
        row.version,
        row.recipient_id,
        row.type,
        row.title,
        row.body,
        msgspec.Raw(row.data.encode()),
        row.actor_id,
        row.channel,
        row.created_at,
        row.expires_at,
        row.read_at,
    )
    return _encode(shown)[1:].decode()


def with_event(event: str, change: Change) -> str:
    """Return the complete JSON object for a client. A deletion has only `event`, `id` and `recipientId`."""
    if event == "deleted":
        recipient = _encode(change.recipient_id).decode()
        return f'{{"event":"deleted","id":{change.id},"recipientId":{recipient}}}'
    return f'{{"event":"{event}",{change.json}'

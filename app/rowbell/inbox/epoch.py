"""The epoch: the period within which transaction ids are unique and snapshots are comparable.

After a crash, a failover or a restore, PostgreSQL reuses transaction ids, and older snapshots are wrong. The row of
`rowbell_epoch` is then gone, or names another system or table, and a gateway creates a new epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

LOCK = 0x726F7762656C6C02
"""The advisory lock for creating an epoch: "rowbell" in ASCII, followed by 2."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The row of `rowbell_epoch`, if it is valid."""

    id: UUID
    purged_tx: int
    """Tombstones with a `deleted_tx` up to and including this one have been purged."""


HOLDS = """
    system = (pg_control_system()).system_identifier AND relation = 'notification'::regclass::oid
"""
"""Whether the row was written in this cluster, about this very table. A restore changes one or the other."""

WAIT_FOR_THE_OTHERS = text("SELECT pg_advisory_xact_lock(:lock)")
"""Held until the end of the transaction: of several gateways that detect the crash, one creates the new epoch."""

CURRENT = text(f"SELECT epoch FROM rowbell_epoch WHERE {HOLDS}")

DROP_OLD = text("DELETE FROM rowbell_epoch")

DROP_TOMBSTONES = text("DELETE FROM notification_deleted")
"""Tombstones carry transaction ids of the old epoch."""

STAMP_RESTORED = text("""
    UPDATE notification SET read_at = read_at
    WHERE changed_tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
""")
"""Restored rows may carry transaction ids that are still to be assigned, and would match every sweep for ever. The
trigger replaces them with the id of this transaction."""

CREATE = text("INSERT INTO rowbell_epoch DEFAULT VALUES RETURNING epoch")
"""Must be the last statement, so that `purged_tx`, the xmax of its snapshot, is above every tombstone dropped
before."""


def renew(connection: Connection, refused: UUID | None) -> UUID:
    """Create a new epoch, unless another gateway has just created one that is not `refused`. Return the id of the
    current epoch.

    Runs in the connection's transaction, which must be READ COMMITTED: each statement sees what committed before it.
    """
    connection.execute(WAIT_FOR_THE_OTHERS, {"lock": LOCK})
    standing: UUID | None = connection.scalar(CURRENT)
    if standing is not None and standing != refused:
        return standing
    return replace(connection)


def replace(connection: Connection) -> UUID:
    """Create a new epoch unconditionally, in the connection's transaction. Return its id."""
    connection.execute(WAIT_FOR_THE_OTHERS, {"lock": LOCK})
    for statement in (DROP_OLD, STAMP_RESTORED, DROP_TOMBSTONES):
        connection.execute(statement)
    made: UUID = connection.execute(CREATE).scalar_one()
    return made

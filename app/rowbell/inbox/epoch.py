"""The epoch: within one, transaction ids are handed out once, and snapshots can be compared.

After a crash, a failover or a restore PostgreSQL hands out transaction ids again, and snapshots taken before lie. The
row of `rowbell_epoch` is gone then, or names another system or table: then a gateway makes a new epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

LOCK = 0x726F7762656C6C02
"""The advisory lock of who makes a new epoch: "rowbell" in ASCII, and 2."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What `rowbell_epoch` says, when it holds."""

    id: UUID
    purged_tx: int
    """No tombstone whose `deleted_tx` is at or below this is left."""


HOLDS = """
    system = (pg_control_system()).system_identifier AND relation = 'notification'::regclass::oid
"""
"""Was the row written in this cluster, about this very table? A restore changes one or the other."""

WAIT_FOR_THE_OTHERS = text("SELECT pg_advisory_xact_lock(:lock)")
"""Held to the end of the transaction: of several gateways that saw the crash, one makes the new epoch."""

CURRENT = text(f"SELECT epoch FROM rowbell_epoch WHERE {HOLDS}")

DROP_OLD = text("DELETE FROM rowbell_epoch")

DROP_TOMBSTONES = text("DELETE FROM notification_deleted")
"""Their transaction ids are of the old epoch."""

STAMP_RESTORED = text("""
    UPDATE notification SET read_at = read_at
    WHERE changed_tx >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
""")
"""Restored rows may carry transaction ids that are yet to come: they would match every sweep for ever. The trigger
writes this transaction's instead."""

CREATE = text("INSERT INTO rowbell_epoch DEFAULT VALUES RETURNING epoch")
"""The last statement, so that `purged_tx`, the xmax of its snapshot, is above every tombstone dropped before it."""


def renew(connection: Connection, refused: UUID | None) -> UUID:
    """Make a new epoch, unless one stands that is not `refused`: then somebody else just made it. Returns its id.

    In the connection's transaction, READ COMMITTED: each statement sees what committed before it.
    """
    connection.execute(WAIT_FOR_THE_OTHERS, {"lock": LOCK})
    standing: UUID | None = connection.scalar(CURRENT)
    if standing is not None and standing != refused:
        return standing
    return replace(connection)


def replace(connection: Connection) -> UUID:
    """Make a new epoch whatever stands. Returns its id."""
    connection.execute(WAIT_FOR_THE_OTHERS, {"lock": LOCK})
    for statement in (DROP_OLD, STAMP_RESTORED, DROP_TOMBSTONES):
        connection.execute(statement)
    made: UUID = connection.execute(CREATE).scalar_one()
    return made

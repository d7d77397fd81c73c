"""The tables as SQLAlchemy Core, for queries. `migrations/` creates them, and tests keep the two in agreement."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, OID

VERSION_TABLE = "rowbell_schema_version"
"""Where Alembic keeps the schema version. Not `alembic_version`, which the application that owns the database may use
for its own migrations."""

metadata = MetaData()

_timestamptz = DateTime(timezone=True)
_clock = text("clock_timestamp()")

notification = Table(
    "notification",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("recipient_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("type", Text, nullable=False, server_default="GENERIC"),
    Column("body", Text),
    Column("data", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("actor_id", Text),
    Column("channel", Text, nullable=False, server_default="IN_APP"),
    Column("dedup_key", Text),
    Column("created_at", _timestamptz, nullable=False, server_default=_clock),
    Column("expires_at", _timestamptz),
    Column("read_at", _timestamptz),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("inserted_tx", BigInteger, nullable=False, server_default=text("0")),
    Column("changed_tx", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("recipient_id", "id", name="notification_recipient_key"),
)
Index(
    "notification_dedup_key",
    notification.c.recipient_id,
    notification.c.dedup_key,
    unique=True,
    postgresql_where=notification.c.dedup_key.is_not(None),
)
Index(
    "notification_unread",
    notification.c.recipient_id,
    notification.c.id,
    postgresql_where=notification.c.read_at.is_(None),
)
Index("notification_changed", notification.c.changed_tx)
Index("notification_recipient_changed", notification.c.recipient_id, notification.c.changed_tx)
Index(
    "notification_expiring",
    notification.c.expires_at,
    postgresql_where=notification.c.expires_at.is_not(None) & notification.c.read_at.is_(None),
)

notification_deleted = Table(
    "notification_deleted",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("recipient_id", Text, nullable=False),
    Column("deleted_tx", BigInteger, nullable=False),
    Column("deleted_at", _timestamptz, nullable=False, server_default=_clock),
    Index("notification_deleted_tx", "deleted_tx"),
    Index("notification_deleted_recipient", "recipient_id", "deleted_tx"),
)

notification_delivery = Table(
    "notification_delivery",
    metadata,
    Column("notification_id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", Text, primary_key=True),
    Column("delivered_at", _timestamptz, nullable=False, server_default=_clock),
)

notification_revocation = Table(
    "notification_revocation",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("before", _timestamptz, nullable=False, server_default=_clock),
    Column("revoked_tx", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
    Index("notification_revocation_tx", "revoked_tx"),
)

rowbell_epoch = Table(
    "rowbell_epoch",
    metadata,
    Column("one", Boolean, CheckConstraint("one"), primary_key=True, server_default=text("true")),
    Column("epoch", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("system", BigInteger, nullable=False, server_default=text("(pg_control_system()).system_identifier")),
    Column("relation", OID, nullable=False, server_default=text("'notification'::regclass::oid")),
    Column(
        "purged_tx",
        BigInteger,
        nullable=False,
        server_default=text("pg_snapshot_xmax(pg_current_snapshot())::text::bigint"),
    ),
    prefixes=["UNLOGGED"],
)

rowbell_heartbeat = Table(
    "rowbell_heartbeat",
    metadata,
    Column("id", Integer, CheckConstraint("id = 1"), primary_key=True, autoincrement=False, server_default=text("1")),
    Column("at", _timestamptz, nullable=False),
)

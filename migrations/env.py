"""Runs migrations on the connection that `rowbell.inbox.schema` passes, inside its transaction."""

from __future__ import annotations

from alembic import context

from rowbell.inbox.tables import VERSION_TABLE, metadata


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Return whether `alembic check` should examine this: the database belongs to an application, whose tables are not
    ours.
    """
    return kind != "table" or name in metadata.tables


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=is_ours,
    compare_server_default=True,
)
context.run_migrations()

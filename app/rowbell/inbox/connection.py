"""How Rowbell connects to PostgreSQL, and what its errors mean.

The URL goes to libpq as it is, so whatever works with `psql "$ROWBELL_DATABASE_URL"` works here: several hosts,
sslmode, a service file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from rowbell.config import hide_password
from rowbell.errors import DatabaseError, DatabaseUnavailable, SettingsError

DEFAULTS: dict[str, str | int] = {
    # A standby's snapshots lack the list of what is in progress: transactions that commit late would be lost.
    "target_session_attrs": "read-write",
    "connect_timeout": 5,
    # A server that vanished without a word is noticed within half a minute: the default is two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""What the connection has unless its URL says otherwise; seconds, but the last is in milliseconds."""

SESSION = (
    # A generic plan does not know how few rows a snapshot has not seen: 220 ms a sweep instead of 1.
    "SET plan_cache_mode = force_custom_plan; "
    # The tables are those in public, whatever else the login's search_path names.
    "SET search_path = public"
)
"""Sent once per connection. Not as libpq `options`, which poolers such as PgBouncer refuse."""

POOL_TIMEOUT = 10.0
"""Seconds to wait for a connection of the pool before PostgreSQL counts as unavailable."""


def defaults(database_url: str, application_name: str) -> dict[str, Any]:
    """Connection parameters for psycopg that do not contradict the URL; SettingsError if libpq cannot read it."""
    try:
        said = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError as error:
        raise SettingsError(f"ROWBELL_DATABASE_URL is not a URL that libpq understands: {error}") from error
    wanted = DEFAULTS | {"application_name": application_name}
    return {name: value for name, value in wanted.items() if name not in said}


def async_engine(database_url: str, pool_size: int, application_name: str) -> AsyncEngine:
    """A pool of at most `pool_size` connections; each is tried before it is used, so a restarted server heals."""
    parameters = defaults(database_url, application_name)

    async def connect(**_: object) -> psycopg.AsyncConnection[Any]:
        connection = await psycopg.AsyncConnection.connect(database_url, **parameters)
        try:
            await connection.execute(SESSION)
            await connection.commit()
        except BaseException:
            await connection.close()
            raise
        return connection

    return create_async_engine(
        "postgresql+psycopg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_pre_ping=True,
        use_native_hstore=False,
    )


@contextmanager
def translated() -> Iterator[None]:
    """DatabaseUnavailable for what goes away by itself, DatabaseError for what an administrator mends.

    Everything else is a mistake in a program, and comes out as it is.
    """
    try:
        yield
    except exc.TimeoutError as error:
        raise DatabaseUnavailable(f"no connection to PostgreSQL was free for {POOL_TIMEOUT:.0f} s") from error
    except exc.DBAPIError as error:
        if (ours := _ours(error.orig)) is None:
            raise
        raise ours from error
    except psycopg.Error as error:
        if (ours := _ours(error)) is None:
            raise
        raise ours from error


def _ours(error: BaseException | None) -> DatabaseError | None:
    text = str(error).strip()
    match error:
        # Not OperationalError in psycopg's tree: a primary that was demoted while we are connected.
        case psycopg.OperationalError() | psycopg.InterfaceError() | psycopg.errors.ReadOnlySqlTransaction():
            return DatabaseUnavailable(f"PostgreSQL cannot be used at present: {text}")
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return DatabaseError(f"the database lacks Rowbell's tables: {text}\nTo make them, run: rowbell migrate")
        case psycopg.errors.InsufficientPrivilege():
            return DatabaseError(
                f"PostgreSQL refuses this login: {text}\n"
                "Give it the role it works under, e.g. for a gateway: GRANT rowbell_gateway TO <login>;"
            )
        case _:
            return None


def shown(database_url: str) -> str:
    """The URL for messages, without its password."""
    return hide_password(database_url)

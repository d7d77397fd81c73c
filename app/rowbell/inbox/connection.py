"""The inbox's connection pool, and the translation of PostgreSQL's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from rowbell.errors import DatabaseError, DatabaseUnavailable
from rowbell.postgres import ENCODING, BoundedConnection, defaults, encoding_complaint, one_line, shown

SESSION = (
    # A generic plan does not know how few rows a snapshot has not seen: 220 ms a sweep instead of 1.
    "SET plan_cache_mode = force_custom_plan; "
    # The tables are in public, whatever the login's search_path is.
    "SET search_path = public"
)
"""Executed once per connection. Not passed as libpq `options`, which poolers such as PgBouncer refuse."""

POOL_TIMEOUT = 10.0
"""Seconds to wait for a free connection of the pool before PostgreSQL counts as unavailable."""

TRANSIENT_ERRORS = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # psycopg does not derive the following from OperationalError. A primary that was demoted while we were connected:
    psycopg.errors.ReadOnlySqlTransaction,
    # A session that the server ended because of its own limits; a new session works.
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    # A statement that met concurrent DDL; or corrupted data, perhaps of a single row, which must not stop the service
    # for everybody.
    psycopg.errors.InternalError_,
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)
"""Errors after which it is enough to try again."""


def async_engine(database_url: str, pool_size: int, application_name: str) -> AsyncEngine:
    """Return a pool of at most `pool_size` connections, each checked before use, so a restart of the server is
    harmless.

    Raises SettingsError if libpq cannot parse the URL; connecting raises DatabaseError for an unsuitable encoding.
    """
    parameters = defaults(database_url, application_name)

    async def connect(**_: object) -> psycopg.AsyncConnection[Any]:
        # A server-side prepared statement would fail for ever in its session once a column's type changes; parsing it
        # each time costs less than the measurement noise (0.1 of 2.3 ms a tick).
        connection = await BoundedConnection.connect(database_url, **parameters, prepare_threshold=None)
        try:
            if complaint := encoding_complaint(connection.info.parameter_status("server_encoding") or ENCODING):
                raise DatabaseError(f"{shown(database_url)}: {complaint}")
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


@asynccontextmanager
async def answer_timeout(connection: AsyncConnection, seconds: float) -> AsyncIterator[None]:
    """Within the context, allow the server `seconds` for each answer on this connection."""
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, BoundedConnection)
    raw.answer_seconds = seconds
    try:
        yield
    finally:
        del raw.answer_seconds


GATEWAYS_RIGHTS = "Grant it the role for gateways: GRANT rowbell_gateway TO <login>;"


@contextmanager
def translate_errors(rights: str = GATEWAYS_RIGHTS) -> Iterator[None]:
    """Translate PostgreSQL's errors to DatabaseUnavailable if they are transient, or DatabaseError if an administrator
    must act.

    `rights` is the advice for a login that lacks rights. All other errors are bugs, and propagate unchanged.
    """
    try:
        yield
    except exc.TimeoutError as error:
        raise DatabaseUnavailable(f"no connection to PostgreSQL was free for {POOL_TIMEOUT:.0f} s") from error
    except exc.DBAPIError as error:
        if (ours := _ours(error.orig, rights)) is None:
            raise
        raise ours from error
    except psycopg.Error as error:
        if (ours := _ours(error, rights)) is None:
            raise
        raise ours from error


def _ours(error: BaseException | None, rights: str) -> DatabaseError | None:
    text = one_line(error) if error else ""
    if isinstance(error, TRANSIENT_ERRORS):
        return DatabaseUnavailable(f"PostgreSQL cannot be used at present: {text}")
    match error:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return DatabaseError(f"the database lacks Rowbell's tables: {text}\nTo make them, run: rowbell migrate")
        case psycopg.errors.InsufficientPrivilege():
            return DatabaseError(f"PostgreSQL refuses this login: {text}\n{rights}")
        case _:
            return None

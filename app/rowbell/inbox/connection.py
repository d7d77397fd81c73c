"""The inbox's pool of connections, and what PostgreSQL's errors mean."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from rowbell.errors import DatabaseError, DatabaseUnavailable
from rowbell.postgres import ENCODING, BoundedConnection, defaults, encoding_complaint, shown

SESSION = (
    # A generic plan does not know how few rows a snapshot has not seen: 220 ms a sweep instead of 1.
    "SET plan_cache_mode = force_custom_plan; "
    # The tables are those in public, whatever else the login's search_path names.
    "SET search_path = public"
)
"""Sent once per connection. Not as libpq `options`, which poolers such as PgBouncer refuse."""

POOL_TIMEOUT = 10.0
"""Seconds to wait for a connection of the pool before PostgreSQL counts as unavailable."""

PASSING = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # The rest are not OperationalError in psycopg's tree. A primary that was demoted while we are connected:
    psycopg.errors.ReadOnlySqlTransaction,
    # A session that the server ended by its own limits: the next one is another.
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    # A statement that met concurrent DDL; or damaged data, perhaps of one row, which must not end what serves all.
    psycopg.errors.InternalError_,
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)
"""After these it is enough to try again."""


def async_engine(database_url: str, pool_size: int, application_name: str) -> AsyncEngine:
    """A pool of at most `pool_size` connections; each is tried before it is used, so a restarted server heals."""
    parameters = defaults(database_url, application_name)

    async def connect(**_: object) -> psycopg.AsyncConnection[Any]:
        # Prepared on the server, a statement would fail for ever in its session when a column's type changes; parsing
        # it each time costs less than the measurement's noise (0.1 of 2.3 ms a tick).
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
async def patiently(connection: AsyncConnection, seconds: float) -> AsyncIterator[None]:
    """Each answer on this connection may take so long meanwhile."""
    raw = (await connection.get_raw_connection()).driver_connection
    assert isinstance(raw, BoundedConnection)
    raw.answer_seconds = seconds
    try:
        yield
    finally:
        del raw.answer_seconds


GATEWAYS_RIGHTS = "Give it the role of gateways: GRANT rowbell_gateway TO <login>;"


@contextmanager
def translated(rights: str = GATEWAYS_RIGHTS) -> Iterator[None]:
    """DatabaseUnavailable for what goes away by itself, DatabaseError for what an administrator mends; `rights` says
    what to do for a login that lacks some.

    Everything else is a mistake in a program, and comes out as it is.
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
    text = str(error).strip()
    if isinstance(error, PASSING):
        return DatabaseUnavailable(f"PostgreSQL cannot be used at present: {text}")
    match error:
        case psycopg.errors.UndefinedTable() | psycopg.errors.UndefinedColumn():
            return DatabaseError(f"the database lacks Rowbell's tables: {text}\nTo make them, run: rowbell migrate")
        case psycopg.errors.InsufficientPrivilege():
            return DatabaseError(f"PostgreSQL refuses this login: {text}\n{rights}")
        case _:
            return None

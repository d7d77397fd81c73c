"""Connecting to PostgreSQL, and the requirements for the server and the database.

The URL is passed to libpq unchanged, so whatever works with `psql "$ROWBELL_DATABASE_URL"` works here: several hosts,
sslmode, a service file.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from rowbell.config import hide_password
from rowbell.errors import DatabaseUnavailable, SettingsError

DEFAULTS: dict[str, str | int] = {
    # A standby's snapshots lack the list of transactions in progress: those that commit late would be lost.
    "target_session_attrs": "read-write",
    "connect_timeout": 5,
    # A server that vanished silently is noticed within half a minute: the default is two hours.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""Connection parameters that the URL may override; in seconds, except the last, which is in milliseconds."""

ANSWER_SECONDS = 30.0
"""How long the server may take to answer. The slowest query, a pass over a million rows, takes 2 s."""

ENCODING = "UTF8"
"""The encoding of the database and of the connection: a token may name a user in any script."""


def defaults(database_url: str, application_name: str) -> dict[str, Any]:
    """Return connection parameters for psycopg: the defaults that the URL does not override, and the encoding, which it
    cannot.

    Raises SettingsError if libpq cannot parse the URL.
    """
    try:
        said = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError as error:
        raise _unusable(error) from error
    wanted = DEFAULTS | {"application_name": application_name}
    return {name: value for name, value in wanted.items() if name not in said} | {"client_encoding": ENCODING}


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection that is shut down if the server does not answer within `answer_seconds`.

    A proxy or load balancer that terminates TCP can keep a connection open although the server behind it is gone;
    neither keep-alive nor `tcp_user_timeout` detects that. Cancelling a statement does not help, since it waits for the
    server's answer as well.
    """

    answer_seconds = ANSWER_SECONDS

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Run a psycopg generator, as the base class does, for at most `answer_seconds`."""
        limit = asyncio.get_running_loop().call_later(self.answer_seconds, self._give_up)
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            limit.cancel()

    def _give_up(self) -> None:
        """Shut the socket down, as if the server had: whoever waits is woken at once, and a pool discards the
        connection.
        """
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.pgconn.socket)) as link:
            link.shutdown(socket.SHUT_RDWR)


async def connect(database_url: str, parameters: dict[str, Any], **more: Any) -> BoundedConnection:
    """Return a connection in autocommit mode. If this is cancelled, no socket stays open. Raises psycopg.Error."""
    try:
        return await BoundedConnection.connect(database_url, **parameters, **more, autocommit=True)
    except asyncio.CancelledError as cancelled:
        # The traceback references psycopg's frames, and they the socket, for as long as somebody keeps the task.
        raise cancelled.with_traceback(None) from None


def connect_sync(database_url: str, application_name: str) -> psycopg.Connection[Any]:
    """Return a blocking connection, for commands.

    Raises SettingsError if libpq cannot use the URL, DatabaseUnavailable if the server cannot be reached.
    """
    try:
        return psycopg.connect(database_url, **defaults(database_url, application_name))
    except psycopg.ProgrammingError as error:
        raise _unusable(error) from error
    except psycopg.OperationalError as error:
        raise unreachable(database_url, error) from error


def one_line(error: BaseException) -> str:
    """Return what libpq says without its line ends, which it indents with tabs."""
    return " ".join(str(error).split())


def unreachable(database_url: str, error: psycopg.Error) -> DatabaseUnavailable:
    """Return the error for a server that cannot be reached, with advice."""
    return DatabaseUnavailable(
        f"cannot connect to {shown(database_url)}: {one_line(error)}\n"
        'Check ROWBELL_DATABASE_URL, and that this works: psql "$ROWBELL_DATABASE_URL"'
    )


def _unusable(error: psycopg.Error) -> SettingsError:
    return SettingsError(f"ROWBELL_DATABASE_URL is not a URL that libpq understands: {error}")


def encoding_complaint(encoding: str) -> str | None:
    """Return why Rowbell cannot use a database in this encoding, with advice, or None if it can."""
    if encoding == ENCODING:
        return None
    return (
        f"its encoding is {encoding}, and must be {ENCODING} to store every user's name and every text. Create another "
        f"database: CREATE DATABASE <name> ENCODING '{ENCODING}' TEMPLATE template0; (with LOCALE 'C' if the server's "
        "locale does not match), move the data with pg_dump, and set ROWBELL_DATABASE_URL to it."
    )


def wal_level_complaint(wal_level: str) -> str | None:
    """Return why the WAL of a server with this setting cannot be decoded, with advice, or None if it can."""
    if wal_level == "logical":
        return None
    return (
        f"wal_level is {wal_level}, and must be logical for changes to be read from the WAL. "
        "As a superuser, run: ALTER SYSTEM SET wal_level = 'logical'; then restart the server. "
        "(On a managed server, set it in the provider's parameters; on Amazon RDS, rds.logical_replication = 1.)"
    )


def shown(database_url: str) -> str:
    """Return the URL without its password, for messages."""
    return hide_password(database_url)

"""How Rowbell connects to PostgreSQL, and what the server and the database must be.

The URL goes to libpq as it is, so whatever works with `psql "$ROWBELL_DATABASE_URL"` works here: several hosts,
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
from rowbell.errors import SettingsError

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

ANSWER_SECONDS = 30.0
"""How long one answer of the server may take. The slowest question, a pass over a million rows, takes 2."""

ENCODING = "UTF8"
"""Of the database and of what we send: a token may name a user in any script."""


def defaults(database_url: str, application_name: str) -> dict[str, Any]:
    """Connection parameters for psycopg: those that the URL leaves open, and the encoding, which is not its to say.

    SettingsError if libpq cannot read the URL.
    """
    try:
        said = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError as error:
        raise SettingsError(f"ROWBELL_DATABASE_URL is not a URL that libpq understands: {error}") from error
    wanted = DEFAULTS | {"application_name": application_name}
    return {name: value for name, value in wanted.items() if name not in said} | {"client_encoding": ENCODING}


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection that is given up when the server does not answer for `answer_seconds`.

    Whatever ends TCP between (a proxy, a load balancer) keeps a connection alive behind which nobody is, and neither
    keep-alive nor `tcp_user_timeout` tells. A statement that was cancelled would wait for the server's word, too.
    """

    answer_seconds = ANSWER_SECONDS

    async def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        limit = asyncio.get_running_loop().call_later(self.answer_seconds, self._give_up)
        try:
            return await super().wait(gen, interval, timeout)
        finally:
            limit.cancel()

    def _give_up(self) -> None:
        """As if the server had closed it: whoever waits sees the end at once, and a pool throws it away."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.pgconn.socket)) as link:
            link.shutdown(socket.SHUT_RDWR)


async def connect(database_url: str, parameters: dict[str, Any], **more: Any) -> BoundedConnection:
    """A connection in autocommit mode, of which nothing stays open when this is cancelled."""
    try:
        return await BoundedConnection.connect(database_url, **parameters, **more, autocommit=True)
    except asyncio.CancelledError as cancelled:
        # Its traceback holds psycopg's frames, and they the socket, for as long as somebody keeps the task.
        raise cancelled.with_traceback(None) from None


def encoding_complaint(encoding: str) -> str | None:
    """Why Rowbell cannot use a database in this encoding, and what to do about it."""
    if encoding == ENCODING:
        return None
    return (
        f"its encoding is {encoding}, and must be {ENCODING} to hold every user's name and every text. Make another "
        f"database: CREATE DATABASE <name> ENCODING '{ENCODING}' TEMPLATE template0; (with LOCALE 'C' if the server's "
        "locale does not match), move what you need there with pg_dump, and name it in ROWBELL_DATABASE_URL."
    )


def wal_level_complaint(wal_level: str) -> str | None:
    """Why changes cannot be read from the log of a server with this setting, and what to do about it."""
    if wal_level == "logical":
        return None
    return (
        f"wal_level is {wal_level}, and must be logical for changes to be read from the log. "
        "As a superuser run: ALTER SYSTEM SET wal_level = 'logical'; then restart the server. "
        "(Where you cannot: set it in the provider's parameters, on Amazon RDS rds.logical_replication = 1.)"
    )


def shown(database_url: str) -> str:
    """The URL for messages, without its password."""
    return hide_password(database_url)

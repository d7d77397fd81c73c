"""`rowbell send`: commit one row, as any application would."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rowbell.config import Settings
from rowbell.errors import DatabaseError, DatabaseUnavailable, SettingsError

if TYPE_CHECKING:
    import psycopg

EXAMPLE = """example:
  rowbell send alice "Hello"
  rowbell send alice "New comment" --type COMMENT --body "Bob wrote: nice" --data '{"postId": "p-100"}'
  rowbell send alice "Invoice 7 is due" --dedup-key invoice-7    # twice is once
  rowbell send topic:news "Half-time"    # to whoever is subscribed to /topic/news

It does what every application can do:
  INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello');"""

DEFAULTS: dict[str, str | int] = {
    "connect_timeout": 10,
    "target_session_attrs": "read-write",
    "client_encoding": "UTF8",
}
"""What the connection has unless its URL says otherwise: ten seconds for each host, the primary among them, and
whatever PGCLIENTENCODING says, every character."""

COLUMNS = ("recipient_id", "title", "type", "body", "data", "dedup_key")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell send USER TITLE [--body TEXT] [--data JSON] [--type TYPE] [--dedup-key KEY]`."""
    parser = subparsers.add_parser(
        "send",
        help="insert a notification",
        description="Insert a row into `notification` and print its id. Needs ROWBELL_DATABASE_URL, with a login "
        "that has the role rowbell_app.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "recipient_id", metavar="USER", help="whom it is for: the subject of their token; or topic:NAME"
    )
    parser.add_argument("title", metavar="TITLE", help="the line that is shown")
    parser.add_argument("--body", metavar="TEXT", help="more text")
    parser.add_argument("--data", metavar="JSON", help="an object for the client, as JSON (default: {})")
    parser.add_argument("--type", help="what kind it is, for the client to tell apart (default: GENERIC)")
    parser.add_argument("--dedup-key", metavar="KEY", help="a second row of USER with the same key is not inserted")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the row's id, or that of the row which has the key already. DatabaseError if it is refused."""
    import psycopg

    from rowbell.inbox.writing import refusal

    settings.require("database_url")
    row = {column: value for column in COLUMNS if (value := getattr(args, column)) is not None}
    try:
        with _connect(str(settings.database_url)) as connection:
            print(_insert(connection, row))
    except psycopg.Error as error:
        raise DatabaseError(str(refusal(error))) from error
    except UnicodeEncodeError:
        raise DatabaseError("an argument is not UTF-8: PostgreSQL takes text in UTF-8 only") from None
    return 0


def _connect(url: str) -> psycopg.Connection:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        said = conninfo_to_dict(url)
        return psycopg.connect(make_conninfo(url, **{name: DEFAULTS[name] for name in DEFAULTS if name not in said}))
    except psycopg.ProgrammingError as error:
        raise SettingsError(f"ROWBELL_DATABASE_URL is not a URL that libpq understands: {error}") from error
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"PostgreSQL cannot be reached: {error}\n"
            'ROWBELL_DATABASE_URL says where it is; try: psql "$ROWBELL_DATABASE_URL"'
        ) from error


def _insert(connection: psycopg.Connection, row: dict[str, str]) -> int:
    """The id of the row, or of the one with its dedup_key. Columns that are not given keep the table's defaults."""
    from rowbell.inbox.writing import insert

    if inserted := connection.execute(insert(row), row).fetchone():
        return int(inserted[0])
    select = "SELECT id FROM notification WHERE recipient_id = %(recipient_id)s AND dedup_key = %(dedup_key)s"
    if not (present := connection.execute(select, row).fetchone()):
        raise DatabaseError("the row with this dedup key was deleted at this moment: send it again")
    print(f"rowbell: nothing inserted: {row['recipient_id']} has a row with this dedup key", file=sys.stderr)
    return int(present[0])

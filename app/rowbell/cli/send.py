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

LIMITS = {
    "recipient_id": "1 to 255 characters, no control characters, none of / * # :",
    "title": "1 to 500 characters, no control characters but tab and line ends",
    "type": "1 to 100 of A-Z a-z 0-9 _ . -",
    "body": "at most 16384 bytes of UTF-8, no control characters but tab and line ends",
    "data": 'a JSON object of at most 24576 bytes, as in \'{"postId": "p-100"}\'',
    "dedup_key": "1 to 255 characters",
}
"""What the CHECK of each column allows, in words."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell send USER TITLE [--body TEXT] [--data JSON] [--type TYPE] [--dedup-key KEY]`."""
    parser = subparsers.add_parser(
        "send",
        help="insert a notification",
        description="Insert a row into `notification` and print its id. Needs ROWBELL_DATABASE_URL.",
        epilog=EXAMPLE,
    )
    parser.add_argument("recipient_id", metavar="USER", help="whom it is for: the subject of their token")
    parser.add_argument("title", metavar="TITLE", help="the line that is shown")
    parser.add_argument("--body", metavar="TEXT", help="more text")
    parser.add_argument("--data", metavar="JSON", help="an object for the client, as JSON (default: {})")
    parser.add_argument("--type", help="what kind it is, for the client to tell apart (default: GENERIC)")
    parser.add_argument("--dedup-key", metavar="KEY", help="a second row of USER with the same key is not inserted")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the row's id, or that of the row which has the key already. DatabaseError if it is refused."""
    import psycopg

    settings.require("database_url")
    row = {column: value for column in COLUMNS if (value := getattr(args, column)) is not None}
    try:
        with _connect(str(settings.database_url)) as connection:
            print(_insert(connection, row))
    except psycopg.Error as error:
        raise DatabaseError(_explain(error)) from error
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
    from psycopg import sql

    insert = sql.SQL("INSERT INTO notification ({}) VALUES ({}) ON CONFLICT DO NOTHING RETURNING id").format(
        sql.SQL(", ").join(map(sql.Identifier, row)), sql.SQL(", ").join(map(sql.Placeholder, row))
    )
    if inserted := connection.execute(insert, row).fetchone():
        return int(inserted[0])
    select = "SELECT id FROM notification WHERE recipient_id = %(recipient_id)s AND dedup_key = %(dedup_key)s"
    if not (present := connection.execute(select, row).fetchone()):
        raise DatabaseError("the row with this dedup key was deleted at this moment: send it again")
    print(f"rowbell: nothing inserted: {row['recipient_id']} has a row with this dedup key", file=sys.stderr)
    return int(present[0])


def _explain(error: psycopg.Error) -> str:
    """What the database refused, by column where it says so, and what to do."""
    from psycopg import errors

    said = error.diag.message_primary or str(error)
    column = (error.diag.constraint_name or "").removeprefix("notification_").removesuffix("_check")
    if isinstance(error, errors.CheckViolation) and column in LIMITS:
        return f"the row was refused: {column} must be {LIMITS[column]}"
    if isinstance(error, errors.InvalidTextRepresentation | errors.UntranslatableCharacter):
        return f"the row was refused: data must be {LIMITS['data']} ({error.diag.message_detail or said})"
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return f"the database lacks Rowbell's tables ({said}): run `rowbell migrate`"
    if isinstance(error, errors.InsufficientPrivilege):
        return f"{said}: grant the role rowbell_app to the login in ROWBELL_DATABASE_URL"
    if isinstance(error, errors.ReadOnlySqlTransaction):
        return f"{said}: this is not the primary; add target_session_attrs=read-write to ROWBELL_DATABASE_URL"
    return "\n".join(filter(None, (f"the row was refused: {said}", error.diag.message_detail, error.diag.message_hint)))

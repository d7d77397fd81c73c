"""`rowbell send`: commits one row, as any application would."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rowbell.config import Settings
from rowbell.errors import DatabaseError

if TYPE_CHECKING:
    import psycopg

EXAMPLE = """example:
  rowbell send alice "Hello"
  rowbell send alice "New comment" --type COMMENT --body "Bob wrote: nice" --data '{"postId": "p-100"}'
  rowbell send alice "Invoice 7 is due" --dedup-key invoice-7    # inserted only once
  rowbell send topic:news "Half-time"    # to all subscribers of /topic/news

Any application can do the same:
  INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello');"""

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
        "recipient_id", metavar="USER", help="the recipient: the user named in their token; or topic:NAME"
    )
    parser.add_argument("title", metavar="TITLE", help="the line to show")
    parser.add_argument("--body", metavar="TEXT", help="more text")
    parser.add_argument("--data", metavar="JSON", help="a JSON object for the client (default: {})")
    parser.add_argument("--type", help="the kind of notification, for the client (default: GENERIC)")
    parser.add_argument("--dedup-key", metavar="KEY", help="do not insert the row if USER has one with this key")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Insert the row and print its id, or the id of the row that has the dedup key already.

    Raises SettingsError if the URL is missing or unusable, DatabaseUnavailable if the server cannot be reached,
    DatabaseError if it refuses the row.
    """
    import psycopg

    from rowbell.inbox.writing import refusal
    from rowbell.postgres import connect_sync

    settings.require("database_url")
    row = {column: value for column in COLUMNS if (value := getattr(args, column)) is not None}
    try:
        with connect_sync(str(settings.database_url), "rowbell-send") as connection:
            print(_insert(connection, row))
    except psycopg.Error as error:
        raise DatabaseError(str(refusal(error))) from error
    except UnicodeEncodeError:
        raise DatabaseError("an argument is not UTF-8: PostgreSQL accepts text in UTF-8 only") from None
    return 0


def _insert(connection: psycopg.Connection, row: dict[str, str]) -> int:
    """Insert the row; return its id, or that of the row with its dedup key. Omitted columns get the table's
    defaults.
    """
    from rowbell.inbox.writing import insert

    if inserted := connection.execute(insert(row), row).fetchone():
        return int(inserted[0])
    select = "SELECT id FROM notification WHERE recipient_id = %(recipient_id)s AND dedup_key = %(dedup_key)s"
    if not (present := connection.execute(select, row).fetchone()):
        raise DatabaseError("the row with this dedup key was deleted at this moment: try again")
    print(f"rowbell: nothing inserted: {row['recipient_id']} already has a row with this dedup key", file=sys.stderr)
    return int(present[0])

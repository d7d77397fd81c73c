"""`rowbell migrate`: make or upgrade the tables."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rowbell.config import Settings, hide_password

if TYPE_CHECKING:
    from rowbell.inbox.schema import Outcome

EPILOG = """\
example:
  export ROWBELL_DATABASE_URL=postgresql://postgres:secret@127.0.0.1:5432/app
  rowbell migrate

It may run at any time, several at once too: a database that is up to date is left alone. The server must be
PostgreSQL 15 or later, a primary, with wal_level = logical. The login needs CREATE on the database and on the schema
public, and CREATEROLE unless the roles rowbell_app, rowbell_gateway and rowbell_connector exist; it becomes the owner.

After the files of a stopped server were copied back over a newer state of it, transaction ids are handed out again,
and nothing in the database shows it. Then stop the gateways, and before you start them again:
  rowbell migrate --new-epoch
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "migrate",
        help="make or upgrade the tables in the database",
        description="Make or upgrade Rowbell's tables, triggers, view, publication and roles in the database.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--new-epoch",
        action="store_true",
        help="also begin a new epoch: sessions are closed, and replayed. For a cold copy of the files, see below",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Migrate, and say on standard output what was done."""
    from rowbell.inbox.schema import migrate

    settings.require("database_url")
    assert settings.database_url is not None  # `require` has seen to it
    outcome = migrate(settings.database_url, new_epoch=args.new_epoch)
    print(f"{hide_password(settings.database_url)}: {told(outcome)}")
    return 0


def told(outcome: Outcome) -> str:
    """What was done, as one line."""
    if outcome.before == outcome.after:
        text = f"the schema is at version {outcome.after} already, nothing to do"
    elif outcome.before is None:
        text = f"the schema was made, at version {outcome.after}"
    else:
        text = f"the schema was brought from version {outcome.before} to {outcome.after}"
    return text if outcome.epoch is None else f"{text}; epoch {outcome.epoch} began"

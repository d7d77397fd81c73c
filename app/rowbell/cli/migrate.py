"""`rowbell migrate`: creates or upgrades the tables."""

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

It is safe to run at any time, also concurrently: a database that is up to date is left alone. The server must be
PostgreSQL 15 or later, a primary, with wal_level = logical. The login needs CREATE on the database and on the schema
public, and CREATEROLE unless the roles rowbell_app, rowbell_gateway and rowbell_connector exist; it becomes the owner.

If a server was restored from a cold copy of its files, older than its last state, it reuses transaction ids, and
nothing in the database shows that. In that case stop the gateways, and before you start them again, run:
  rowbell migrate --new-epoch
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """`rowbell migrate [--new-epoch]`."""
    parser = subparsers.add_parser(
        "migrate",
        help="create or upgrade the tables in the database",
        description="Create or upgrade Rowbell's tables, triggers, view, publication and roles in the database.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--new-epoch",
        action="store_true",
        help="also begin a new epoch: sessions are closed, and replayed. After restoring a cold copy, see below",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Migrate, and print on standard output what was done."""
    from rowbell.inbox.schema import migrate

    settings.require("database_url")
    assert settings.database_url is not None  # `require` has checked it
    outcome = migrate(settings.database_url, new_epoch=args.new_epoch)
    print(f"{hide_password(settings.database_url)}: {told(outcome)}")
    return 0


def told(outcome: Outcome) -> str:
    """Return what was done, in one line."""
    if outcome.before == outcome.after:
        text = f"the schema is already at version {outcome.after}, nothing to do"
    elif outcome.before is None:
        text = f"the schema was created, at version {outcome.after}"
    else:
        text = f"the schema was upgraded from version {outcome.before} to {outcome.after}"
    return text if outcome.epoch is None else f"{text}; epoch {outcome.epoch} began"

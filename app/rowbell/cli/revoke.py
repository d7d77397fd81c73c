"""`rowbell revoke`: revokes the tokens of a user, and ends their sessions."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from rowbell.config import Settings

EXAMPLE = """example:
  rowbell revoke alice                                  # all tokens issued until now
  rowbell revoke alice --before 2026-11-25T08:00:00Z    # those issued before this time

Within seconds, every gateway ends the sessions of these tokens, and refuses them from then on. Tokens issued later are
accepted. A token without `iat` does not say when it was issued, and counts as issued before.

An application, whose login has rowbell_app as well, can do the same in the transaction that locks the account:
  INSERT INTO notification_revocation (user_id) VALUES ('alice');"""

RIGHTS = "Grant it the role for applications: GRANT rowbell_app TO <login>;"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell revoke USER [--before TIME]`."""
    parser = subparsers.add_parser(
        "revoke",
        help="revoke a user's tokens and end their sessions",
        description="Revoke the tokens of USER that were issued before now, or before TIME, and end the sessions that "
        "were opened with them, on every gateway. Needs ROWBELL_DATABASE_URL, with a login that has the role "
        "rowbell_app.",
        epilog=EXAMPLE,
    )
    parser.add_argument("user", metavar="USER", help="the user, as in recipient_id")
    parser.add_argument(
        "--before", metavar="TIME", type=moment, help="ISO 8601 with an offset, e.g. 2026-11-25T08:00:00+01:00"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Revoke, and print which tokens are refused.

    Raises TokenError if USER cannot be a recipient, DatabaseError if PostgreSQL refuses or cannot be reached.
    """
    from rowbell.auth import Rules
    from rowbell.inbox.revoking import revoke
    from rowbell.inbox.schema import connected

    Rules().recipient(args.user)
    settings.require("database_url")
    with connected(str(settings.database_url), "rowbell-revoke", RIGHTS) as connection:
        before = revoke(connection, args.user, args.before)
    earlier = "" if args.before in (None, before) else ", as an earlier revocation says"
    print(f"{args.user}: tokens issued before {before.astimezone(UTC).isoformat()} are refused{earlier}")
    return 0


def moment(text: str) -> datetime:
    """Parse a time in the past, in ISO 8601 with an offset."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 2026-11-25T08:00:00Z") from None
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no time zone: append Z, or an offset such as +01:00")
    if time > datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text!r} is in the future: tokens issued until then would be useless")
    return time

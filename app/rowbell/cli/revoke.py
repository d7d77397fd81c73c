"""`rowbell revoke`: take back the tokens of a user, and end their sessions."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from rowbell.config import Settings

EXAMPLE = """example:
  rowbell revoke alice                                  # every token that alice has now
  rowbell revoke alice --before 2026-11-25T08:00:00Z    # those that were issued earlier

Every gateway ends the sessions of such tokens within seconds, and refuses them from then on. Tokens that are issued
later are taken. A token without `iat` does not say when it was issued, and counts as an early one.

An application, whose login has rowbell_app as well, can do it itself, in the transaction that locks the account:
  INSERT INTO notification_revocation (user_id) VALUES ('alice');"""

RIGHTS = "Give it the role of applications: GRANT rowbell_app TO <login>;"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell revoke USER [--before TIME]`."""
    parser = subparsers.add_parser(
        "revoke",
        help="take back a user's tokens and end their sessions",
        description="Refuse the tokens of USER that were issued before now, or before TIME, and end the sessions that "
        "were opened with them, on every gateway. Needs ROWBELL_DATABASE_URL, with a login that has the role "
        "rowbell_app.",
        epilog=EXAMPLE,
    )
    parser.add_argument("user", metavar="USER", help="the user, as in recipient_id")
    parser.add_argument(
        "--before", metavar="TIME", type=moment, help="ISO 8601 with its offset, as 2026-11-25T08:00:00+01:00"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Say from when on tokens are taken. TokenError if USER cannot be one; DatabaseError if it is refused."""
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
    """A time that has been, from ISO 8601."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time as 2026-11-25T08:00:00Z") from None
    if time.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} does not say which time zone: end it with Z, or as in +01:00")
    if time > datetime.now(UTC):
        raise argparse.ArgumentTypeError(f"{text!r} is to come: tokens issued until then would be useless")
    return time

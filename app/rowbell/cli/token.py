"""`rowbell token`: makes a token for a user, to try things with."""

from __future__ import annotations

import argparse

from rowbell.cli.options import setting
from rowbell.config import Settings

EXAMPLE = """example:
  export ROWBELL_JWT_SECRET=$(openssl rand -hex 32)
  rowbell token alice --ttl 8h
  rowbell token alice --topics status,news.#
  websocat "ws://127.0.0.1:8114/ws?token=$(rowbell token alice)"

In production your login service issues the tokens, with the claims `sub` and `exp`, signed with the same secret or with
a key pair whose public key the gateways know (ROWBELL_JWT_PUBLIC_KEY_FILE, ROWBELL_JWT_JWKS). This command needs the
secret."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_TTL = 365 * UNITS["d"]
"""A year: a token that never expires is a mistake, and would have to be revoked some day (`rowbell revoke`)."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell token USER [--ttl 1h] [--topics PATTERNS]`."""
    parser = subparsers.add_parser(
        "token",
        help="print a token for a user",
        description="Print a token for USER, and nothing else, signed with ROWBELL_JWT_SECRET. It has the claims that "
        "the settings require (ROWBELL_JWT_ISSUER, ROWBELL_JWT_AUDIENCE, ROWBELL_JWT_USER_CLAIM).",
        epilog=EXAMPLE,
    )
    parser.add_argument("user", metavar="USER", help="the user, as in recipient_id")
    parser.add_argument(
        "--ttl",
        type=duration,
        default="1h",
        help="its lifetime: a number followed by s, m, h or d (default: %(default)s)",
    )
    parser.add_argument(
        "--topics",
        type=setting("public_topics"),
        metavar="PATTERNS",
        help="the topics that the user may subscribe to (the claim `topics`): names or patterns, separated by commas",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the token. Raises SettingsError if there is no secret, TokenError if USER cannot be a recipient."""
    from rowbell.auth import Tokens

    claims = {"topics": args.topics.split(",")} if args.topics else {}
    print(Tokens.for_issuing(settings).issue(args.user, lifetime=args.ttl, **claims))
    return 0


def duration(text: str) -> int:
    """Convert `90s`, `30m`, `8h` or `7d` to seconds."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit()) or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number followed by s, m, h or d, such as 90s, 30m, 8h, 7d")
    seconds = int(number) * UNITS[unit]
    if not 0 < seconds <= MAX_TTL:
        raise argparse.ArgumentTypeError(f"{text!r} is not between one second and 365 days")
    return seconds

"""`rowbell listen`: a well-behaved client in the terminal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rowbell.cli.options import setting
from rowbell.config import Settings
from rowbell.errors import RowbellError

if TYPE_CHECKING:
    from rich.text import Text

    from rowbell.cli.listener import Show

EXAMPLE = """example:
  rowbell listen alice &
  rowbell send alice "Hello"

  rowbell listen alice --json | jq .title                     # one JSON object a line
  rowbell listen alice --url wss://example.org/ws --token "$TOKEN"
  rowbell listen alice --topic news.sport                     # to test a token's topics: --token "$TOKEN"
  SSL_CERT_FILE=ca.pem rowbell listen alice --url wss://127.0.0.1:8114/ws    # with your own certificate authority

Notifications go to standard output, the state of the connection to standard error. Ctrl-C ends the command."""

TOKEN_LIFETIME = 3600
"""Seconds. A new token is made for each connection."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell listen USER [--url URL] [--token TOKEN] [--topic NAME] [--ack MODE] [--json]`."""
    parser = subparsers.add_parser(
        "listen",
        help="connect as a user and print notifications",
        description="Connect to a gateway as USER and print notifications, unread ones first. Reconnects forever.",
        epilog=EXAMPLE,
    )
    parser.add_argument(
        "user", metavar="USER", help="the user to connect as; the token is signed with ROWBELL_JWT_SECRET"
    )
    parser.add_argument(
        "--url", type=setting("gateway_url"), help="the gateway's WebSocket, instead of ROWBELL_GATEWAY_URL"
    )
    parser.add_argument("--token", help="use this token of USER instead of making one")
    parser.add_argument(
        "--topic", metavar="NAME", help="print this topic, from now on, instead of the notifications of USER"
    )
    parser.add_argument(
        "--ack",
        choices=("auto", "client-individual"),
        default="client-individual",
        help="what counts as delivered: a printed row (client-individual, the default), or a sent one (auto)",
    )
    parser.add_argument("--json", action="store_true", help="print each JSON object unchanged, one per line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Listen until the process is stopped. Raises RowbellError if the gateway's refusal is permanent."""
    import asyncio

    from rowbell.cli.listener import NOTIFICATIONS, Listener
    from rowbell.gateway.topics import DESTINATION, topic_of

    if args.topic is not None and topic_of(DESTINATION + args.topic) is None:
        raise RowbellError(
            f"{args.topic!r} is not the name of a topic: 1 to 249 characters, none of them / * # : and no control "
            "characters. Give the name alone, as in --topic news.sport, without /topic/ or topic:"
        )
    url = args.url or settings.gateway_url
    destination = f"{DESTINATION}{args.topic}" if args.topic is not None else NOTIFICATIONS
    source = _token_source(args, settings)
    asyncio.run(Listener(url, args.user, source, args.ack, _printer(args), destination).run())
    return 0


def _token_source(args: argparse.Namespace, settings: Settings) -> Callable[[], str]:
    from rowbell.auth import Tokens

    if args.token is not None:
        return lambda: str(args.token)
    tokens = Tokens.for_issuing(settings)
    claims: dict[str, Any] = {"topics": [args.topic]} if args.topic is not None else {}
    return lambda: tokens.issue(args.user, TOKEN_LIFETIME, **claims)


def _printer(args: argparse.Namespace) -> Show:
    if args.json:
        return lambda body, row, replayed: print(body, flush=True)
    if not sys.stdout.isatty():
        return lambda body, row, replayed: print(plain(row, replayed), flush=True)
    from rich.console import Console

    console = Console(highlight=False)
    return lambda body, row, replayed: console.print(coloured(row, replayed))


def plain(row: dict[str, Any], replayed: bool) -> str:
    """Return one line, readable and easy to cut: event, id, then the row's values, separated by tabs."""
    head = [row["event"] + (" (replayed)" if replayed else ""), f"#{row['id']}"]
    if row["event"] == "deleted":
        return "\t".join(head)
    texts = [row["type"], row["title"], row["body"] or ""]
    return "\t".join([*head, f"v{row['version']}", _time(row["createdAt"]), *map(one_line, texts)]).rstrip("\t")


def coloured(row: dict[str, Any], replayed: bool) -> Text:
    """Return styled text: the title first, the body and the data below. Text is never interpreted as markup."""
    from rich.text import Text

    style = {"created": "bold green", "updated": "yellow", "deleted": "red"}.get(row["event"], "")
    text = Text.assemble((f"{row['event']} ", style), (f"#{row['id']}", "dim"))
    if row["event"] == "deleted":
        return text
    text.append(f" v{row['version']}  {_time(row['createdAt'])}  ", "dim").append(one_line(row["title"]), "bold")
    marks = [row["type"], *(["replayed"] if replayed else []), *(["read"] if row["readAt"] is not None else [])]
    text.append(f"  {', '.join(marks)}", "cyan")
    if row["body"]:
        text.append("\n        ").append(one_line(row["body"]))
    if row["data"]:
        text.append("\n        ").append(one_line(json.dumps(row["data"], ensure_ascii=False)), "dim")
    return text


def _time(milliseconds: int) -> str:
    """Format epoch milliseconds as local time."""
    from datetime import datetime

    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(sep=" ", timespec="milliseconds")


def one_line(text: str) -> str:
    """Replace line breaks with spaces, and escape what could control the terminal: texts are untrusted."""
    return "".join(c if c.isprintable() else " " if c in "\t\r\n" else ascii(c)[1:-1] for c in text)

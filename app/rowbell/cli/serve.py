"""`rowbell serve`: one gateway, to which clients connect."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from rowbell.config import Settings

EXAMPLE = """\
example:
  . .rowbell/env
  rowbell serve --port 8114
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="run a gateway, to which clients connect",
        description="Run one gateway until SIGTERM or Ctrl-C. Run as many as you like, behind any load balancer.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--host", help="the address to listen on, instead of ROWBELL_HOST")
    parser.add_argument("--port", type=int, help="the port to listen on, instead of ROWBELL_PORT")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    import uvloop

    from rowbell import logs

    given = {name: value for name in ("host", "port") if (value := getattr(args, name)) is not None}
    settings = dataclasses.replace(settings, **given)
    settings.require("database_url", "redis_url", "rabbitmq_url", "jwt_secret")
    logs.configure(settings)
    uvloop.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    from rowbell import metrics
    from rowbell.auth import Tokens
    from rowbell.bus.rabbitmq import RabbitMQBus
    from rowbell.gateway.gateway import Gateway
    from rowbell.gateway.server import listen, serve
    from rowbell.inbox import Inbox
    from rowbell.presence.redis import RedisPresence

    listener = listen(settings.host, settings.port)
    metrics.serve(settings)
    inbox = Inbox.connect(str(settings.database_url))
    presence = RedisPresence(str(settings.redis_url))
    bus = RabbitMQBus(str(settings.rabbitmq_url))
    try:
        await serve(Gateway(inbox, presence, bus, Tokens.of(settings)), listener)
    finally:
        await bus.close()
        await presence.close()
        await inbox.close()

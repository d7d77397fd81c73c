"""`rowbell serve`: runs a gateway, which clients connect to, in one of three modes."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rowbell.cli.options import setting
from rowbell.config import Settings, environment_name, is_loopback
from rowbell.errors import DatabaseError, SettingsError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from rowbell.auth import Tokens
    from rowbell.bus import Bus
    from rowbell.presence import Presence

Parts = dict[str, Callable[[], Coroutine[Any, Any, None]]]
"""Name → coroutine function that runs in this process as long as the gateway does."""

Started = Callable[[Settings, Callable[[], None]], None]
"""Called with the settings of a gateway and a function that stops it."""

BROKERS = ("kafka_bootstrap_servers", "redis_url", "rabbitmq_url")
"""The settings of the brokers: any of them selects pipeline mode."""
GATEWAY_BROKERS = ("redis_url", "rabbitmq_url")
"""Those that a gateway of the pipeline needs."""

OPTIONS = ("host", "port", "workers", "ssl_certfile", "ssl_keyfile")
"""The settings that have an option as well."""

HOME = ".rowbell"

EXAMPLE = """\
example:
  rowbell serve --embedded                    # everything in this process, with its own PostgreSQL
  . .rowbell/env; rowbell serve --port 8116   # another gateway, for the servers that the settings name
  . .rowbell/env; rowbell serve --port 8116 --workers 4   # four gateways on one port, say one per processor

With ROWBELL_REDIS_URL and ROWBELL_RABBITMQ_URL it is a gateway of the pipeline, and dispatchers send it the changes.
Without them it needs only PostgreSQL, whose WAL it reads itself. Any number of either may run.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """`rowbell serve [--host HOST] [--port PORT] [--workers N] [--ssl-certfile FILE ...] [--embedded ...]`."""
    parser = subparsers.add_parser(
        "serve",
        help="run a gateway, which clients connect to",
        description="Run one gateway until SIGTERM or Ctrl-C. Run as many as you like, behind any load balancer.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--host", type=setting("host"), help="the address to listen on, instead of ROWBELL_HOST")
    parser.add_argument("--port", type=setting("port"), help="the port to listen on, instead of ROWBELL_PORT")
    parser.add_argument(
        "--workers",
        type=setting("workers"),
        metavar="N",
        help="the number of gateway processes on the port, instead of ROWBELL_WORKERS; their metrics are on the ports "
        "from ROWBELL_METRICS_PORT on",
    )
    parser.add_argument(
        "--ssl-certfile",
        type=setting("ssl_certfile"),
        metavar="FILE",
        help="use TLS with this certificate, instead of ROWBELL_SSL_CERTFILE",
    )
    parser.add_argument(
        "--ssl-keyfile",
        type=setting("ssl_keyfile"),
        metavar="FILE",
        help="the certificate's key, instead of ROWBELL_SSL_KEYFILE",
    )
    parser.add_argument(
        "--embedded", action="store_true", help="also start a PostgreSQL, and serve the page at /; for development"
    )
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help=f"where --embedded keeps its data and secrets (default: {HOME})"
    )
    parser.add_argument("--clean", action="store_true", help="with --embedded: first delete its data")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Serve until a signal arrives. Raises RowbellError if it cannot start, or the error of a part that fails."""
    from rowbell import logs

    given = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    settings = dataclasses.replace(settings, **given)
    if args.embedded:
        from rowbell.cli import embedded

        if args.ssl_certfile or args.ssl_keyfile:
            raise SettingsError(
                "--embedded is for this machine, and does not use TLS: omit --ssl-certfile and --ssl-keyfile"
            )
        if args.workers:
            raise SettingsError("--embedded runs one gateway, in one process: omit --workers")
        settings = dataclasses.replace(settings, ssl_certfile=None, ssl_keyfile=None, workers=1)
        return embedded.run(settings, args.home or Path(HOME), clean=args.clean)
    if args.clean or args.home:
        raise SettingsError("--home and --clean apply to --embedded only: add it, or omit them")
    is_pipeline = _is_pipeline(settings)
    logs.configure(settings)
    if not is_pipeline:
        _check(settings)
    if settings.workers > 1:
        from rowbell.cli.workers import supervise

        return supervise(settings, lambda settings, started: serve(settings, started=started))
    return serve(settings)


def _is_pipeline(settings: Settings) -> bool:
    """Return whether the settings select pipeline mode. Raises SettingsError if they are incomplete for their mode."""
    from rowbell.auth import SOURCES

    try:
        settings.require("database_url", *(() if any(getattr(settings, name) for name in SOURCES) else ("jwt_secret",)))
    except SettingsError as error:
        raise SettingsError(f"{error}\nTo try Rowbell without any settings: rowbell serve --embedded") from None
    named = [name for name in BROKERS if getattr(settings, name)]
    if named:
        try:
            settings.require(*GATEWAY_BROKERS)
        except SettingsError as error:
            unset = " ".join(map(environment_name, named))
            raise SettingsError(f"{error}\nOr, to run with PostgreSQL alone: unset {unset}") from None
    return bool(named)


def _check(settings: Settings) -> None:
    """Check that PostgreSQL's WAL can be read. Raises DatabaseError, which says what is missing and how to fix it."""
    from rowbell.changes.requirements import check_requirements
    from rowbell.logs import get_logger

    findings = check_requirements(str(settings.database_url))
    if findings.errors:
        pipeline = f"(To run a gateway of the pipeline, set {' and '.join(map(environment_name, GATEWAY_BROKERS))}.)"
        raise DatabaseError("\n".join([*findings.errors, pipeline]))
    for warning in findings.warnings:
        get_logger("serve").warning("postgresql_is_short", reason=warning)


@dataclass
class Transport:
    """The parts around a gateway that differ between the modes."""

    presence: Presence
    bus: Bus
    streaming: Callable[[], bool]
    """Returns whether changes are being streamed at present."""
    beside: Parts = field(default_factory=dict)


def serve(settings: Settings, beside: Parts | None = None, started: Started = lambda settings, stop: None) -> int:
    """Run the gateway of these settings, and return the exit status.

    `started` is called when clients can connect, with the settings, including the actual port, and a function that
    stops the gateway.
    """
    import uvloop

    uvloop.run(_serve(settings, beside or {}, started))
    return 0


async def _serve(settings: Settings, beside: Parts, started: Started) -> None:
    from rowbell import metrics
    from rowbell.auth import Tokens
    from rowbell.gateway.gateway import Gateway
    from rowbell.gateway.server import listen, serve
    from rowbell.inbox import Inbox

    listener = listen(settings.host, settings.port, shared=settings.workers > 1)
    settings = dataclasses.replace(settings, port=listener.getsockname()[1])
    metrics.serve(settings)
    tokens = Tokens.of(settings)
    async with AsyncExitStack() as opened:
        around = (
            _pipeline(settings, opened)
            if settings.redis_url
            else _postgres_only(settings, opened, lambda recipient: gateway.serves(recipient))
        )
        inbox = Inbox.connect(str(settings.database_url))
        opened.push_async_callback(inbox.close)
        gateway = Gateway(inbox, around.presence, around.bus, tokens, around.streaming, settings)
        running = {"keys": tokens.run} | around.beside | beside
        await serve(gateway, listener, _page(settings, tokens), running, lambda stop: started(settings, stop))


def _pipeline(settings: Settings, opened: AsyncExitStack) -> Transport:
    """Return the transport of pipeline mode: dispatchers send changes through RabbitMQ."""
    from rowbell.bus.rabbitmq import RabbitMQBus
    from rowbell.presence.redis import RedisPresence

    presence = RedisPresence(str(settings.redis_url))
    opened.push_async_callback(presence.close)
    bus = RabbitMQBus(str(settings.rabbitmq_url))
    opened.push_async_callback(bus.close)
    return Transport(presence, bus, streaming=lambda: True)


def _postgres_only(settings: Settings, opened: AsyncExitStack, serves: Callable[[str], bool]) -> Transport:
    """Return the transport of Postgres-only mode: a dispatcher in this process reads the WAL for this gateway alone.

    It skips rows for recipients that the gateway does not serve.
    """
    from rowbell.bus.memory import MemoryBus
    from rowbell.changes.wal import WalChanges
    from rowbell.dispatch.dead_letters import MemoryDeadLetters
    from rowbell.dispatch.dispatcher import Dispatcher
    from rowbell.presence.memory import MemoryPresence

    presence, bus = MemoryPresence(), MemoryBus()
    changes = WalChanges(str(settings.database_url), serves)
    opened.push_async_callback(changes.close)
    dispatcher = Dispatcher(changes, presence, bus, MemoryDeadLetters())
    return Transport(presence, bus, lambda: changes.streaming, {"dispatcher": dispatcher.run})


def _page(settings: Settings, tokens: Tokens) -> list[BaseRoute]:
    """Return the routes of the page if it is enabled."""
    if settings.page_database_url is None:
        return []
    if not tokens.can_issue:
        settings.require("jwt_secret")  # the page issues tokens
    from rowbell.logs import get_logger
    from rowbell.page import routes

    if not is_loopback(settings.host):
        get_logger("serve").warning("page_is_exposed", host=settings.host, effect="whoever reaches it can be any user")
    return routes(settings.page_database_url, tokens, hosts=[settings.host])

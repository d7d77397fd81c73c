"""Runs a gateway's web server: uvicorn, with a stop that first closes the sessions gradually."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import FrameType
from typing import Any

import uvicorn
from starlette.routing import BaseRoute

from rowbell.config import Settings, not_listening
from rowbell.errors import DatabaseUnavailable, RowbellError
from rowbell.gateway import tls
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.http_protocol import HEAD_TIMEOUT, HttpProtocol
from rowbell.gateway.web import Web
from rowbell.gateway.websocket import LINGER, WebSocketProtocol
from rowbell.logs import get_logger

log = get_logger("gateway.server")

BACKLOG = 4096
"""The listen backlog: after a restart a gateway meets all its clients at once."""
OTHER_FILES = 256
"""File descriptors besides those of clients: for databases, brokers, and connections that are being refused."""

MANY = 1_000_000
"""Connections to provide file descriptors for if their number is not limited."""


Stop = Callable[[], None]

CLIENTS_MISTAKES = {
    "ASGI callable returned without completing handshake.",
    "Invalid HTTP request received.",
    "Unsupported upgrade request.",
}
"""What uvicorn logs about clients, without any limit; the first for a handshake that gets an HTTP answer, as a 401."""


def _is_ours(record: logging.LogRecord) -> bool:
    return record.msg not in CLIENTS_MISTAKES


class GatewayServer(uvicorn.Server):
    """The web server of one gateway. The first SIGTERM or SIGINT stops the gateway, then the server; a second one cuts
    that short.
    """

    def __init__(self, gateway: Gateway, config: uvicorn.Config, started: Callable[[Stop], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._tell_started = started
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Task[None] | None = None
        self._asked = False
        """Tracks whether a signal has arrived; the stop may have begun for another reason."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # without sockets: uvicorn has no settings for the time-outs of TLS
        if not self.should_exit:
            for each in sockets or ():
                self.servers.append(await self._listen(each))
                host, port, *_ = each.getsockname()
                log.info("listening", host=host, port=port, tls=self.config.is_ssl)
            self._tell_started(self.stop)

    async def _listen(self, listener: socket.socket) -> asyncio.Server:
        config = self.config

        def protocol() -> asyncio.Protocol:
            # As uvicorn makes it in `startup`.
            return HttpProtocol(config=config, server_state=self.server_state, app_state=self.lifespan.state)

        return await self._loop.create_server(
            protocol,
            sock=listener,
            backlog=BACKLOG,
            ssl=config.ssl,
            # The defaults are a minute, and half a minute until a client has answered the end of TLS.
            ssl_handshake_timeout=HEAD_TIMEOUT if config.ssl else None,
            ssl_shutdown_timeout=LINGER if config.ssl else None,
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A signal handler runs between any two instructions: leave the work to the event loop.
        self._loop.call_soon_threadsafe(self._asked_to_stop, sig, frame)

    def _asked_to_stop(self, sig: int, frame: FrameType | None) -> None:
        if self._asked:
            super().handle_exit(sig, frame)
        self._asked = True
        self.stop()

    def stop(self) -> None:
        """Stop the gateway, then the server; further calls do nothing."""
        if self._stop is None:
            self._stop = self._loop.create_task(self._stop_gateway(), name="stop")

    def check_stop(self) -> None:
        """Raise the error with which the stop failed, if it has ended."""
        if self._stop is not None and self._stop.done():
            self._stop.result()

    async def _stop_gateway(self) -> None:
        try:
            await self._gateway.stop()
        finally:
            self.should_exit = True


def listen(host: str, port: int, shared: bool = False, setting: str = "ROWBELL_PORT") -> socket.socket:
    """Return a listening socket; `shared` lets other processes listen on the port too. `setting` is the name of the
    port's setting. SettingsError if the address is not available.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)
    except (OSError, UnicodeError) as error:
        raise not_listening(f"cannot listen on {host}:{port}", error, setting) from None
    # Accepted sockets inherit these options, which detect vanished clients that have no heart-beats.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 60),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 60_000),
    ):
        if hasattr(socket, option):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return listener


async def serve(
    gateway: Gateway,
    listener: socket.socket,
    routes: Sequence[BaseRoute] = (),
    beside: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] | None = None,
    started: Callable[[Stop], None] = lambda stop: None,
) -> None:
    """Serve until a signal stops it or a part of the gateway fails, whose error is then raised.

    `routes` are served over HTTP besides the gateway's own. `beside` maps names to coroutine functions that run as long
    as the gateway does. `started` is called once clients can connect, with a function that stops all of it.

    SettingsError if the TLS settings are not usable; DatabaseError if the database is not usable at the start.
    """
    settings = gateway.settings
    context = tls.context(settings)
    is_limited = settings.max_connections and settings.max_http_connections
    _make_room(settings.max_connections + settings.max_http_connections if is_limited else 0)
    try:
        await gateway.prepare()
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(
            f"{error}\nA gateway does not start without its database: check ROWBELL_DATABASE_URL"
        ) from None
    config = _config(Web(gateway, routes), settings, context)
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    server = GatewayServer(gateway, config, started)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # stop when the terminal is closed, but not under nohup
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.handle_exit, signal.SIGHUP, None)
    web = asyncio.create_task(server.serve(sockets=[listener]), name="web")
    try:
        await gateway.run(web, beside or {})
        server.check_stop()
    except* RowbellError as failed:
        raise _first(failed) from None
    finally:
        server.should_exit = True
        await asyncio.wait([web])


def _config(web: Web, settings: Settings, context: ssl.SSLContext | None) -> uvicorn.Config:
    def give_context(config: uvicorn.Config, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        assert context is not None
        return context

    return uvicorn.Config(
        web,
        ws=WebSocketProtocol,
        ws_max_size=settings.max_frame,
        ws_per_message_deflate=False,  # 20 KiB per connection instead of 60
        ws_ping_interval=None,  # STOMP has heart-beats; JsonSession pings; TCP keep-alive finds the rest
        ssl_context_factory=give_context if context else None,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=(settings.trusted_proxies or "").split(","),
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",  # lower levels log the query, and so the token
        server_header=False,
        timeout_graceful_shutdown=1,  # the sessions are already closed
    )


def _make_room(connections: int) -> None:
    """Raise the limit of file descriptors as far as allowed, since connections that never reach a handshake need them
    too. Most systems give a process 1,024 until it asks for more. `connections` 0 means no limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (connections or MANY) + OTHER_FILES
    if connections and hard != resource.RLIM_INFINITY and wanted > hard:
        log.warning("few_file_descriptors", limit=hard, connections=connections)
    most = wanted if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _first(failed: BaseException) -> BaseException:
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed

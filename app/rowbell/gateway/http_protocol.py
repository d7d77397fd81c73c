"""A connection before it becomes a WebSocket: idle ones are not kept for long, and everything is bounded.

uvicorn waits forever for the end of a request's head, reads a head of any length into memory, and cancels the time-out
of an idle connection at its first byte, even an empty line. It handles WebSockets and complete requests well.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rowbell.gateway.web import Web
from rowbell.metrics import HTTP_CONNECTIONS, REFUSED

HEAD_TIMEOUT = 10.0
"""Seconds that a client has to send the head of a request: as long as a session has for CONNECT by default."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's head, which bounds the length of a token in it: more than any browser or proxy sends."""
MAX_HEADERS = 128
"""Headers of a request, the same limit as in websockets: the shortest takes thirty times its size in memory."""
MAX_PIPELINED = 16
"""Requests of one connection that may wait while another is answered. uvicorn parses all that it has read, and stops
reading only between two reads, of which one of 256 KiB holds twelve thousand requests."""


class HttpProtocol(HttpToolsProtocol):
    """One HTTP connection until it becomes a WebSocket; created by the server for each accepted socket."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        assert isinstance(self.config.app, Web)
        self._most = self.config.app.settings.max_http_connections
        self._open = self.config.app.http_connections
        self._impatience: asyncio.TimerHandle | None = None
        """Tracks when a client that has yet to send a head, or the rest of one, is cut; None while none is due."""
        self._head = 0
        """Tracks the bytes received since the last head was complete, or since the next has been awaited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._open[self] = None
        HTTP_CONNECTIONS.inc()
        self._await_head()
        if self._most and len(self._open) > self._most:
            REFUSED["http_connections"].inc()
            longest_idle = next(iter(self._open))
            longest_idle._cut()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self not in self._open or self.transport.is_closing():
            return
        if self._impatience is not None and self._head > MAX_HEAD:
            self._cut()
        elif self.cycle is None or self.cycle.response_complete:
            self._await_head()  # an empty line, or more of a body that is not needed: the time is limited

    def on_message_begin(self) -> None:
        super().on_message_begin()  # type: ignore[no-untyped-call, unused-ignore]
        self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError("too many headers")  # uvicorn answers 400 and closes
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests at once")
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD:
            raise ValueError("too long a head")  # it came in one read
        self._head_is_here()
        if self in self._open:
            self._open[self] = self._open.pop(self)  # moved to the end, as the one with the most recent request
        super().on_headers_complete()  # type: ignore[no-untyped-call, unused-ignore]

    def on_body(self, body: bytes) -> None:
        self._head = 0  # a body is not part of a head, even if it is not read any more
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        """Upgrade only when all earlier requests are answered and their answers read: the WebSocket would never learn
        that the socket is already full, and would write without bounds.
        """
        if self.flow.write_paused or self.pipeline or (self.cycle is not None and not self.cycle.response_complete):
            self._cut()
        else:
            self._leave()
            super().handle_websocket_upgrade()

    def _await_head(self) -> None:
        if self._impatience is None:
            self._head = 0
            self._impatience = self.loop.call_later(HEAD_TIMEOUT, self._cut)

    def _head_is_here(self) -> None:
        self._head = 0
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _cut(self) -> None:
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        """Stop counting this as an HTTP connection."""
        self._head_is_here()
        if self in self._open:
            del self._open[self]
            HTTP_CONNECTIONS.dec()

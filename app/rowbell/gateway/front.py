"""A connection before it is a WebSocket: what has not asked for anything is not kept for long, nor without bounds.

uvicorn waits for ever for the end of a request's head, and takes one of any length into memory; WebSockets and
requests that are complete it treats well.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT = 10.0
"""Seconds for the head of a request to be complete: as long as a session has for CONNECT."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's head, and with it of the longest token: more than any browser or proxy sends."""


class FrontProtocol(HttpToolsProtocol):
    """HTTP, until it becomes a WebSocket."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._impatience: asyncio.TimerHandle | None = None
        """Tracks when a client that owes us the rest of a head is cut; None while it owes none."""
        self._head = 0
        """Tracks how much came since the last head was complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, error: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        if self._impatience is not None and self._head > MAX_HEAD:
            self._head_is_here()
            self.transport.abort()
            return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()  # type: ignore[no-untyped-call, unused-ignore]
        self._await_head()

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()  # type: ignore[no-untyped-call, unused-ignore]

    def handle_websocket_upgrade(self) -> None:
        """Only when all requests before it are answered, and their answers read: that the socket is full already the
        WebSocket would never hear, and write without bounds.
        """
        if self.flow.write_paused or self.pipeline or (self.cycle is not None and not self.cycle.response_complete):
            self.transport.abort()
        else:
            super().handle_websocket_upgrade()

    def _await_head(self) -> None:
        if self._impatience is None:
            self._impatience = self.loop.call_later(HEAD_TIMEOUT, self.transport.abort)

    def _head_is_here(self) -> None:
        self._head = 0
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

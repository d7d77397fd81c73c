"""The WebSocket of one connection: text is written at once, and costly frames that are not messages are bounded.

uvicorn parses all that has arrived in one go, and answers pings whether the client reads or not. Messages pause the
reading until the application has taken them, one by one; pings, pongs and fragments do not, and 256 KiB of the smallest
ones block all other connections for seconds.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from rowbell.gateway.rate import RateMeter
from rowbell.gateway.session import NOT_UTF8, POLICY_VIOLATION, TOO_LARGE
from rowbell.gateway.web import SOCKET, Web
from rowbell.metrics import REFUSED

PIECE = 4096
"""Octets that are parsed at a time: seven hundred of the smallest frames, a few milliseconds."""

PING = Frame(Opcode.PING, b"").serialize(mask=False)

LINGER = 2.0
"""Seconds for which a refused client's data is still read and discarded, until it closes as well. A socket that is
closed with unread data is reset, and its client may never see the close frame that says why. With TLS, which has no
half-closed connections, it always takes this long."""


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """The WebSocket of one connection. Created by uvicorn at the upgrade; offers `write` to its session."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        assert isinstance(self.config.app, Web)
        self._max_rate = self.config.app.settings.max_frame_rate
        self._rate = RateMeter(self._max_rate)
        """Tracks the rate of pings, pongs and fragments."""
        self._unparsed = bytearray()
        """Tracks data that has been read but not parsed, because it follows a message the application has not taken."""
        self._is_refused = False
        """Tracks whether the connection was ended because of what the client sent: nothing more is parsed then."""
        self._pong = b""
        """Tracks the pongs for the latest pings, while the client does not read."""

    # Receiving.

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            self._unparsed += data
            self._parse()

    async def receive(self) -> ASGIReceiveEvent:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            if self._unparsed:
                await asyncio.sleep(0)  # one read may hold forty thousand messages: yield to other tasks
            self._read_on()
        return message

    def _read_on(self) -> None:
        """Parse on, and then read on, now that the application has taken all messages."""
        while self._unparsed and self.queue.empty() and not self.transport.is_closing():
            self._parse_piece()
        if self.read_paused and self.queue.empty() and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """Parse all that was received before the end, such as acknowledgements of a client that has left."""
        self.read_paused = True  # there is no reading left to pause
        while self._unparsed and not self._is_refused:
            self._parse_piece()
        super().connection_lost(error)

    def _parse(self) -> None:
        """Parse until there is a message for the application: what pauses the reading also pauses the parsing."""
        while self._unparsed and not self.read_paused and not self.transport.is_closing():
            self._parse_piece()

    def _parse_piece(self) -> None:
        piece = bytes(self._unparsed[:PIECE])
        del self._unparsed[:PIECE]
        super().data_received(piece)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_handshake(self.conn.handshake_exc)

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            # uvicorn would log a traceback for a client's mistake.
            try:
                self.frames = [b"".join(self.frames)]
                str(self.frames[0], "utf-8")
            except UnicodeDecodeError:
                self.frames = []
                self._refuse(NOT_UTF8, "a text message must be UTF-8", "protocol")
                return
        super().send_receive_event_to_app()

    def _refuse_handshake(self, error: Exception) -> None:
        """Answer a request that websockets does not accept as a handshake. uvicorn is not told of it, and would neither
        answer nor close.
        """
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        REFUSED["protocol"].inc()
        body = f"Not a valid WebSocket handshake: {error}\n".encode("ascii", "replace")
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        self.transport.close()

    # Counting frames.

    def handle_ping(self) -> None:
        # RFC 6455, 5.5.3: an endpoint "MAY elect to send a Pong frame for only the most recently processed Ping frame".
        # One read may bring many pings; the first call then takes the pongs for all of them, the others find none.
        self._pong = b"".join(self.conn.data_to_send()) or self._pong
        self._send_pong()
        self._count()

    def handle_pong(self, event: Frame) -> None:
        super().handle_pong(event)
        self._count()

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        self._count()

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        self._count_unheard()

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        self._count_unheard()

    def _count_unheard(self) -> None:
        if self.close_sent:  # the application takes no more messages, so nothing pauses the reading
            self._count()

    def _count(self) -> None:
        if self._rate.is_exceeded(self.loop.time()):
            self._refuse(POLICY_VIOLATION, f"more than {self._max_rate} frames a second", "frame_rate")

    def _refuse(self, code: int, message: str, reason: str) -> None:
        if self._is_refused:
            return
        self._is_refused = True
        if self.close_sent:
            self._linger()
        elif not self.transport.is_closing():
            REFUSED[reason].inc()
            self.conn.fail(code, message)
            self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        sent = self.conn.close_sent
        if not self._is_refused:
            self._is_refused = True
            REFUSED["frame" if sent is not None and sent.code == TOO_LARGE else "protocol"].inc()
        if sent is None:  # the handshake has not been answered, so there is no WebSocket to close
            self.transport.abort()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._linger()

    def _linger(self) -> None:
        """Write nothing more, and discard what still arrives."""
        self.close_sent = True
        self._unparsed.clear()
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(LINGER, self.transport.close)

    def shutdown(self) -> None:
        """Close because uvicorn stops. A connection that is already closing must not be sent another close frame: its
        client may not be reading.
        """
        if not self.transport.is_closing():
            super().shutdown()

    # Sending.

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:  # it is set if the request was not a valid handshake
            self.scope["extensions"][SOCKET] = {"write": self.write, "ping": self.ping}
        else:
            REFUSED["protocol"].inc()

    def write(self, text: str) -> bool:
        """See `rowbell.gateway.session.Write`. `send` does the same with more overhead, and waits."""
        if not self._may_write():
            return False
        self.transport.write(Frame(Opcode.TEXT, text.encode()).serialize(mask=False))
        return True

    def ping(self) -> None:
        if self._may_write():
            self.transport.write(PING)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        self._send_pong()  # for a ping that came before the handshake was answered
        if self._unparsed:  # after a close, the client's close frame is still awaited
            self._parse()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._send_pong()

    def _send_pong(self) -> None:
        if self._pong and self._may_write():
            self.transport.write(self._pong)
            self._pong = b""

    def _may_write(self) -> bool:
        ready = self.handshake_complete and self.writable.is_set()
        return ready and not self.close_sent and not self.transport.is_closing()

"""A TCP link that reads along: what a client and a gateway say to each other, WebSocket message by message.

It can also be cut, shut, and frozen as a network is from which somebody has walked away.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field

TEXT, BINARY, CONTINUATION, CLOSE = 1, 2, 0, 8
"""Opcodes of WebSocket: RFC 6455, section 5.2."""

NO_CODE = 1005
"""A close that names none: RFC 6455, section 7.1.5."""


@dataclass
class Said:
    """What one side of a link has said."""

    head: str = ""
    """Of HTTP: the request, or the answer."""
    beats: int = 0
    frames: list[str] = field(default_factory=list)
    """STOMP frames, without their NUL."""
    closed: int | None = None
    """The code of its close."""
    _rest: bytes = b""
    _stomp: bytes = b""

    def take(self, data: bytes) -> None:
        self._rest += data
        if not self.head:
            head, blank, rest = self._rest.partition(b"\r\n\r\n")
            if not blank:
                return
            self.head, self._rest = head.decode("latin-1"), rest
        if "\r\nupgrade: websocket" not in self.head.lower():
            return
        while (message := self._next()) is not None:
            self._understand(*message)

    def commands(self) -> list[str]:
        return [frame.split("\n", 1)[0] for frame in self.frames]

    def _next(self) -> tuple[int, bytes] | None:
        """Opcode and payload of a WebSocket frame that is complete."""
        if len(self._rest) < 2:
            return None
        masked, size, at = self._rest[1] & 0x80, self._rest[1] & 0x7F, 2
        if extended := {126: ("!H", 2), 127: ("!Q", 8)}.get(size):
            layout, octets = extended
            if len(self._rest) < at + octets:
                return None
            (size,) = struct.unpack_from(layout, self._rest, at)
            at += octets
        mask = self._rest[at : at + 4] if masked else b""
        at += len(mask)
        payload = self._rest[at : at + size]
        if len(payload) < size or (masked and len(mask) < 4):
            return None
        opcode, self._rest = self._rest[0] & 0x0F, self._rest[at + size :]
        return opcode, bytes(octet ^ mask[n % 4] for n, octet in enumerate(payload)) if mask else payload

    def _understand(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self.closed = int.from_bytes(payload[:2], "big") if payload else NO_CODE
        elif payload == b"\n" and not self._stomp:
            self.beats += 1
        elif opcode in (TEXT, BINARY, CONTINUATION):
            *frames, self._stomp = (self._stomp + payload).split(b"\0")
            self.frames += [frame.decode().lstrip("\n") for frame in frames]


@dataclass
class Link:
    client: Said = field(default_factory=Said)
    gateway: Said = field(default_factory=Said)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    frozen: bool = False


class Tap:
    """`async with Tap(port) as tap:` forwards 127.0.0.1:`tap.port` to 127.0.0.1:`port`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self.links: list[Link] = []
        """Each connection that came to the gateway, in order."""
        self.shut = False
        """Is whoever comes sent away?"""

    async def __aenter__(self) -> Tap:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    @property
    def sockets(self) -> list[Link]:
        """The links of WebSockets, in order: a browser makes others as well."""
        return [link for link in self.links if "\r\nupgrade: websocket" in link.client.head.lower()]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection there is now."""
        for link in self.links:
            for writer in link.writers:
                writer.transport.abort()

    def freeze(self) -> None:
        """Carry nothing more on the connections there are now, not even their ends: neither side hears of the other.

        What they say is still read.
        """
        for link in self.links:
            link.frozen = True

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if self.shut:
                raise ConnectionRefusedError
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writers=[writer, there_writer])
        self.links.append(link)
        await asyncio.gather(
            self._pump(link, reader, there_writer, link.client),
            self._pump(link, there_reader, writer, link.gateway),
            return_exceptions=True,
        )
        for end in link.writers:
            end.transport.abort()

    async def _pump(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: Said) -> None:
        while data := await reader.read(65536):
            said.take(data)
            if not link.frozen:
                writer.write(data)
        if not link.frozen:
            writer.write_eof()  # what is still said in the other direction is read

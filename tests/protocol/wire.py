"""What the tests of the protocol speak to a gateway: frames written by hand, and nothing of the product's codec.

Every message that comes is checked: it is text, and one whole frame or a heart-beat, so each test tries rule 1 as well.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.integration.processes import Gateway

VERSIONS = ("1.0", "1.1", "1.2")

NOTIFICATIONS = "/user/queue/notifications"
UNREAD = "/user/queue/unread"
READ = "/app/notifications/read"
TOKEN = "/app/token"

PATIENCE = 10.0
"""Seconds until what must come is missing."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
"""Opcodes of WebSocket: RFC 6455, section 5.2."""


@dataclass(frozen=True)
class Frame:
    """As it stood on the wire: no escape is undone."""

    command: str
    lines: tuple[str, ...]
    body: str

    @classmethod
    def parse(cls, message: object) -> Frame:
        """AssertionError unless the message is one whole frame: text, LF only, nothing after the NUL."""
        assert isinstance(message, str), f"a binary message: {message!r}"
        head, blank, body = message.partition("\n\n")
        assert blank, f"no whole frame: {message!r}"
        assert body.endswith("\0"), f"cut, or something after the NUL: {message!r}"
        assert message.count("\0") == 1, f"two frames in one message: {message!r}"
        assert "\r" not in head, f"CR in a head: {message!r}"
        command, *lines = head.split("\n")
        assert all(name and colon for name, colon, _ in (line.partition(":") for line in lines)), message
        return cls(command, tuple(lines), body[:-1])

    @property
    def names(self) -> list[str]:
        return [line.partition(":")[0] for line in self.lines]

    @property
    def headers(self) -> dict[str, str]:
        return {name: value for name, _, value in (line.partition(":") for line in self.lines)}


def frame(command: str, *lines: str, body: str = "") -> str:
    """A frame as clients write it; the lines are `name:value`."""
    return "".join(f"{line}\n" for line in (command, *lines)) + f"\n{body}\0"


class Wire:
    """One open WebSocket."""

    def __init__(self, opened: ClientConnection) -> None:
        self.opened = opened
        self.beats = 0
        """How many heart-beats have come."""

    async def send(self, *messages: str | bytes) -> None:
        """Each as one WebSocket message: text of `str`, binary of `bytes`."""
        for message in messages:
            await self.opened.send(message)

    async def next(self, within: float = PATIENCE) -> Frame:
        """The next frame; heart-beats are counted and passed over."""
        async with asyncio.timeout(within):
            while (message := await self.opened.recv()) == "\n":
                self.beats += 1
        return Frame.parse(message)

    async def until(self, command: str, **headers: str) -> list[Frame]:
        """The frames up to the one with this command and, among others, these headers; it is the last."""
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        frames: list[Frame] = []
        while not (frames and frames[-1].command == command and wanted.items() <= frames[-1].headers.items()):
            frames.append(await self.next())
            assert command == "ERROR" or frames[-1].command != "ERROR", frames[-1]
        return frames

    async def message(self, id: int) -> Frame:
        """The next MESSAGE about this notification; what comes before is passed over."""
        return (await self.until("MESSAGE", notification_id=str(id)))[-1]

    async def connect(self, token: str | None, version: str = "1.2", *lines: str) -> Frame:
        """CONNECT; what is answered."""
        authorization = () if token is None else (f"Authorization:Bearer {token}",)
        await self.send(frame("CONNECT", f"accept-version:{version}", *authorization, *lines))
        return await self.next()

    async def subscribe(self, id: str, destination: str = NOTIFICATIONS, *lines: str) -> list[Frame]:
        """SUBSCRIBE; what comes up to its RECEIPT, without that."""
        await self.send(frame("SUBSCRIBE", f"id:{id}", f"destination:{destination}", f"receipt:sub-{id}", *lines))
        return (await self.until("RECEIPT", receipt_id=f"sub-{id}"))[:-1]

    async def barrier(self, name: str = "barrier") -> list[Frame]:
        """What has come by the time that everything sent before has been looked at."""
        await self.send(frame("UNSUBSCRIBE", "id:nobody", f"receipt:{name}"))
        return (await self.until("RECEIPT", receipt_id=name))[:-1]

    async def refused(self) -> tuple[Frame, int]:
        """The ERROR, which is the next frame and the last one, and the code of the close that follows."""
        error = await self.next()
        assert error.command == "ERROR", error
        assert error.headers["message"], error
        assert error.body.strip(), error
        rest, code = await self.rest()
        assert rest == []
        return error, code

    async def rest(self) -> tuple[list[Frame], int]:
        """What still comes, and the code of the close, which the gateway is waited for to send."""
        frames = []
        try:
            while True:
                frames.append(await self.next())
        except ConnectionClosed:
            code = self.opened.close_code
            assert code is not None
            return frames, code


class Site:
    """A gateway, and who may come in."""

    def __init__(self, gateway: Gateway, secret: str) -> None:
        self.gateway = gateway
        self._secret = secret

    @property
    def port(self) -> int:
        return self.gateway.port

    def token(self, user: str, **claims: Any) -> str:
        """Signed as the gateway wants it. A claim that is None is left out."""
        payload = {"sub": user, "exp": int(time.time()) + 3600, **claims}
        return self.signed({name: value for name, value in payload.items() if value is not None})

    def signed(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._secret, "HS256")

    @asynccontextmanager
    async def open(
        self, path: str = "/ws", *protocols: str, headers: Iterable[tuple[str, str]] = ()
    ) -> AsyncIterator[Wire]:
        url = f"ws://127.0.0.1:{self.port}{path}"
        async with connect(
            url,
            subprotocols=list(protocols) or None,  # type: ignore[arg-type]
            additional_headers=list(headers),
            compression=None,
            ping_interval=None,
            max_queue=None,
            close_timeout=2,
        ) as opened:
            yield Wire(opened)

    @asynccontextmanager
    async def connected(self, user: str, version: str = "1.2", *lines: str, **claims: Any) -> AsyncIterator[Wire]:
        async with self.open() as wire:
            answer = await wire.connect(self.token(user, **claims), version, *lines)
            assert answer.command == "CONNECTED", answer
            yield wire


class Raw:
    """A WebSocket of a client that is not polite: its handshake and its frames are whatever the test writes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int, limit: int = 1 << 16) -> AsyncIterator[Raw]:
        """A TCP connection, on which nothing has been said."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def shake_hands(self, path: str = "/ws", *lines: str) -> tuple[int, list[str]]:
        """Ask for a WebSocket with these header lines besides; the status, and the header lines of the answer."""
        key = base64.b64encode(os.urandom(16)).decode()
        request = [
            f"GET {path} HTTP/1.1",
            "Host: 127.0.0.1",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *lines,
        ]
        self.writer.write("".join(f"{line}\r\n" for line in [*request, ""]).encode("latin-1"))
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *headers = head.removesuffix("\r\n\r\n").split("\r\n")
        return int(status.split(" ")[1]), headers

    def write(self, payload: str | bytes, opcode: int = TEXT, *, fin: bool = True) -> None:
        """One WebSocket frame, masked with zeros."""
        octets = payload.encode() if isinstance(payload, str) else payload
        size = len(octets)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | (126 if size < 65536 else 127)])
        extended = b"" if size < 126 else struct.pack("!H" if size < 65536 else "!Q", size)
        self.writer.write(bytes([(0x80 if fin else 0) | opcode]) + length + extended + b"\0\0\0\0" + octets)

    async def read(self) -> tuple[int, bytes]:
        """The next WebSocket frame: its first octet (FIN, the reserved bits, the opcode) and what it holds."""
        async with asyncio.timeout(PATIENCE):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first, await self.reader.readexactly(size)

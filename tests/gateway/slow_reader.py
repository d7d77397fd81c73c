"""A client that reads no more than it is told to, whatever is sent to it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence

from tests.integration.crowd import Message
from tests.integration.wire import CLOSE, PONG, TEXT, frames, masked, upgrade

NARROW = 4096
"""Octets of the socket's receive buffer: what the kernel takes for a client that does not read."""
WIDE = 1 << 20
"""The same for a client that reads again."""


class SlowReader:
    def __init__(self, user: str, plain: bool, ack: str) -> None:
        """`plain`: it speaks JSON, else STOMP; `ack` is the mode of its subscription."""
        self.user = user
        self.plain = plain
        self.ack = ack
        self.messages: list[Message] = []
        self.numbers: list[int] = []
        """Those at the end of the messages' ids, with STOMP: the gateway counts them as it makes them."""
        self.closed: int | None = None
        """The close code."""
        self.live = False
        """Has it been told that its subscription is live?"""
        self.pong: bytes | None = None
        """The newest answer to a ping of WebSockets."""
        self._buffer = bytearray()
        self._socket = socket.socket()

    async def connect(self, port: int, token: str, heart_beat: str = "0,0") -> None:
        """Until the subscription is live: so far it reads like any other."""
        await self.subscribe(port, token, heart_beat)
        while not self.live:
            await self.read()

    async def subscribe(self, port: int, token: str, heart_beat: str = "0,0") -> None:
        """Until that is asked for, which may be answered by anything."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NARROW)
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", port))
        path = f"/ws?token={token}&ack={self.ack}"
        await self.send(upgrade(path if self.plain else "/stomp", "x", None if self.plain else "v12.stomp"))
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await loop.sock_recv(self._socket, WIDE)
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        assert b" 101 " in head, head
        if not self.plain:
            await self.say(
                f"CONNECT\naccept-version:1.2\nheart-beat:{heart_beat}\nAuthorization:Bearer {token}\n\n\0"
                f"SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nack:{self.ack}\nreceipt:live\n\n\0"
            )

    def close(self) -> None:
        self._socket.close()

    async def say(self, text: str) -> None:
        await self.send(masked(text.encode()))

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def trickle(self) -> None:
        """Read one octet a second, until cancelled."""
        while True:
            await asyncio.sleep(1)
            self._buffer += await asyncio.get_running_loop().sock_recv(self._socket, 1)

    async def beat(self) -> None:
        """Send heart-beats, and read nothing, until cancelled."""
        while True:
            await self.say("\n")
            await asyncio.sleep(5)

    async def hurry(self) -> None:
        """Read as fast as it comes and acknowledge, until cancelled or closed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WIDE)
        while self.closed is None:
            await self.read()

    async def read(self) -> None:
        """Once: what there is."""
        data = await asyncio.get_running_loop().sock_recv(self._socket, WIDE)
        self._buffer += data
        acknowledge = []
        for kind, payload in frames(self._buffer):
            if kind == CLOSE:
                self.closed = int.from_bytes(payload[:2], "big")
            elif kind == PONG:
                self.pong = payload
            elif kind == TEXT and (ack := self._take(payload.decode())):
                acknowledge.append(ack)
        if self.ack != "auto" and acknowledge:
            await self._acknowledge(acknowledge)
        if not data and self.closed is None:
            self.closed = 0

    def _take(self, frame: str) -> str | None:
        """By what a message is to be acknowledged."""
        return self._take_object(json.loads(frame)) if self.plain else self._take_frame(frame)

    def _take_object(self, message: dict[str, object]) -> str | None:
        self.live = self.live or message.get("type") == "LIVE"
        if "event" not in message:
            return None
        id, version = int(str(message["id"])), int(str(message["version"]))
        self.messages.append(Message(id, version, str(message["event"]), message.get("replayed") is True))
        return str(id)

    def _take_frame(self, frame: str) -> str | None:
        command, *lines = frame.partition("\n\n")[0].split("\n")
        headers = dict(line.split(":", 1) for line in lines if line)
        self.live = self.live or headers.get("receipt-id") == "live"
        if command != "MESSAGE":
            return None
        id, version = int(headers["notification-id"]), int(headers["version"])
        self.messages.append(Message(id, version, headers["event"], headers.get("replayed") == "true"))
        self.numbers.append(int(headers["message-id"].rpartition("-")[2]))
        return headers.get("ack")

    async def _acknowledge(self, messages: Sequence[str]) -> None:
        if self.plain:
            await self.send(b"".join(masked(b'{"type":"ack","id":%s}' % id.encode()) for id in messages))
        else:
            await self.say(f"ACK\nid:{messages[-1]}\n\n\0")  # of all up to this one

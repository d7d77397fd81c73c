"""Many connected users in one process, as cheaply as Python allows: it counts frames and collects their ids.

`benchmarks.clients` runs it: each line on standard input is a command, as JSON, and is answered with a line.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import uvloop

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Protocol: v12.stomp\r\n\r\n"
)
CONNECT = "CONNECT\naccept-version:1.2\nhost:-\nAuthorization:Bearer {token}\n\n\0"
SUBSCRIBE = "SUBSCRIBE\nid:{id}\ndestination:{destination}\nack:auto\nreceipt:{id}\n\n\0"
DESTINATIONS = ("/user/queue/notifications", "/user/queue/unread")
ID = b"\nnotification-id:"

LINE = 1 << 26
"""Maximum bytes of a command, which may contain the tokens of thousands."""


def masked(text: str) -> bytes:
    """Encode a client's WebSocket message, masked with zeros."""
    data = text.encode()
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + data


class Count:
    """What all users together have received."""

    def __init__(self, expected: int = 0) -> None:
        self.expected = expected
        self.ids: set[bytes] = set()
        self.frames = self.bytes = self.replayed = self.numbers = 0
        self.first = self.last = 0.0
        self.began = self.used = time.process_time()
        self.whole = asyncio.Event()
        self.trouble: str | None = None
        if not expected:
            self.whole.set()

    def take(self, frame: bytes) -> None:
        """Count a MESSAGE frame."""
        begin = frame.find(ID) + len(ID)
        if begin < len(ID):
            self.numbers += 1  # of unread rows
            return
        self.ids.add(frame[begin : frame.index(b"\n", begin)])
        self.replayed += b"\nreplayed:true\n" in frame
        if not self.frames:
            self.first = time.time()
        self.frames += 1
        self.bytes += len(frame)
        if self.frames == self.expected:
            self.last, self.used = time.time(), time.process_time()
            self.whole.set()

    def fail(self, trouble: str) -> None:
        """End the count with an error."""
        self.trouble = self.trouble or trouble
        self.whole.set()

    async def result(self) -> dict[str, Any]:
        """Wait for the expected frames, and return the counts or {"error": ...}."""
        await self.whole.wait()
        if self.trouble is not None:
            return {"error": self.trouble}
        return {
            "first": self.first,
            "last": self.last,
            "frames": self.frames,
            "distinct": len(self.ids),
            "replayed": self.replayed,
            "numbers": self.numbers,
            "bytes": self.bytes,
            "cpu": self.used - self.began,
        }


class User(asyncio.Protocol):
    """One WebSocket, which parses what servers send without extensions: RFC 6455, section 5.2."""

    def __init__(self, crowd: Crowd, handshake: bytes, token: str | None, subscriptions: int) -> None:
        self._crowd = crowd
        self._handshake = handshake
        self._connect = masked(CONNECT.format(token=token)) if token else None
        self._subscriptions = SUBSCRIPTIONS[:subscriptions]
        self._receipts = 0
        self._buffer = b""
        self._open = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all subscriptions are live; without a token, when the socket is open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(self._handshake)

    def connection_lost(self, error: Exception | None) -> None:
        self._crowd.lost(self, f"the server closed a connection: {error}")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = rest
            if b" 101 " not in head:
                self._crowd.lost(self, head.decode("latin-1"))
                return
            self._open = True
            if self._connect is None:
                self.ready.set_result(None)
            else:
                self.transport.write(self._connect)
        at, buffer = 0, self._buffer
        while (size := len(buffer) - at) >= 2:
            length, begin = buffer[at + 1], at + 2
            if length == 126:
                if size < 4:
                    break
                length, begin = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                if size < 10:
                    break
                length, begin = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if len(buffer) < begin + length:
                break
            self._take(buffer[begin : begin + length])
            at = begin + length
        self._buffer = buffer[at:]

    def _take(self, frame: bytes) -> None:
        if frame.startswith(b"MESSAGE\n"):
            self._crowd.count.take(frame)
        elif frame.startswith(b"CONNECTED\n"):
            for subscription in self._subscriptions:
                self.transport.write(subscription)
        elif frame.startswith(b"RECEIPT\n"):
            self._receipts += 1
            if self._receipts == len(self._subscriptions):
                self.ready.set_result(None)
        elif frame.startswith(b"ERROR\n"):
            self._crowd.lost(self, frame.decode())


SUBSCRIPTIONS = [masked(SUBSCRIBE.format(id=id, destination=each)) for id, each in enumerate(DESTINATIONS, 1)]


class Crowd:
    """All users. Its public methods are the commands."""

    def __init__(self) -> None:
        self.count = Count()
        self._users: set[User] = set()

    async def come(
        self, places: list[tuple[str, str | None]], at_once: int, addresses: int, subscriptions: int
    ) -> dict[str, Any]:
        """Connect to each URL, with its token if it has one, `at_once` at a time; return when the last one is ready.

        Several local addresses are used, since each has no more than some 28,000 ports.
        """
        began, queue = time.time(), iter(enumerate(places))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(self._come_one_by_one(queue, addresses, subscriptions))
        return {"seconds": time.time() - began}

    async def _come_one_by_one(
        self, queue: Iterable[tuple[int, tuple[str, str | None]]], addresses: int, subscriptions: int
    ) -> None:
        loop = asyncio.get_running_loop()
        for number, (url, token) in queue:
            place = urlsplit(url)
            handshake = HANDSHAKE.format(path=place.path, host=place.netloc).encode()
            user = User(self, handshake, token, subscriptions)
            self._users.add(user)
            source = (f"127.0.0.{2 + number % addresses}", 0)
            await loop.create_connection(lambda user=user: user, place.hostname, place.port, local_addr=source)  # type: ignore[misc]
            await user.ready

    async def expect(self, frames: int) -> dict[str, Any]:
        """Restart counting, up to this many frames."""
        self.count = Count(frames)
        return {}

    async def counted(self) -> dict[str, Any]:
        """Wait for the expected frames, and return the counts."""
        return await self.count.result()

    async def leave(self) -> dict[str, Any]:
        """Close all connections; if the server closes them first, that is no error."""
        users, self._users = self._users, set()
        for user in users:
            user.transport.abort()
        return {"left": len(users)}

    def lost(self, user: User, why: str) -> None:
        """Report a connection that the server refused or closed."""
        if user in self._users:
            self._users.remove(user)
            self.count.fail(why)
            if not user.ready.done():
                user.ready.set_exception(RuntimeError(why))


async def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    commands = asyncio.StreamReader(limit=LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    crowd = Crowd()
    while line := await commands.readline():
        command = json.loads(line)
        print(json.dumps(await getattr(crowd, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())

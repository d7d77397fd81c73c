"""Many connected users in one process, at as little cost as Python has: it counts frames and knows which came.

Run by `benchmarks.drain`: settings as JSON on standard input, results as JSON lines on standard output.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit

import uvloop

CONNECT = "CONNECT\naccept-version:1.2\nhost:-\nAuthorization:Bearer {token}\n\n\0"
SUBSCRIBE = "SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nack:auto\nreceipt:r\n\n\0"
ID = b"\nnotification-id:"


class Count:
    """What all users together have got."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.ids: set[bytes] = set()
        self.frames = 0
        self.bytes = 0
        self.subscribed = 0
        self.replayed = 0
        self.first = self.last = 0.0
        self.used = 0.0
        self.whole = asyncio.Event()

    def take(self, frame: bytes) -> None:
        begin = frame.index(ID) + len(ID)
        self.ids.add(frame[begin : frame.index(b"\n", begin)])
        self.replayed += b"\nreplayed:true\n" in frame
        if not self.frames:
            self.first = time.time()
        self.frames += 1
        self.bytes += len(frame)
        if self.frames == self.expected:
            self.last, self.used = time.time(), time.process_time()
            self.whole.set()


class User(asyncio.Protocol):
    """One WebSocket, which understands what servers send without extensions: RFC 6455, section 5.2."""

    def __init__(self, host: str, token: str, count: Count, subscribed: asyncio.Future[None]) -> None:
        self._host, self._token, self._count, self._subscribed = host, token, count, subscribed
        self._buffer = b""
        self._open = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(
            f"GET /ws HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Protocol: v12.stomp\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self._count.whole.is_set():
            print(json.dumps({"error": f"the gateway closed a connection: {error}"}), flush=True)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._open:
            head, end, self._buffer = self._buffer.partition(b"\r\n\r\n")
            if not end:
                self._buffer = head
                return
            assert b" 101 " in head, head
            self._open = True
            self._send(CONNECT.format(token=self._token))
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
            self._count.take(frame)
        elif frame.startswith(b"CONNECTED\n"):
            self._send(SUBSCRIBE)
        elif frame.startswith(b"RECEIPT\n"):
            self._subscribed.set_result(None)

    def _send(self, text: str) -> None:
        data = text.encode()
        length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
        self._transport.write(b"\x81" + length + bytes(4) + data)  # masked with zeros


async def main() -> None:
    settings = json.loads(sys.stdin.readline())
    loop = asyncio.get_running_loop()
    count = Count(settings["expected"])
    for url, token in settings["users"]:
        place = urlsplit(url)
        subscribed = loop.create_future()
        await loop.create_connection(
            lambda host=place.netloc, token=token, done=subscribed: User(host, token, count, done),  # type: ignore[misc]
            place.hostname,
            place.port,
        )
        await subscribed
    before = time.process_time()
    print(json.dumps({"subscribed": len(settings["users"])}), flush=True)
    await count.whole.wait()
    result = {"last": count.last, "first": count.first, "frames": count.frames, "distinct": len(count.ids)}
    print(json.dumps(result | {"replayed": count.replayed, "cpu": count.used - before}), flush=True)
    await asyncio.Event().wait()  # until we are killed: the sessions stay while deliveries are written


if __name__ == "__main__":
    uvloop.run(main())

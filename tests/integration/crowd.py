"""Thousands of STOMP clients in one process, at as little cost as Python has: each keeps what it was sent, and when.

They read WebSocket and STOMP on their own, so that the tests do not check the product's codec against itself.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.integration.wire import CLOSE, TEXT, frames, masked, upgrade

RECONNECT_DELAY = 0.1
"""Seconds, as of `Subscriber`: the shorter it is, the more a gateway that closes all at once sends to the others."""
SPARE_FILES = 256
"""File descriptors besides the clients'."""


class Message(NamedTuple):
    id: int
    version: int
    event: str
    replayed: bool


@dataclass(slots=True)
class Visit:
    """One connection of a client, from the attempt to the end. Times are those of `time.monotonic`."""

    url: str
    attempted: float
    accepted: float | None = None
    """When the handshake was answered with 101."""
    refused: str | None = None
    """The answer to the handshake, if it was another one."""
    subscribed: bool = False
    """Did the RECEIPT of SUBSCRIBE come?"""
    messages: list[Message] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    """The notifications whose ACK the gateway has taken, written or not."""
    error: str | None = None
    """An ERROR frame."""
    closed: int | None = None
    """The close code; None: the connection ended without one, or has not ended."""
    ended: float | None = None


class Client:
    """One user's client: when its connection ends it comes again, to the next URL."""

    def __init__(self, user: str, token: str, ack: str, urls: Sequence[str]) -> None:
        self.user = user
        self.ack = ack
        self.visits: list[Visit] = []
        self.newest: dict[int, int] = {}
        """Tracks id → the newest version that came in any visit."""
        self._urls = urls
        self._connect = f"CONNECT\naccept-version:1.2\nhost:-\nAuthorization:Bearer {token}\n\n\0"
        self._connecting: asyncio.Task[None] | None = None
        self._socket: _Socket | None = None
        self._stopping = False

    @property
    def is_subscribed(self) -> bool:
        return bool(self.visits) and self.visits[-1].subscribed and self.visits[-1].ended is None

    def start(self, delay: float = 0.0) -> None:
        self._connecting = asyncio.get_running_loop().create_task(self._visit(delay))

    async def stop(self) -> None:
        self._stopping = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._socket is not None:
            self._socket.transport.abort()

    async def _visit(self, delay: float) -> None:
        await asyncio.sleep(delay)
        url = self._urls[len(self.visits) % len(self._urls)]
        visit = Visit(url, time.monotonic())
        self.visits.append(visit)
        place = urlsplit(url)
        assert place.hostname is not None
        assert place.port is not None
        try:
            _, self._socket = await asyncio.get_running_loop().create_connection(
                lambda: _Socket(self, visit, place.netloc, place.path), place.hostname, place.port
            )
        except OSError as error:
            visit.refused, visit.ended = str(error), time.monotonic()
            self._come_again()

    def greet(self, socket: _Socket) -> None:
        socket.send(self._connect)

    def take(self, frame: str, visit: Visit, socket: _Socket) -> None:
        """One STOMP frame; all that a gateway sends begins with its command and its headers."""
        command, _, rest = frame.partition("\n")
        if command == "MESSAGE":
            self._take_message(rest, visit, socket)
        elif command == "CONNECTED":
            socket.send(f"SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nack:{self.ack}\nreceipt:1\n\n\0")
        elif command == "RECEIPT":
            receipt = _headers(rest)["receipt-id"]
            if receipt == "1":
                visit.subscribed = True
            else:
                visit.taken.add(int(receipt.removeprefix("taken-")))
        elif command == "ERROR":
            visit.error = frame

    def gone(self, visit: Visit) -> None:
        visit.ended = time.monotonic()
        self._socket = None
        self._come_again()

    def _take_message(self, rest: str, visit: Visit, socket: _Socket) -> None:
        headers = _headers(rest)
        id, version = int(headers["notification-id"]), int(headers["version"])
        visit.messages.append(Message(id, version, headers["event"], headers.get("replayed") == "true"))
        self.newest[id] = max(version, self.newest.get(id, 0))
        if self.ack != "auto":
            # A receipt of the ACK itself comes when it is written; that of the BEGIN behind it, when it is taken.
            socket.send(
                f"ACK\nid:{headers['ack']}\n\n\0"
                f"BEGIN\ntransaction:t\nreceipt:taken-{id}\n\n\0ABORT\ntransaction:t\n\n\0"
            )

    def _come_again(self) -> None:
        if not self._stopping:
            self.start(RECONNECT_DELAY)


class _Socket(asyncio.Protocol):
    """One WebSocket."""

    transport: asyncio.Transport

    def __init__(self, client: Client, visit: Visit, host: str, path: str) -> None:
        self._client = client
        self._visit = visit
        self._request = upgrade(path, host, "v12.stomp")
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.gone(self._visit)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._visit.accepted is None and not self._is_accepted():
            return
        for kind, payload in frames(self._buffer):
            self._take(kind, payload)

    def send(self, text: str) -> None:
        self.transport.write(masked(text.encode()))

    def _is_accepted(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        if b" 101 " not in head:
            self._visit.refused = head.partition(b"\r\n")[0].decode()
            self.transport.close()
            return False
        self._visit.accepted = time.monotonic()
        self._buffer = rest
        self._client.greet(self)
        return True

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == CLOSE:
            self._visit.closed = int.from_bytes(payload[:2], "big")
            self.transport.write(masked(payload[:2], CLOSE))  # the server ends TCP
        else:
            assert kind == TEXT, kind
            self._client.take(payload.decode(), self._visit, self)


@asynccontextmanager
async def crowd(
    tokens: Mapping[str, str], urls: Sequence[str], rate: int, ack: Callable[[int], str] = lambda number: "auto"
) -> AsyncIterator[list[Client]]:
    """One client for each user → token: `rate` a second come to the first URL. All are subscribed when it begins."""
    _make_room(len(tokens) + SPARE_FILES)
    clients = [Client(user, token, ack(number), urls) for number, (user, token) in enumerate(tokens.items())]
    try:
        begun = time.monotonic()
        for number, client in enumerate(clients):
            client.start()
            await asyncio.sleep(max(0.0, begun + (number + 1) / rate - time.monotonic()))
        await until_subscribed(clients)
        yield clients
    finally:
        for client in clients:
            await client.stop()


async def until_subscribed(clients: Sequence[Client], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while away := [client for client in clients if not client.is_subscribed]:
        assert time.monotonic() < deadline, f"{len(away)} are not subscribed within {within} s: {away[0].visits[-2:]}"
        await asyncio.sleep(0.05)


def busiest(times: Sequence[float], seconds: float = 1.0) -> int:
    """The most of these times that lie within so many seconds, wherever they begin."""
    ordered, first, most = sorted(times), 0, 0
    for last, end in enumerate(ordered):
        while ordered[first] <= end - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def _headers(text: str) -> dict[str, str]:
    """No value here holds anything that STOMP escapes."""
    head, _, _ = text.partition("\n\n")
    return dict(line.split(":", 1) for line in head.split("\n"))


def _make_room(files: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or files <= hard, f"{files} file descriptors are needed, {hard} allowed"
    if soft != resource.RLIM_INFINITY and soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))

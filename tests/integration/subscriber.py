"""A client that keeps every frame it is sent, by subscription, and reconnects as the stock clients do.

It parses STOMP on its own, so that the tests do not check the product's codec against itself.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

RECONNECT_DELAY = 0.1
UNREAD = "/user/queue/unread"
READ = "/app/notifications/read"


@dataclass(frozen=True)
class Frame:
    command: str
    headers: dict[str, str]
    body: str

    @classmethod
    def parse(cls, text: str) -> Frame:
        head, _, body = text.removesuffix("\0").partition("\n\n")
        command, *lines = head.split("\n")
        return cls(command, dict(line.split(":", 1) for line in lines), body)


@dataclass
class Subscription:
    """One subscription's MESSAGE frames, in order."""

    messages: list[Frame] = field(default_factory=list)
    receipt: bool = False
    """Did a RECEIPT come? The first is that of SUBSCRIBE."""
    receipts: list[str] = field(default_factory=list)
    unread: list[dict[str, Any]] = field(default_factory=list)
    """What `/user/queue/unread` told, in order."""
    closed: int | None = None
    """The close code, once the connection is gone."""

    def ids(self, event: str | None = None) -> list[int]:
        return [int(m.headers["notification-id"]) for m in self.messages if event in (None, m.headers["event"])]

    def versions(self) -> list[tuple[int, int]]:
        """(id, version) of each frame that shows a row."""
        return [
            (int(m.headers["notification-id"]), int(m.headers["version"]))
            for m in self.messages
            if m.headers["event"] != "deleted"
        ]


class Subscriber:
    """`async with Subscriber(url, token) as alice:` connects, subscribes, and waits for the receipt."""

    def __init__(self, url: str, token: str, ack: str = "auto", reconnect: bool = True, badge: bool = False) -> None:
        self.urls = [url]
        """Where to connect: each reconnect takes the next."""
        self.token = token
        self.ack = ack
        self.badge = badge
        """Is the number of unread rows subscribed to as well?"""
        self.acknowledge = True
        self.reconnect = reconnect
        self.subscriptions: list[Subscription] = []
        self.errors: list[Frame] = []
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._happened = asyncio.Event()
        self._attempts = 0

    async def __aenter__(self) -> Subscriber:
        self.start()
        await self.until(lambda: self.subscriptions and self.subscriptions[-1].receipt, "the receipt of SUBSCRIBE")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self.reconnect = False
        if self._socket is not None:
            await self._socket.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def messages(self) -> list[Frame]:
        """Of all subscriptions."""
        return [message for subscription in self.subscriptions for message in subscription.messages]

    @property
    def seen(self) -> set[int]:
        return {int(message.headers["notification-id"]) for message in self.messages}

    async def until(self, condition: Callable[[], Any], what: str, within: float = 20.0) -> None:
        """Wait until the condition holds; it is looked at whenever a frame came, or a moment passed."""
        deadline = asyncio.get_running_loop().time() + within
        while not condition():
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                last = [(s.ids(), s.receipt, s.closed) for s in self.subscriptions][-3:]
                raise AssertionError(f"{what}: not within {within} s. Subscriptions: {str(last)[:2000]} {self.errors}")
            self._happened.clear()
            try:
                async with asyncio.timeout(min(remaining, 0.1)):
                    await self._happened.wait()
            except TimeoutError:
                continue

    async def send_text(self, text: str) -> None:
        """One WebSocket message as it is."""
        assert self._socket is not None
        await self._socket.send(text)

    async def send(self, command: str, body: str = "", **headers: str) -> None:
        assert self._socket is not None
        lines = "".join(f"{name.replace('_', '-')}:{value}\n" for name, value in headers.items())
        await self._socket.send(f"{command}\n{lines}\n{body}\0")

    async def read(self, *ids: int) -> None:
        """Mark these as read, or all, and wait for the receipt."""
        receipt = f"read-{uuid.uuid4().hex}"
        body = json.dumps({"ids": ids} if ids else {"all": True})
        subscription = self.subscriptions[-1]
        await self.send("SEND", body, destination=READ, receipt=receipt)
        await self.until(lambda: receipt in subscription.receipts, "the receipt of SEND")

    async def until_unread(self, count: int, within: float = 20.0) -> None:
        """Until the badge says so."""
        told = self.subscriptions[-1].unread
        await self.until(lambda: told and told[-1] == {"unread": count}, f"unread {count}", within)

    async def _run(self) -> None:
        while True:
            url = self.urls[self._attempts % len(self.urls)]
            self._attempts += 1
            try:
                async with connect(url, subprotocols=["v12.stomp"], open_timeout=5, max_queue=None) as socket:  # type: ignore[list-item]
                    await self._serve(socket)
            except (OSError, InvalidHandshake, TimeoutError):
                pass
            if not self.reconnect:
                return
            await asyncio.sleep(RECONNECT_DELAY)

    async def _serve(self, socket: ClientConnection) -> None:
        self._socket = socket
        subscription = Subscription()
        try:
            await self.send("CONNECT", accept_version="1.2", host="-", Authorization=f"Bearer {self.token}")
            async for text in socket:
                assert isinstance(text, str), "STOMP frames are text messages"
                if text != "\n":
                    await self._take(Frame.parse(text), subscription)
                self._happened.set()
        except ConnectionClosed:
            pass
        finally:
            subscription.closed = socket.close_code
            self._happened.set()

    async def _take(self, frame: Frame, subscription: Subscription) -> None:
        if frame.command == "CONNECTED":
            self.subscriptions.append(subscription)
            if self.badge:
                await self.send("SUBSCRIBE", id="u1", destination=UNREAD, ack=self.ack)
            await self.send(
                "SUBSCRIBE", id="s1", destination="/user/queue/notifications", ack=self.ack, receipt="subscribed"
            )
        elif frame.command == "RECEIPT":
            subscription.receipt = True
            subscription.receipts.append(frame.headers["receipt-id"])
        elif frame.command == "ERROR":
            self.errors.append(frame)
        else:
            assert frame.command == "MESSAGE", frame
            body = json.loads(frame.body)
            if frame.headers["destination"] == UNREAD:
                subscription.unread.append(body)
            else:
                subscription.messages.append(frame)
            if self.ack != "auto" and self.acknowledge:
                await self.send("ACK", id=frame.headers["ack"])


class HasSubscriptions(Protocol):
    subscriptions: list[Subscription]


def assert_nothing_twice(subscriber: HasSubscriptions) -> None:
    """No version twice within a subscription, none older after a newer, and what comes again is marked."""
    before: set[tuple[int, int]] = set()
    for subscription in subscriber.subscriptions:
        newest: dict[int, int] = {}
        for message in subscription.messages:
            id = int(message.headers["notification-id"])
            version = int(message.headers.get("version", 2**63))
            assert version > newest.get(id, 0), f"notification {id} v{version} after v{newest[id]} in one subscription"
            newest[id] = version
            if (id, version) in before:
                assert message.headers.get("replayed") == "true", f"{id} v{version} came again unmarked"
        before |= set(newest.items())

"""The stock clients, each driven through the same commands and telling the same events, and where each falls short."""

from __future__ import annotations

import asyncio
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser

from tests.integration.subscriber import Frame, Subscription

HERE = Path(__file__).parent
STOMPJS = HERE / "node_modules" / "@stomp" / "stompjs" / "bundles" / "stomp.umd.min.js"

NOTIFICATIONS = "/user/queue/notifications"
UNREAD = "/user/queue/unread"
READ = "/app/notifications/read"

PATIENCE = 20.0
"""Seconds until what must come is missing."""


@dataclass(frozen=True)
class Kind:
    name: str
    driver: tuple[str, ...] = ()
    """The command that runs it; none for the one in Chromium."""
    version: str = "1.2"
    hears_that_a_handshake_failed: bool = True
    waits_for_the_receipt_of_disconnect: bool = True
    waits_for_the_close: bool = True
    """If not, it hangs up as soon as it has that receipt."""

    def __str__(self) -> str:
        return self.name


def node(name: str, client: str, **differences: Any) -> Kind:
    return Kind(name, ("node", str(HERE / "drive.mjs"), client), **differences)


CLOSES_AT_ONCE = {"waits_for_the_receipt_of_disconnect": False}
"""Its `disconnect` closes the socket in the same breath, before a RECEIPT can come."""

STOMP_PY = (sys.executable, str(HERE / "drive_stomp_py.py"))

KINDS = [
    node("stompjs-7", "stompjs-7"),
    node("stompjs-6", "stompjs-6"),
    node("stompjs-5", "stompjs-5"),
    node("rx-stomp", "rx-stomp"),
    node("stompjs-2.3.3", "stomp-websocket", version="1.1", **CLOSES_AT_ONCE),
    # Its `overWS` has no listener for a connection that is not made, and so calls nobody back.
    node(
        "stompjs-2.3.3-overWS",
        "stomp-websocket-overWS",
        version="1.1",
        hears_that_a_handshake_failed=False,
        **CLOSES_AT_ONCE,
    ),
    node("webstomp-client", "webstomp", **CLOSES_AT_ONCE),
    Kind("stomp.py-9", (*STOMP_PY, "9"), waits_for_the_close=False),
    Kind("stomp.py-8", ("env", f"PYTHONPATH={sys.prefix}/stomp-py-8", *STOMP_PY, "8"), waits_for_the_close=False),
    Kind("stompjs-7-in-Chromium"),
]
RECONNECT = [kind for kind in KINDS if kind.hears_that_a_handshake_failed]
"""Those that can come back to a gateway that was away for a while."""


@dataclass
class Settings:
    """What to connect to, and how."""

    url: str
    token: str | None = None
    """For CONNECT; None if the URL has it."""
    subscriptions: dict[str, str] = field(default_factory=lambda: {NOTIFICATIONS: "auto", UNREAD: "auto"})
    """Destination → acknowledgement."""
    beat: int = 1000
    """Milliseconds, in both directions."""

    def line(self) -> dict[str, Any]:
        return {
            "do": "connect",
            "url": self.url,
            "headers": {} if self.token is None else {"Authorization": f"Bearer {self.token}"},
            "subscriptions": [{"destination": name, "ack": ack} for name, ack in self.subscriptions.items()],
            "beat": self.beat,
        }


class Client(ABC):
    """What a client has told, by subscription to the notifications: each connection makes one."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.connected: list[dict[str, str]] = []
        """The headers of each CONNECTED."""
        self.subscriptions: list[Subscription] = []
        self.errors: list[Frame] = []
        self.closed = 0
        """How often it has told that it lost a connection, or that there was none to be had."""
        self._happened = asyncio.Event()

    @property
    def now(self) -> Subscription:
        """That of the present connection, or else of the last one; empty before there is any."""
        return self.subscriptions[-1] if self.subscriptions else Subscription()

    @property
    def messages(self) -> list[Frame]:
        return [message for subscription in self.subscriptions for message in subscription.messages]

    @property
    def replayed(self) -> bool:
        """Has the replay of this connection's unread rows come, and all of it?"""
        return NOTIFICATIONS in self.now.receipts

    async def until(self, what: str, condition: Callable[[], Any], within: float = PATIENCE) -> None:
        deadline = asyncio.get_running_loop().time() + within
        while not condition():
            told = (self.connected, self.subscriptions[-2:], self.errors[-2:], self.closed)
            assert asyncio.get_running_loop().time() < deadline, f"{self.kind}: {what}: not in {within} s. Told: {told}"
            self._happened.clear()
            try:
                async with asyncio.timeout(0.1):
                    await self._happened.wait()
            except TimeoutError:
                continue

    async def message(self, id: int, event: str) -> Frame:
        """The first about this notification and of this event in the present subscription."""

        def found() -> list[Frame]:
            return [
                message
                for message in self.now.messages
                if (message.headers["notification-id"], message.headers["event"]) == (str(id), event)
            ]

        await self.until(f"{event} {id}", found)
        return found()[0]

    async def receipt(self, id: str) -> None:
        await self.until(f"the receipt {id}", lambda: id in self.now.receipts)

    async def unread(self, count: int) -> None:
        """The badge says so."""
        await self.until(f"unread {count}", lambda: self.now.unread[-1:] == [{"unread": count}])

    def hear(self, event: dict[str, Any]) -> None:
        match event["what"]:
            case "connected":
                self.connected.append(event["headers"])
                self.subscriptions.append(Subscription())
            case "message" if event["headers"]["destination"] == UNREAD:
                self.now.unread.append(json.loads(event["body"]))
            case "message":
                self.now.messages.append(Frame("MESSAGE", event["headers"], event["body"]))
            case "receipt":
                self.now.receipts.append(event["id"])
            case "error":
                self.errors.append(Frame("ERROR", event["headers"], event["body"]))
            case "closed":
                self.closed += 1
        self._happened.set()

    # What it is told to do.

    async def acknowledge(self, message: Frame) -> None:
        await self.do({"do": "ack", "message": message.headers["message-id"]})

    async def refuse(self, message: Frame) -> None:
        await self.do({"do": "nack", "message": message.headers["message-id"]})

    async def read(self, *ids: int) -> None:
        """Mark these as read, and wait for the receipt."""
        await self.do({"do": "send", "destination": READ, "body": json.dumps({"ids": ids}), "id": "read"})
        await self.receipt("read")

    async def disconnect(self) -> None:
        await self.do({"do": "disconnect"})

    @abstractmethod
    async def start(self, settings: Settings) -> None: ...

    @abstractmethod
    async def do(self, command: dict[str, Any]) -> None: ...

    @abstractmethod
    async def end(self) -> None: ...


class Process(Client):
    """One with a process of its own."""

    async def start(self, settings: Settings) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self.kind.driver,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._listening = asyncio.create_task(self._listen())
        await self.do(settings.line())

    async def do(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                complaints = await self._listening
                assert await self._process.wait() == 0, f"{self.kind}: {complaints}"
        except TimeoutError:
            self._process.kill()
            raise

    async def until(self, what: str, condition: Callable[[], Any], within: float = PATIENCE) -> None:
        """As above; a process that has ended is not waited for."""
        await super().until(what, lambda: condition() or self._listening.done(), within)
        assert condition(), f"{self.kind}: {what}: it has ended. {await self._listening}"

    async def _listen(self) -> str:
        """To the end; the result is what it wrote to stderr."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        complaints = asyncio.create_task(self._process.stderr.read())
        async for line in self._process.stdout:
            self.hear(json.loads(line))
        return (await complaints).decode()


class InChromium(Client):
    """One in a page, which comes from where the socket leads to: a gateway refuses pages of other origins."""

    DRIVER = """
        const tell = (what, more) => told({ what, ...more });
        const client = stompjs(StompJs.Client, { discardWebsocketOnCommFailure: true });
        let driven;
        window.perform = (command) => {
          if (command.do === 'connect') driven = client(command, tell);
          else driven[command.do](command);
        };"""

    def __init__(self, kind: Kind, browser: Browser) -> None:
        super().__init__(kind)
        self._browser = browser

    async def start(self, settings: Settings) -> None:
        self._page = await self._browser.new_page()
        await self._page.expose_function("told", self.hear)
        await self._page.goto(urlsplit(settings.url)._replace(scheme="http", path="/live", query="").geturl())
        await self._page.add_script_tag(path=STOMPJS)
        await self._page.add_script_tag(type="module", content=(HERE / "stompjs.mjs").read_text() + self.DRIVER)
        await self._page.wait_for_function("() => window.perform !== undefined")
        await self.do(settings.line())

    async def do(self, command: dict[str, Any]) -> None:
        await self._page.evaluate("(command) => void perform(command)", command)

    async def end(self) -> None:
        await self._page.close()


Start = Callable[[Kind, Settings], Awaitable[Client]]


@asynccontextmanager
async def starting(chromium: Browser | None = None) -> AsyncIterator[Start]:
    """Starts clients, which end with the block. Only the one in Chromium needs that."""
    clients: list[Client] = []

    async def start(kind: Kind, settings: Settings) -> Client:
        client = InChromium(kind, chromium) if chromium and not kind.driver else Process(kind)
        await client.start(settings)
        clients.append(client)
        return client

    try:
        yield start
    finally:
        await asyncio.gather(*(client.end() for client in clients))

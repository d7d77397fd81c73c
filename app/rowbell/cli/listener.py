"""What `rowbell listen` does with its connection: keeps it up, shows each state of a row once, acknowledges."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from rowbell.backoff import backoff
from rowbell.config import hide_password
from rowbell.errors import RowbellError
from rowbell.stomp.client import HEART_BEAT, AckMode, Client, ClientEvent, Connected, Error, Message, Receipt
from rowbell.stomp.errors import ProtocolError

Row = dict[str, Any]
"""A notification as clients see it: `event`, `id`, `version` and so on."""
Show = Callable[[str, Row, bool], None]
"""Prints a row, given as its JSON text and as an object, and whether it is replayed; returns when it is out."""

DESTINATION = "/user/queue/notifications"
SUBSCRIPTION = "notifications"
SUBPROTOCOL = Subprotocol("v12.stomp")

TOO_MANY = 429
"""The status, of those about the client, that does not last."""

ANSWER_TIMEOUT = 15.0
"""Seconds for the gateway to accept the connection, and for it to answer CONNECT."""
BEAT = (10_000, 10_000)
"""Milliseconds: how often we can send a heart-beat, and how often we want to hear one."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0
"""Seconds between attempts to connect."""


class Known:
    """Which version of each row has been shown: a row that comes again, after a reconnect say, is shown once."""

    def __init__(self) -> None:
        self._versions: dict[int, float] = {}

    def is_newer(self, row: Row) -> bool:
        """Is this state of the row newer than the one shown? From now on it counts as shown."""
        version = float("inf") if row["event"] == "deleted" else row["version"]
        if version <= self._versions.get(row["id"], 0):
            return False
        self._versions[row["id"]] = version
        return True


class Listener:
    """One subscription, kept up over any number of connections.

    `token` gives the token for the next connection. `show` is acknowledged when it returns.
    """

    def __init__(
        self, url: str, token: Callable[[], str], ack: AckMode, show: Show, beat: tuple[int, int] = BEAT
    ) -> None:
        self._url = url
        self._token = token
        self._ack = ack
        self._show = show
        self._beat = beat
        self._known = Known()
        self._connected = False
        """Tracks whether the gateway has let us in, on the present connection."""

    async def run(self) -> None:
        """Connect, and connect again, for ever."""
        delays = backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            reason = await self._connect()
            if self._connected:
                delays = backoff(FIRST_DELAY, LONGEST_DELAY)
            delay = next(delays)
            _say(f"{reason}; connecting again in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _connect(self) -> str:
        """One connection, to its end; the result is why it ended."""
        self._connected = False
        token = self._token()
        try:
            socket = await connect(
                self._url,
                subprotocols=[SUBPROTOCOL],
                open_timeout=ANSWER_TIMEOUT,
                ping_interval=None,  # STOMP's heart-beats find a dead connection
                max_size=None,  # the STOMP client has its own limit
            )
        except InvalidURI:
            raise RowbellError(f"{hide_password(self._url)} is not the URL of a WebSocket: ws://host:port/ws") from None
        except InvalidStatus as refusal:
            return _refused(refusal.response.status_code, bytes(refusal.response.body or b""))
        except (OSError, TimeoutError, InvalidHandshake) as error:
            return f"no connection to {hide_password(self._url)} ({str(error) or 'no answer'})"
        try:
            return await self._converse(socket, token)
        finally:
            # `async with` would close with 1011, an internal error, when Ctrl-C ends us.
            await socket.close()

    async def _converse(self, socket: ClientConnection, token: str) -> str:
        client = Client(versions=("1.2",), beat=self._beat)
        beats: asyncio.Task[None] | None = None
        try:
            await socket.send(client.connect({"Authorization": f"Bearer {token}"}))
            while True:
                async with asyncio.timeout(client.receive_timeout if self._connected else ANSWER_TIMEOUT):
                    client.receive_data(await socket.recv())
                while event := client.next_event():
                    for answer in self._take(client, event):
                        await socket.send(answer)
                if beats is None and client.send_interval is not None:
                    beats = asyncio.create_task(_beat(socket, client.send_interval), name="heart-beats")
        except TimeoutError:
            return "the gateway is silent"
        except ProtocolError as error:
            return f"the gateway breaks the protocol ({error.message})"
        except ConnectionClosed:
            return f"connection closed ({socket.close_code})"
        finally:
            if beats is not None:
                beats.cancel()

    def _take(self, client: Client, event: ClientEvent) -> list[str]:
        """Act on what the gateway said; the result is what to answer."""
        match event:
            case Connected():
                self._connected = True
                _say(f"connected to {hide_password(self._url)} as {event.headers.get('user-name', 'somebody')}")
                return [client.subscribe(DESTINATION, id=SUBSCRIPTION, ack=self._ack, receipt=SUBSCRIPTION)]
            case Receipt():
                _say("live: what was unread has been sent")
            case Message():
                self._print(event)
                return [client.ack(event)] if event.ack else []
            case Error():
                reason = event.body.decode(errors="backslashreplace").strip() or event.message
                if not self._connected:
                    raise RowbellError(f"the gateway refuses the connection: {reason}")
                _say(f"the gateway ends the connection: {reason}")
        return []

    def _print(self, message: Message) -> None:
        row = msgspec.json.decode(message.body, type=Row)
        if self._known.is_newer(row):
            self._show(message.body.decode(), row, message.headers.get("replayed") == "true")


def _say(state: str) -> None:
    print(f"rowbell: {state}", file=sys.stderr, flush=True)


async def _beat(socket: ClientConnection, interval: float) -> None:
    """Say that we live; whoever reads from the socket hears that it is closed."""
    try:
        while True:
            await asyncio.sleep(interval)
            await socket.send(HEART_BEAT)
    except ConnectionClosed:
        return


def _refused(status: int, body: bytes) -> str:
    """Why the handshake failed, if trying again can help; RowbellError if it cannot."""
    reason = f"the gateway answers {status}: {body.decode(errors='backslashreplace').strip()}"
    if 400 <= status < 500 and status != TOO_MANY:
        raise RowbellError(reason)
    return reason

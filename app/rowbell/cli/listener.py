"""The connection of `rowbell listen`: keeps it up, shows each version of a row once, and acknowledges it."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.typing import Subprotocol

from rowbell.backoff import backoff
from rowbell.cli.exits import say
from rowbell.config import hide_password
from rowbell.errors import RowbellError
from rowbell.stomp.client import HEART_BEAT, AckMode, Client, ClientEvent, Connected, Error, Message, Receipt
from rowbell.stomp.errors import ProtocolError

Row = dict[str, Any]
"""A notification as clients see it: `event`, `id`, `version` and so on."""
Show = Callable[[str, Row, bool], None]
"""Prints a row, given as its JSON text, as an object, and whether it is replayed; returns once it is written."""

NOTIFICATIONS = "/user/queue/notifications"
SUBSCRIPTION = "listen"
SUBPROTOCOL = Subprotocol("v12.stomp")

TOO_MANY = 429
"""The one client error status that is temporary."""

ANSWER_TIMEOUT = 15.0
"""Seconds in which the gateway must accept the connection, and in which it must answer CONNECT."""
UNKNOWN_ISSUER = {18, 19, 20, 21}
"""OpenSSL's errors (X509_V_ERR_...) for a self-signed certificate or an unknown issuer."""

BEAT = (10_000, 10_000)
"""Milliseconds: how often we can send a heart-beat, and how often we want to receive one."""
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0
"""Seconds between connection attempts."""


class Known:
    """Tracks which version of each row has been shown, so that one that is sent again, say after a reconnect, is shown
    once.
    """

    def __init__(self) -> None:
        self._versions: dict[int, float] = {}

    def is_newer(self, row: Row) -> bool:
        """Return whether this version of the row is newer than the one shown, and record it as shown."""
        version = float("inf") if row["event"] == "deleted" else row["version"]
        if version <= self._versions.get(row["id"], 0):
            return False
        self._versions[row["id"]] = version
        return True


class Listener:
    """One subscription, maintained over any number of connections.

    `token` returns a token of `user` for the next connection. A row is acknowledged when `show` returns.
    """

    def __init__(
        self,
        url: str,
        user: str,
        token: Callable[[], str],
        ack: AckMode,
        show: Show,
        destination: str = NOTIFICATIONS,
        beat: tuple[int, int] = BEAT,
    ) -> None:
        self._url = url
        self._shown_url = hide_password(url)
        self._user = user
        self._token = token
        self._ack = ack
        self._show = show
        self._destination = destination
        self._beat = beat
        self._known = Known()
        self._connected = False
        """Tracks whether the gateway has accepted the present connection."""
        self._live = False
        """Tracks whether the gateway has accepted the subscription on the present connection."""
        self._retry_after = 0.0
        """Tracks the seconds that the gateway told us to wait before reconnecting."""

    async def run(self) -> None:
        """Connect and reconnect, until cancelled. Raises RowbellError if retrying cannot help."""
        delays = backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            reason = await self._connect()
            if self._connected:
                delays = backoff(FIRST_DELAY, LONGEST_DELAY)
            delay = max(next(delays), self._retry_after)
            say(f"{reason.rstrip('.')}; reconnecting in {delay:.1f} s")
            await asyncio.sleep(delay)

    async def _connect(self) -> str:
        """Run one connection to its end, and return why it ended."""
        self._connected = self._live = False
        self._retry_after = 0.0
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
            raise RowbellError(f"{self._shown_url} is not a WebSocket URL such as ws://host:port/ws") from None
        except InvalidStatus as refusal:
            return self._refused(refusal.response)
        except ssl.SSLCertVerificationError as error:
            hint = ". To trust its issuer: SSL_CERT_FILE=ca.pem" if error.verify_code in UNKNOWN_ISSUER else ""
            problem = f"the certificate of {self._shown_url} cannot be trusted: {error.verify_message}{hint}"
            raise RowbellError(problem) from None
        except (OSError, TimeoutError, InvalidHandshake) as error:
            reason = str(error) or "no answer"
            if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
                raise RowbellError(
                    f"{self._shown_url} does not use TLS ({reason}): use ws:// instead of wss://"
                ) from None
            if isinstance(error, InvalidMessage) and self._url.startswith("ws://"):
                reason += "; if it uses TLS, the URL begins with wss://"
            return f"no connection to {self._shown_url} ({reason})"
        try:
            return await self._converse(socket, token)
        finally:
            # `async with` would close with 1011, an internal error, on Ctrl-C.
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
            return f"the gateway violates the protocol ({error.message})"
        except ConnectionClosed:
            return f"connection closed ({socket.close_code})"
        finally:
            if beats is not None:
                beats.cancel()

    def _take(self, client: Client, event: ClientEvent) -> list[str]:
        """Act on an event of the gateway, and return the messages to answer with."""
        match event:
            case Connected():
                self._connected = True
                user = event.headers.get("user-name", self._user)
                if user != self._user:
                    raise RowbellError(f"the token names {user}, not {self._user}: rowbell listen {user} --token TOKEN")
                say(f"connected to {self._shown_url} as {user}")
                return [client.subscribe(self._destination, id=SUBSCRIPTION, ack=self._ack, receipt=SUBSCRIPTION)]
            case Receipt():
                self._live = True
                say("live" if self._destination != NOTIFICATIONS else "live: all unread notifications have been sent")
            case Message():
                self._print(event)
                return [client.ack(event)] if event.ack else []
            case Error():
                reason = _reason(event)
                if not self._live:
                    refused = "subscription" if self._connected else "connection"
                    raise RowbellError(f"the gateway refuses the {refused}: {reason}")
                say(f"the gateway ends the connection: {reason}")
        return []

    def _print(self, message: Message) -> None:
        row = msgspec.json.decode(message.body, type=Row)
        if self._known.is_newer(row):
            self._show(message.body.decode(), row, message.headers.get("replayed") == "true")

    def _refused(self, answer: Response) -> str:
        """Return why the handshake failed. Raises RowbellError if retrying cannot help."""
        status = answer.status_code
        reason = f"the gateway answers {status}: {bytes(answer.body or b'').decode(errors='backslashreplace').strip()}"
        if 400 <= status < 500 and status != TOO_MANY:
            raise RowbellError(reason)
        if re.fullmatch("[0-9]{1,6}", seconds := answer.headers.get("Retry-After", "")):
            self._retry_after = float(seconds)
        return reason


def _reason(error: Error) -> str:
    """Return the error's body, which repeats the message, and in front of it the message if it does not."""
    body = error.body.decode(errors="backslashreplace").strip()
    message, words = re.findall(r"\w+", error.message), re.findall(r"\w+", body)
    if words[: len(message)] == message:
        return body or error.message
    return f"{error.message}. {body}" if body else error.message


async def _beat(socket: ClientConnection, interval: float) -> None:
    """Send heart-beats until the connection closes, which the reader reports."""
    try:
        while True:
            await asyncio.sleep(interval)
            await socket.send(HEART_BEAT)
    except ConnectionClosed:
        return

"""One STOMP connection, seen from the client, without I/O.

Pass in what the socket receives (`receive_data`), take events out (`next_event`), and send what the other methods
return, each as one WebSocket text message. It works with any STOMP server. If the server breaks the protocol,
`next_event` raises ProtocolError; if it refuses something, it sends ERROR, which is an event, and the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rowbell.stomp.errors import LocalProtocolError, ProtocolError
from rowbell.stomp.events import AckMode, ClientEvent, Connected, Error, Message, Receipt
from rowbell.stomp.frames import Frame, Parser, encode
from rowbell.stomp.headers import VERSIONS
from rowbell.stomp.limits import Limits
from rowbell.stomp.negotiation import HEART_BEAT, agree_on_beats, parse_beats

__all__ = ["HEART_BEAT", "AckMode", "Client", "ClientEvent", "Connected", "Error", "Message", "Receipt"]

LIMITS = Limits(frame=16 * 1024 * 1024, body=16 * 1024 * 1024)
"""Limits of frames from the server: a guard against a runaway server, not against large notifications."""

Headers = Mapping[str, str]

_NONE: Headers = {}


class Client:
    """The client's side of one connection.

    `versions` are those to accept. `beat` is how often we can send heart-beats and how often we want to receive them,
    in milliseconds; 0 is never. Methods that return a frame raise LocalProtocolError if it cannot be written.
    """

    def __init__(self, *, versions: Iterable[str] = VERSIONS, beat: tuple[int, int] = (10_000, 10_000)) -> None:
        self.version = "1.0"
        """The agreed version, from the event Connected on."""
        self.send_interval: float | None = None
        """Write HEART_BEAT after this many seconds without sending anything; None: never."""
        self.receive_timeout: float | None = None
        """The server is gone after this many seconds without receiving anything; None: it promised no beats."""

        self._versions = tuple(versions)
        self._beat = beat
        self._parser = Parser(LIMITS)

    # ---- Sending ----

    def connect(self, headers: Headers = _NONE) -> str:
        """Return the first frame, with `headers` besides the protocol's own: `{"Authorization": "Bearer ..."}`."""
        can_send, want = self._beat
        own = {
            "accept-version": ",".join(self._versions),
            # Required by 1.1 and 1.2, for virtual hosts; the WebSocket handshake has already named the host.
            "host": "/",
            "heart-beat": f"{can_send},{want}",
        }
        return encode("CONNECT", {**own, **headers}.items())

    def subscribe(
        self, destination: str, *, id: str, ack: AckMode = "auto", headers: Headers = _NONE, receipt: str | None = None
    ) -> str:
        """Subscribe. Messages may arrive at once; the receipt confirms that none is missed from then on."""
        own = {"id": id, "destination": destination, "ack": ack}
        return self._frame("SUBSCRIBE", {**own, **headers}, receipt)

    def unsubscribe(self, id: str, *, receipt: str | None = None) -> str:
        return self._frame("UNSUBSCRIBE", {"id": id}, receipt)

    def ack(self, message: Message, *, transaction: str | None = None, receipt: str | None = None) -> str:
        """Acknowledge a message; in mode `client`, together with all earlier messages of the subscription.

        LocalProtocolError if the message does not need it.
        """
        return self._frame("ACK", _within(transaction, self._reference(message)), receipt)

    def nack(self, message: Message, *, transaction: str | None = None, receipt: str | None = None) -> str:
        """Refuse a message, which was not consumed. Otherwise as `ack`."""
        return self._frame("NACK", _within(transaction, self._reference(message)), receipt)

    def send(
        self,
        destination: str,
        body: str = "",
        *,
        headers: Headers = _NONE,
        transaction: str | None = None,
        receipt: str | None = None,
    ) -> str:
        return self._frame("SEND", _within(transaction, {"destination": destination, **headers}), receipt, body)

    def begin(self, transaction: str, *, receipt: str | None = None) -> str:
        """Begin a transaction. The server holds its frames until COMMIT, and does not answer their receipts earlier."""
        return self._frame("BEGIN", {"transaction": transaction}, receipt)

    def commit(self, transaction: str, *, receipt: str | None = None) -> str:
        return self._frame("COMMIT", {"transaction": transaction}, receipt)

    def abort(self, transaction: str, *, receipt: str | None = None) -> str:
        """Abort a transaction: none of it takes effect, as if the connection had ended."""
        return self._frame("ABORT", {"transaction": transaction}, receipt)

    def disconnect(self, *, receipt: str | None = None) -> str:
        """Return the last frame. Close the socket when its receipt has arrived, or at once if none was requested."""
        return self._frame("DISCONNECT", {}, receipt)

    # ---- Receiving ----

    def receive_data(self, data: str | bytes) -> None:
        """Take received data, which may be split anywhere."""
        self._parser.feed(data)

    def next_event(self) -> ClientEvent | None:
        """Return the next event, or None if more data is needed. ProtocolError if the server broke the protocol."""
        frame = self._parser.next_frame()
        if frame is None:
            return None
        # The most frequent command by far comes first.
        if frame.command == "MESSAGE":
            return _message(frame)
        headers = frame.headers
        match frame.command:
            case "RECEIPT":
                return Receipt(_required(frame, "receipt-id"))
            case "ERROR":
                return Error(headers.get("message", ""), headers, frame.body)
            case "CONNECTED":
                return self._connected(headers)
        raise ProtocolError("The command is unknown", f"{frame.command[:40]!r} is not a command of STOMP servers.")

    # ---- Private ----

    def _frame(self, command: str, headers: dict[str, str], receipt: str | None, body: str = "") -> str:
        if receipt is not None:
            headers["receipt"] = receipt
        return encode(command, headers.items(), body, self.version)

    def _reference(self, message: Message) -> dict[str, str]:
        """Return the headers with which an ACK names its message; they depend on the version."""
        if self.version != "1.2":
            named = {"subscription": message.subscription} if message.subscription else {}
            return {"message-id": message.id, **named}
        if not message.ack:
            raise LocalProtocolError(f"The message {message.id!r} has no ack header: it needs no acknowledgement.")
        return {"id": message.ack}

    def _connected(self, headers: Headers) -> Connected:
        version = headers.get("version", "1.0")
        if version not in self._versions:
            raise ProtocolError(
                "The server chose a version that was not offered",
                f"It is {version!r}, not {', '.join(self._versions)}.",
            )
        self.version = self._parser.version = version
        if version != "1.0":
            theirs = parse_beats(headers.get("heart-beat", "0,0"))
            self.send_interval, self.receive_timeout = agree_on_beats(self._beat, theirs)
        return Connected(version, headers)


def _message(frame: Frame) -> Message:
    headers = frame.headers
    return Message(
        _required(frame, "message-id"),
        headers.get("subscription", ""),
        headers.get("destination", ""),
        headers.get("ack", ""),
        headers,
        frame.body,
    )


def _within(transaction: str | None, headers: dict[str, str]) -> dict[str, str]:
    return headers if transaction is None else {**headers, "transaction": transaction}


def _required(frame: Frame, name: str) -> str:
    value = frame.headers.get(name)
    if value is None:
        raise ProtocolError(f"{frame.command} has no header {name}")
    return value

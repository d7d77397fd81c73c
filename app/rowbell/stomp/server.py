"""One STOMP connection, seen from the server, without I/O.

Pass in what the socket receives (`receive_data`), take events out (`next_event`), and write to the socket what the
other methods return. Each of them returns one complete frame, to be sent as one WebSocket text message of its own,
because old clients can neither assemble a frame from several messages nor take two from one.

Nothing that the peer does raises an exception. Once it has broken the protocol, the next event is `Invalid`, the last.

                                                            COMMITTING
                                                     COMMIT ▲        │ all that was held is out
                                                            │        ▼
    AWAITING_CONNECT ──CONNECT──► CONNECTING ──connected()──► CONNECTED ──DISCONNECT──► DISCONNECTING
      │ the peer breaks the protocol                            │ the peer breaks the protocol
      └──────────────────────────► INVALID ◄────────────────────┘
    any ──error()──► CLOSED

The table `_TRANSITIONS` at the end of this file says what a client may send in each state, and what follows:
(state, command) → (handler, next state). Any other command is refused.

Frames are parsed one at a time, on demand, because the meaning of a frame depends on the one before: a SUBSCRIBE that
came in the same message as CONNECT uses the escapes of the version that CONNECT agrees on. In CONNECTING it is the
application's turn to check the token, and there are no events until it has called `connected()`. In COMMITTING the
events are the frames that a transaction held, one by one, and then Commit; nothing is parsed until that is out. In
DISCONNECTING, INVALID and CLOSED there are no more events, and what still arrives is discarded. In INVALID and CLOSED
the subscriptions are gone as well, so that no message can follow an ERROR; a client that has sent DISCONNECT may still
be sent messages until its RECEIPT.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import NoReturn

from rowbell.stomp.errors import LocalProtocolError, ProtocolError
from rowbell.stomp.events import (
    Abort,
    Ack,
    AckMode,
    Begin,
    Commit,
    Connect,
    Disconnect,
    Invalid,
    Nack,
    Send,
    ServerEvent,
    Subscribe,
    Unsubscribe,
)
from rowbell.stomp.frames import Frame, Parser, encode, octets
from rowbell.stomp.limits import DEFAULTS, Limits
from rowbell.stomp.negotiation import (
    HEART_BEAT,
    NO_BEATS,
    agree_on_beats,
    agree_on_version,
    choose_subprotocol,
    parse_beats,
)
from rowbell.stomp.subscription import Subscription, message_prefix
from rowbell.stomp.transaction import Held, Settlement, Transactions

__all__ = [
    "HEART_BEAT",
    "Abort",
    "Ack",
    "AckMode",
    "Begin",
    "Commit",
    "Connect",
    "Connection",
    "Disconnect",
    "Event",
    "Invalid",
    "Limits",
    "Nack",
    "Send",
    "State",
    "Subscribe",
    "Unsubscribe",
    "choose_subprotocol",
]

Event = ServerEvent

_ACK_MODES: dict[str, AckMode] = {"auto": "auto", "client": "client", "client-individual": "client-individual"}

_SESSION = re.compile(r"[A-Za-z0-9_-]+")
_NUMBER = re.compile(r"[0-9]{1,18}")

_NO_MESSAGE = 0
"""In place of the number of a message; the first message has 1."""

# Clients differ in how they read colons and backslashes, and for one that is not connected there is no version that
# defines them. Inner spaces are kept: this header is for people.
_UNSAFE_IN_MESSAGE = re.compile(r"[\x00-\x20\x7f:\\]+")


class State(Enum):
    """The state of a connection; see the diagram at the top of this file."""

    AWAITING_CONNECT = auto()
    CONNECTING = auto()
    CONNECTED = auto()
    COMMITTING = auto()
    DISCONNECTING = auto()
    INVALID = auto()
    CLOSED = auto()


class Connection:
    """The server's side of one connection.

    `session` is a name of letters, digits, - and _ that must never be reused: message ids begin with it. `subprotocol`
    is what the WebSocket handshake chose. `beat` is how often we can send heart-beats and how often we want to receive
    them, in milliseconds; 0 is never. LocalProtocolError if `session` has other characters.
    """

    def __init__(
        self,
        session: str,
        *,
        subprotocol: str | None = None,
        server: str = "rowbell",
        beat: tuple[int, int] = (10_000, 10_000),
        limits: Limits = DEFAULTS,
    ) -> None:
        if not _SESSION.fullmatch(session):
            raise LocalProtocolError(f"The session {session!r} must consist of letters, digits, - and _.")
        self.version = "1.0"
        """The agreed version, from the event Connect on."""
        self.send_interval: float | None = None
        """Write HEART_BEAT after this many seconds without sending anything; None: never."""
        self.receive_timeout: float | None = None
        """The client is gone after this many seconds without receiving anything; None: it promised no beats."""

        self._session = session
        self._subprotocol = subprotocol
        self._server = server
        self._beat = beat
        self._state = State.AWAITING_CONNECT
        self._parser = Parser(limits)
        self._parser.limit = min(limits.first_frame, limits.frame)

        # Tracks the client's subscriptions by id. Empty in states in which no message may be sent.
        self._subscriptions: dict[str, Subscription] = {}
        # Tracks what waits for COMMIT and, in the state COMMITTING, the events of the committed transaction that are
        # not out yet, of which Commit is the last.
        self._transactions = Transactions()
        self._committed: deque[Held | Commit] = deque()
        self.frames = 0
        """Tracks how many frames the client has sent, and `settlements` how many of them were ACK or NACK."""
        self.settlements = 0
        # Tracks the number of the latest message.
        self._number = 0
        # Tracks the additional headers of ERROR.
        self._error_headers: tuple[tuple[str, str], ...] = ()

    # ---- Receiving ----

    def receive_data(self, data: str | bytes) -> None:
        """Take received data, which may be split anywhere. Any data counts as a sign of life."""
        if self._state in _RECEIVING:
            self._parser.feed(data)

    def next_event(self) -> Event | None:
        """Return the next event; None if more data must be received or `connected()` called first. Never raises."""
        try:
            while self._state in _PARSING:
                frame = self._parser.next_frame()
                if frame is None:
                    return None
                event = self._handle(frame)
                if event is not None:
                    return event
        except ProtocolError as error:
            self._error_headers = error.headers
            self._state = State.INVALID
            self._forget()
            return Invalid(error)
        return self._next_committed() if self._state is State.COMMITTING else None

    # ---- Sending ----

    def connected(self, user: str) -> str:
        """Accept the client as `user`. LocalProtocolError if it has not sent CONNECT, or the name cannot be written."""
        if self._state is not State.CONNECTING:
            raise self._not_now("CONNECTED")
        # 1.0 has no heart-beats, but two old clients crash without the header, on any version.
        can_send, want = NO_BEATS if self.version == "1.0" else self._beat
        frame = encode(
            "CONNECTED",
            (
                ("version", self.version),
                ("heart-beat", f"{can_send},{want}"),
                ("server", self._server),
                ("session", self._session),
                ("user-name", user),
            ),
        )
        self._parser.version = self.version
        self._parser.limit = self._parser.limits.frame
        self._state = State.CONNECTED
        return frame

    def message(self, subscription: str, headers: str, body: str, token: object | None = None) -> str:
        """Return one message of a subscription.

        `headers` are additional lines `name:value\\n`, which must need no escapes and repeat no header; `body` is JSON.
        If the client acknowledges this subscription and there is a `token`, Ack or Nack returns it. LocalProtocolError
        if the subscription does not exist, or no longer does.
        """
        try:
            to = self._subscriptions[subscription]
        except KeyError:
            raise self._not_now(f"MESSAGE to the subscription {subscription!r}") from None
        self._number = number = self._number + 1
        size = len(body) if body.isascii() else octets(body)
        if token is None or not to.acknowledges:
            return f"{to.prefix}{number}\n{headers}content-length:{size}\n\n{body}\0"
        to.wait_for(number, token)
        return f"{to.prefix}{number}\nack:{self._session}-{number}\n{headers}content-length:{size}\n\n{body}\0"

    def unacknowledged(self, subscription: str) -> Collection[object]:
        """Return the tokens of a subscription's messages that wait for ACK or NACK; none if it does not exist."""
        known = self._subscriptions.get(subscription)
        return known.waiting.values() if known else ()

    def receipt(self, receipt: str) -> str:
        """Return the RECEIPT for a frame that has taken effect. LocalProtocolError if none may be sent now."""
        if self._state not in _ANSWERING:
            raise self._not_now("RECEIPT")
        return encode("RECEIPT", [("receipt-id", receipt)], version=self.version)

    def error(self, message: str, body: str = "", receipt: str | None = None) -> str:
        """Return the last frame, after which the socket must be closed. LocalProtocolError if it was already sent.

        `message` is reduced to what every client can read in a header. Without a `body` it is also the body.
        """
        if self._state is State.CLOSED:
            raise self._not_now("ERROR")
        headers = [("message", _UNSAFE_IN_MESSAGE.sub(" ", message.replace(": ", " - ")).strip() or "error")]
        if receipt:
            headers.append(("receipt-id", receipt))
        headers += [*self._error_headers, ("content-type", "text/plain")]
        frame = encode("ERROR", headers, body or message, self.version)
        self._state = State.CLOSED
        self._forget()
        return frame

    # ---- What clients may send ----

    def _handle(self, frame: Frame) -> Event | None:
        """Return the event of a frame; None if the frame is held, or is COMMIT, whose events follow one by one."""
        self.frames += 1
        handler, following = _TRANSITIONS.get((self._state, frame.command), _REFUSAL)
        try:
            event = handler(self, frame)
        except ProtocolError as error:
            error.receipt = _receipt_of(frame)
            raise
        self._state = following
        return event

    def _connect(self, frame: Frame) -> Event:
        version = agree_on_version(frame.headers.get("accept-version"), self._subprotocol)
        if version != "1.0":
            theirs = parse_beats(frame.headers.get("heart-beat", "0,0"))
            self.send_interval, self.receive_timeout = agree_on_beats(self._beat, theirs)
        self.version = version
        return Connect(frame.headers)

    def _subscribe(self, frame: Frame) -> Event:
        destination = _required(frame, "destination")
        mode = _ACK_MODES.get(frame.headers.get("ack", "auto"))
        if mode is None:
            raise ProtocolError("The ack mode is unknown", f"The header ack must be one of {', '.join(_ACK_MODES)}.")
        named = frame.headers.get("id")
        id = named or self._unnamed(frame, destination)
        if id in self._subscriptions:
            # "Within the same connection, different subscriptions MUST use different subscription identifiers."
            raise ProtocolError(
                "The subscription id is in use", "Send UNSUBSCRIBE first, or give each subscription its own id."
            )
        prefix = message_prefix(named, destination, self._session, self.version)
        self._subscriptions[id] = Subscription(destination, mode, prefix)
        return Subscribe(id, destination, mode, frame.headers, _receipt_of(frame))

    def _unnamed(self, frame: Frame, destination: str) -> str:
        """Return the id for a subscription without one, which 1.0 allows: one per destination."""
        return "\n" + destination if self.version == "1.0" else _required(frame, "id")

    def _unsubscribe(self, frame: Frame) -> Event:
        id = frame.headers.get("id") or self._subscribed_to(frame)
        # Messages that wait for an acknowledgement are forgotten as well. An unknown id is ignored.
        self._subscriptions.pop(id, None)
        return Unsubscribe(id, _receipt_of(frame))

    def _subscribed_to(self, frame: Frame) -> str:
        """Return the id that an UNSUBSCRIBE without one refers to.

        On 1.0, UNSUBSCRIBE "requires either a destination header or an id header".
        """
        if self.version != "1.0":
            return _required(frame, "id")
        destination = _required(frame, "destination")
        unnamed = self._unnamed(frame, destination)
        if unnamed in self._subscriptions:
            return unnamed
        return next((id for id, each in self._subscriptions.items() if each.destination == destination), unnamed)

    def _ack(self, frame: Frame) -> Event | None:
        return self._settle_or_hold(frame, Ack)

    def _nack(self, frame: Frame) -> Event | None:
        # "NACK is the opposite of ACK", so it is cumulative where ACK is.
        return self._settle_or_hold(frame, Nack)

    def _settle_or_hold(self, frame: Frame, event: type[Ack | Nack]) -> Event | None:
        self.settlements += 1
        number = self._acknowledged(frame)
        if "transaction" not in frame.headers:
            return event(self._settle(number), _receipt_of(frame))
        # "The message acknowledgment SHOULD be part of the named transaction."
        self._hold(frame, Settlement(event, number, _receipt_of(frame)))
        return None

    def _settle(self, number: int) -> list[object]:
        return next((each.settle(number) for each in self._subscriptions.values() if number in each.waiting), [])

    def _acknowledged(self, frame: Frame) -> int:
        """Return the number of the message that an ACK or NACK is for.

        It is in `id` on 1.2 and in `message-id` on 1.0 and 1.1, and some clients write `id` on any version. The header
        `subscription` of 1.1 adds nothing, because message numbers are unique within a session.
        """
        names = ("id", "message-id") if self.version == "1.2" else ("message-id", "id")
        id = frame.headers.get(names[0]) or frame.headers.get(names[1]) or ""
        session, _, number = id.rpartition("-")
        if session == self._session and _NUMBER.fullmatch(number) and 0 < int(number) <= self._number:
            return int(number)
        if not any(each.acknowledges for each in self._subscriptions.values()):
            # stompjs 5 to 7.1 send `id:undefined` when an application acknowledges a message that does not need it.
            return _NO_MESSAGE
        if not id:
            raise _missing(frame, names[0])
        raise ProtocolError(
            "The message to acknowledge is unknown",
            f"No message of this session has the id {id[:80]!r}. On STOMP 1.2 send the ack header of the MESSAGE, "
            "on 1.0 and 1.1 its message-id.",
        )

    def _send(self, frame: Frame) -> Event | None:
        send = Send(_required(frame, "destination"), frame.headers, frame.body, _receipt_of(frame))
        if "transaction" not in frame.headers:
            return send
        self._hold(frame, send)
        return None

    def _hold(self, frame: Frame, held: Held) -> None:
        # A transaction cannot have an empty id, so an empty header is refused as well: the frame must not silently take
        # effect without waiting for COMMIT.
        self._transactions.hold(frame.headers["transaction"], held, self._parser.head_size + len(frame.body))

    def _begin(self, frame: Frame) -> Event:
        self._transactions.begin(_required(frame, "transaction"))
        return Begin(_receipt_of(frame))

    def _commit(self, frame: Frame) -> None:
        self._committed.extend(self._transactions.end(_required(frame, "transaction")))
        self._committed.append(Commit(_receipt_of(frame)))

    def _next_committed(self) -> Event:
        held = self._committed.popleft()
        if isinstance(held, Commit):
            self._state = State.CONNECTED
        if isinstance(held, Settlement):
            return held.event(self._settle(held.number), held.receipt)
        return held

    def _abort(self, frame: Frame) -> Event:
        self._transactions.end(_required(frame, "transaction"))
        return Abort(_receipt_of(frame))

    def _disconnect(self, frame: Frame) -> Event:
        # "Any started transactions which have not been committed will be implicitly aborted if the client sends a
        # DISCONNECT frame". "Clients MUST NOT send any more frames after the DISCONNECT frame is sent."
        self._transactions.clear()
        self._parser.clear()
        return Disconnect(_receipt_of(frame))

    def _refuse(self, frame: Frame) -> NoReturn:
        if self._state is State.AWAITING_CONNECT:
            raise ProtocolError("The first frame must be CONNECT", f"It is {frame.command[:40]!r}.")
        if frame.command in ("CONNECT", "STOMP"):
            raise ProtocolError("The client is already connected", "Send CONNECT only once on a connection.")
        raise ProtocolError("The command is unknown", f"{frame.command[:40]!r} is not a command of STOMP clients.")

    # ---- Private ----

    def _forget(self) -> None:
        self._subscriptions.clear()
        self._transactions.clear()
        self._committed.clear()
        self._parser.clear()

    def _not_now(self, what: str) -> LocalProtocolError:
        return LocalProtocolError(f"{what} cannot be sent: the connection is {self._state.name}.")


def _receipt_of(frame: Frame) -> str | None:
    """Return the frame's receipt. An empty one counts as none: several clients cannot read an empty header."""
    return frame.headers.get("receipt") or None


def _required(frame: Frame, name: str) -> str:
    """Return the value of a required header, which must not be empty, because it is sent back. ProtocolError if not."""
    value = frame.headers.get(name)
    if not value:
        raise _missing(frame, name)
    return value


def _missing(frame: Frame, name: str) -> ProtocolError:
    return ProtocolError(f"{frame.command} needs the header {name}", "It is missing or empty.")


_PARSING = frozenset((State.AWAITING_CONNECT, State.CONNECTED))
"""The states in which frames are parsed."""

_RECEIVING = _PARSING | {State.CONNECTING, State.COMMITTING}
"""The states in which received data is kept."""

_ANSWERING = frozenset((State.CONNECTED, State.COMMITTING, State.DISCONNECTING))
"""The states in which a receipt may be due."""

_Handler = Callable[[Connection, Frame], Event | None]

_TRANSITIONS: dict[tuple[State, str], tuple[_Handler, State]] = {
    (State.AWAITING_CONNECT, "CONNECT"): (Connection._connect, State.CONNECTING),
    # "STOMP servers MUST handle a STOMP frame in the same manner as a CONNECT frame."
    (State.AWAITING_CONNECT, "STOMP"): (Connection._connect, State.CONNECTING),
    (State.CONNECTED, "SUBSCRIBE"): (Connection._subscribe, State.CONNECTED),
    (State.CONNECTED, "UNSUBSCRIBE"): (Connection._unsubscribe, State.CONNECTED),
    (State.CONNECTED, "ACK"): (Connection._ack, State.CONNECTED),
    (State.CONNECTED, "NACK"): (Connection._nack, State.CONNECTED),
    (State.CONNECTED, "SEND"): (Connection._send, State.CONNECTED),
    (State.CONNECTED, "BEGIN"): (Connection._begin, State.CONNECTED),
    (State.CONNECTED, "COMMIT"): (Connection._commit, State.COMMITTING),
    (State.CONNECTED, "ABORT"): (Connection._abort, State.CONNECTED),
    (State.CONNECTED, "DISCONNECT"): (Connection._disconnect, State.DISCONNECTING),
}

_REFUSAL: tuple[_Handler, State] = (Connection._refuse, State.INVALID)

"""What happened on a connection, as values. `receipt` is to be answered once the event has taken effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from rowbell.stomp.errors import ProtocolError

AckMode = Literal["auto", "client", "client-individual"]

# ---- What a server sees ----


class Connect(msgspec.Struct, frozen=True):
    """A well-formed CONNECT; version and heart-beats are agreed. Answer `connected(user)` or `error(...)`."""

    headers: Mapping[str, str]


class Subscribe(msgspec.Struct, frozen=True):
    """The subscription is open in the state machine; the application decides whether its destination exists."""

    id: str
    """The id to pass to `message()`. On 1.0, where clients may omit it, one is generated that begins with a line feed,
    which an id sent by a 1.0 client cannot contain."""
    destination: str
    ack: AckMode
    headers: Mapping[str, str]
    receipt: str | None


class Unsubscribe(msgspec.Struct, frozen=True):
    """The subscription `id` has ended. An unknown id is not an error: only the receipt is due then."""

    id: str
    receipt: str | None


class Ack(msgspec.Struct, frozen=True):
    """Messages were acknowledged: `tokens` are those passed to `message()`, oldest first, and may be empty."""

    tokens: list[object]
    receipt: str | None


class Nack(msgspec.Struct, frozen=True):
    """Like Ack, for messages that the client did not consume."""

    tokens: list[object]
    receipt: str | None


class Send(msgspec.Struct, frozen=True):
    """A SEND; neither its destination nor its body has been checked."""

    destination: str
    headers: Mapping[str, str]
    body: bytes
    receipt: str | None


class Begin(msgspec.Struct, frozen=True):
    """A transaction has begun. Its contents take effect at COMMIT; only the receipt is due."""

    receipt: str | None


class Commit(msgspec.Struct, frozen=True):
    """The end of a transaction. The Acks, Nacks and Sends that it held are the events just before this one, in their
    order, each with the receipt of its own frame. This receipt is due when all of them have taken effect."""

    receipt: str | None


class Abort(msgspec.Struct, frozen=True):
    """A transaction and what it held were discarded: none of it takes effect, and only this receipt is due."""

    receipt: str | None


class Disconnect(msgspec.Struct, frozen=True):
    """The client sends nothing more; open transactions are aborted. Answer the receipt, then close."""

    receipt: str | None


class Invalid(msgspec.Struct, frozen=True):
    """The client broke the protocol; the last event. Answer `error(e.message, e.body, e.receipt)`, then close."""

    error: ProtocolError

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def detail(self) -> str:
        return self.error.detail

    @property
    def body(self) -> str:
        return self.error.body

    @property
    def receipt(self) -> str | None:
        return self.error.receipt

    @property
    def reason(self) -> str:
        return self.error.reason


# ---- What a client sees ----


class Connected(msgspec.Struct, frozen=True):
    """The server accepted CONNECT."""

    version: str
    headers: Mapping[str, str]


class Message(msgspec.Struct, frozen=True):
    """A MESSAGE. `subscription` is empty on 1.0 if the client gave no id; `ack` is empty if none is to be sent."""

    id: str
    subscription: str
    destination: str
    ack: str
    headers: Mapping[str, str]
    body: bytes


class Receipt(msgspec.Struct, frozen=True):
    """The frame that carried `receipt:<id>` has taken effect."""

    id: str


class Error(msgspec.Struct, frozen=True):
    """The server refused something and closes the connection; the last event."""

    message: str
    headers: Mapping[str, str]
    body: bytes


ServerEvent = Connect | Subscribe | Unsubscribe | Ack | Nack | Send | Begin | Commit | Abort | Disconnect | Invalid
ClientEvent = Connected | Message | Receipt | Error

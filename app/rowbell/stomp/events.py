"""What happened on a connection, as values. `receipt` is what the peer wants to be answered once the effect stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from rowbell.stomp.errors import ProtocolError

AckMode = Literal["auto", "client", "client-individual"]

# ---- What a server sees ----


class Connect(msgspec.Struct, frozen=True):
    """CONNECT, well formed, its version and heart-beats agreed. Answer `connected(user)` or `error(...)`."""

    headers: Mapping[str, str]


class Subscribe(msgspec.Struct, frozen=True):
    """The subscription stands in the state machine; whether its destination exists is the application's to say."""

    id: str
    """What `message()` takes. On 1.0, where a client may leave it out, it is made up, and begins with a line feed,
    which no id from the wire of 1.0 holds."""
    destination: str
    ack: AckMode
    headers: Mapping[str, str]
    receipt: str | None


class Unsubscribe(msgspec.Struct, frozen=True):
    """`id` may name no subscription, which is no error: only the receipt is due then."""

    id: str
    receipt: str | None


class Ack(msgspec.Struct, frozen=True):
    """The tokens given to `message()`, oldest first; none if there was nothing to acknowledge."""

    tokens: list[object]
    receipt: str | None


class Nack(msgspec.Struct, frozen=True):
    """As Ack, for messages that the client did not consume."""

    tokens: list[object]
    receipt: str | None


class Send(msgspec.Struct, frozen=True):
    """SEND; neither the destination nor the body is checked."""

    destination: str
    headers: Mapping[str, str]
    body: bytes
    receipt: str | None


class Begin(msgspec.Struct, frozen=True):
    """A transaction is open. What the client puts into it happens at COMMIT: nothing is due but the receipt."""

    receipt: str | None


class Commit(msgspec.Struct, frozen=True):
    """The end of a transaction. The Acks, Nacks and Sends that it held are the events just before this one, in their
    order and each with the receipt of its own frame. This receipt is due when the effects of all of them stand."""

    receipt: str | None


class Abort(msgspec.Struct, frozen=True):
    """A transaction and what it held are forgotten: nothing of it happens, and nothing is due but this receipt."""

    receipt: str | None


class Disconnect(msgspec.Struct, frozen=True):
    """The client has said all it will say; what was not committed is aborted. Answer the receipt, then close."""

    receipt: str | None


class Invalid(msgspec.Struct, frozen=True):
    """The client broke the protocol: the last event. Answer `error(e.message, e.body, e.receipt)`, then close."""

    error: ProtocolError

    @property
    def message(self) -> str:
        return self.error.message

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
    """MESSAGE. `subscription` is empty on 1.0 if the client gave it no id; `ack` if there is none to send."""

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
    """The server refused something and closes the connection: the last event."""

    message: str
    headers: Mapping[str, str]
    body: bytes


ServerEvent = Connect | Subscribe | Unsubscribe | Ack | Nack | Send | Begin | Commit | Abort | Disconnect | Invalid
ClientEvent = Connected | Message | Receipt | Error

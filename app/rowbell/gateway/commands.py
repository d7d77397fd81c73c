"""The commands of the plain JSON protocol: one object per message, whose `type` names the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from rowbell.gateway.mark_request import MOST_IDS, Id, Ids, which

RECEIPT_CHARACTERS = 256
"""The most characters of a receipt's name; a thousand receipts may wait for PostgreSQL."""

ADVICE = (
    'A message is one object: {"type":"ack","id":42}, {"type":"read","ids":[42,43]} with at most '
    f'{MOST_IDS} ids, {{"type":"read","all":true}}, {{"type":"token","token":"..."}} or {{"type":"ping"}}. '
    f'Each may have a "receipt" of 1 to {RECEIPT_CHARACTERS} characters.'
)


class Command(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """What every command has."""

    receipt: Annotated[str, msgspec.Meta(min_length=1, max_length=RECEIPT_CHARACTERS)] | None = None
    """The receipt to send when the command has taken effect."""


class Ack(Command, tag="ack"):
    """The client has received an object with this `id`; if there are several, the oldest unacknowledged one."""

    id: Id


class Read(Command, tag="read"):
    """The user has read these rows, or all that have been received."""

    ids: Ids | None = None
    all: bool = False


class Token(Command, tag="token"):
    """A newer token, so that the session outlives the previous one."""

    token: str


class Ping(Command, tag="ping"):
    """Asks for a pong."""


AnyCommand = Ack | Read | Token | Ping

_decode: Callable[[str | bytes], AnyCommand] = msgspec.json.Decoder(AnyCommand).decode


def parse_command(message: str | bytes) -> AnyCommand:
    """Parse a client's message. ValueError says what is wrong with it."""
    try:
        command = _decode(message)
        if isinstance(command, Read):
            which(command.ids, command.all)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return command

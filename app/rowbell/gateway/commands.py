"""What a client of the plain JSON protocol may say: one object to a message, whose `type` names the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from rowbell.gateway.mark_request import MOST_IDS, Id, Ids, which

RECEIPT_CHARACTERS = 256
"""Of the name of a receipt: a thousand of them may wait for PostgreSQL."""

ADVICE = (
    'A message is one object: {"type":"ack","id":42}, {"type":"read","ids":[42,43]} with at most '
    f'{MOST_IDS} ids, {{"type":"read","all":true}}, {{"type":"token","token":"..."}} or {{"type":"ping"}}. '
    f'Each may have a "receipt", of 1 to {RECEIPT_CHARACTERS} characters.'
)


class Command(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    receipt: Annotated[str, msgspec.Meta(min_length=1, max_length=RECEIPT_CHARACTERS)] | None = None
    """Wanted when the command has taken effect."""


class Ack(Command, tag="ack"):
    """The client has got an object with this `id`; of several, the oldest that is not acknowledged."""

    id: Id


class Read(Command, tag="read"):
    """The user has read these, or all that came."""

    ids: Ids | None = None
    all: bool = False


class Token(Command, tag="token"):
    """A newer token, so that the session outlives the one before."""

    token: str


class Ping(Command, tag="ping"):
    """Is anybody there?"""


AnyCommand = Ack | Read | Token | Ping

_decode: Callable[[str | bytes], AnyCommand] = msgspec.json.Decoder(AnyCommand).decode


def parse_command(message: str | bytes) -> AnyCommand:
    """What the client says. ValueError says what is wrong with it."""
    try:
        command = _decode(message)
        if isinstance(command, Read):
            which(command.ids, command.all)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(str(error)) from None
    return command

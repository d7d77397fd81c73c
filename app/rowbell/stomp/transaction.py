"""The transactions of one connection: what is held until its COMMIT.

"Transactions in this case apply to sending and acknowledging - any messages sent or acknowledged during a transaction
will be processed atomically based on the transaction." A SEND, ACK or NACK with the header `transaction` is checked
when it comes, as any frame is, and then held: the messages it acknowledges go on waiting, and its receipt, which says
that it has taken effect, is not due. COMMIT gives out what was held, in its order. ABORT, DISCONNECT and the end of the
connection forget it: then it never takes effect, and nobody is told that it has.

Which messages a held ACK or NACK is for is found at COMMIT: those that it would be for if it came then. In mode
`client` "the ACK operates on the message specified in the ACK frame and all messages sent to the subscription before
the ACK'ed message": what was sent after that message, even if it was before COMMIT, still waits. What has been
acknowledged in the meantime, or belongs to a subscription that has ended, is not acknowledged again.
"""

from __future__ import annotations

import msgspec

from rowbell.stomp.errors import ProtocolError
from rowbell.stomp.events import Ack, Nack, Send

OPEN_LIMIT = 16
"""Transactions that are open at the same time. Clients have one, or one for each of a few things they do at once; who
has more has forgotten to end them."""

HELD_FRAMES_LIMIT = 500
"""Frames held, in all transactions together. Whatever the application does for a frame, COMMIT makes it do that so
many times in a row, while nothing else that this client says is heard."""

HELD_OCTETS_LIMIT = 256 * 1024
"""Octets of the frames held, in all transactions together: four of the largest. As Python's objects, frames of nothing
but short headers take 16 times as much: 4 MiB, measured, is the most that a connection can make us hold."""


class Settlement(msgspec.Struct, frozen=True):
    """An ACK or NACK that is held, and the number of the message that it names."""

    event: type[Ack | Nack]
    number: int
    receipt: str | None


Held = Send | Settlement


class Transactions:
    """What one connection has begun, and neither committed nor aborted."""

    def __init__(self) -> None:
        # Tracks what is held, by transaction, and how much that is in all of them.
        self._open: dict[str, list[tuple[Held, int]]] = {}
        self._frames = 0
        self._octets = 0

    def begin(self, id: str) -> None:
        """ProtocolError if it is open, or too many are."""
        if id in self._open:
            # "Within the same connection, different transactions MUST use different transaction identifiers."
            raise ProtocolError(
                "The transaction is open already", "Send COMMIT or ABORT first, or give each transaction its own id."
            )
        if len(self._open) >= OPEN_LIMIT:
            raise ProtocolError(f"More than {OPEN_LIMIT} transactions are open", "Send COMMIT or ABORT for one first.")
        self._open[id] = []

    def hold(self, id: str, held: Held, size: int) -> None:
        """Keep a frame of `size` octets. ProtocolError if the transaction is not open, or there is no room."""
        if id not in self._open:
            raise _not_open(id)
        if self._frames >= HELD_FRAMES_LIMIT:
            raise ProtocolError(f"Open transactions hold more than {HELD_FRAMES_LIMIT} frames", _COMMIT_MORE_OFTEN)
        if self._octets + size > HELD_OCTETS_LIMIT:
            raise ProtocolError(f"Open transactions hold more than {HELD_OCTETS_LIMIT} octets", _COMMIT_MORE_OFTEN)
        self._open[id].append((held, size))
        self._frames += 1
        self._octets += size

    def end(self, id: str) -> list[Held]:
        """Forget a transaction: what it held, in the order it came. ProtocolError if it is not open."""
        ended = self._open.pop(id, None)
        if ended is None:
            raise _not_open(id)
        self._frames -= len(ended)
        self._octets -= sum(size for _, size in ended)
        return [held for held, _ in ended]

    def clear(self) -> None:
        """Abort them all."""
        self._open.clear()
        self._frames = self._octets = 0


_COMMIT_MORE_OFTEN = "Nothing of them is done. Send COMMIT after fewer frames."


def _not_open(id: str) -> ProtocolError:
    return ProtocolError(
        "The transaction is not open", f"There is no {id[:80]!r}: it was not begun, or has been committed or aborted."
    )

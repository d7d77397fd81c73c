"""The transactions of one connection, and the frames that they hold until COMMIT.

"Transactions in this case apply to sending and acknowledging - any messages sent or acknowledged during a transaction
will be processed atomically based on the transaction." A SEND, ACK or NACK with the header `transaction` is checked
when it arrives, like any frame, and then held: the messages it acknowledges still wait, and its receipt, which confirms
that it has taken effect, is not due. COMMIT releases the held frames in order. ABORT, DISCONNECT and the end of the
connection discard them: they never take effect, and their receipts are never sent.

A held ACK or NACK is resolved at COMMIT: it settles the messages that it would settle if it arrived then. In mode
`client` "the ACK operates on the message specified in the ACK frame and all messages sent to the subscription before
the ACK'ed message": later messages still wait, even if they were sent before COMMIT. Messages that have been
acknowledged meanwhile, or whose subscription has ended, are not acknowledged again.
"""

from __future__ import annotations

import msgspec

from rowbell.stomp.errors import ProtocolError
from rowbell.stomp.events import Ack, Nack, Send

OPEN_LIMIT = 16
"""Transactions that may be open at the same time. Clients have one, or one for each of a few concurrent tasks; a client
with more has forgotten to end them."""

HELD_FRAMES_LIMIT = 500
"""Frames held, in all transactions together. COMMIT makes the application handle that many frames in a row, during
which it receives nothing else from this client."""

HELD_OCTETS_LIMIT = 256 * 1024
"""Octets of the frames held, in all transactions together: four of the largest frames. As Python objects, frames of
only short headers take 16 times as much, so a connection can make us hold at most 4 MiB (measured)."""


class Settlement(msgspec.Struct, frozen=True):
    """A held ACK or NACK, and the number of the message that it names."""

    event: type[Ack | Nack]
    number: int
    receipt: str | None


Held = Send | Settlement


class Transactions:
    """The open transactions of one `Connection`, which owns them."""

    def __init__(self) -> None:
        # Tracks the held frames by transaction, with their sizes, and the totals for all transactions.
        self._open: dict[str, list[tuple[Held, int]]] = {}
        self._frames = 0
        self._octets = 0

    def begin(self, id: str) -> None:
        """Begin a transaction. ProtocolError if it is already open, or too many are."""
        if id in self._open:
            # "Within the same connection, different transactions MUST use different transaction identifiers."
            raise ProtocolError(
                "The transaction is already open", "Send COMMIT or ABORT first, or give each transaction its own id."
            )
        if len(self._open) >= OPEN_LIMIT:
            raise ProtocolError(f"More than {OPEN_LIMIT} transactions are open", "Send COMMIT or ABORT for one first.")
        self._open[id] = []

    def hold(self, id: str, held: Held, size: int) -> None:
        """Hold a frame of `size` octets. ProtocolError if the transaction is not open, or a limit is exceeded."""
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
        """Remove a transaction and return what it held, in order of arrival. ProtocolError if it is not open."""
        ended = self._open.pop(id, None)
        if ended is None:
            raise _not_open(id)
        self._frames -= len(ended)
        self._octets -= sum(size for _, size in ended)
        return [held for held, _ in ended]

    def clear(self) -> None:
        """Abort all transactions."""
        self._open.clear()
        self._frames = self._octets = 0


_COMMIT_MORE_OFTEN = "None of these frames takes effect. Send COMMIT after fewer frames."


def _not_open(id: str) -> ProtocolError:
    return ProtocolError(
        "The transaction is not open", f"{id[:80]!r} was never begun, or has already been committed or aborted."
    )

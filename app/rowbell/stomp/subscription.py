"""One subscription on the server: the beginning of its messages, and those that wait for an acknowledgement.

Message numbers are unique within a connection. `SESSION-NUMBER` is the `message-id` of a message and, if an
acknowledgement is wanted, its `ack`. So a message is found in the same way on all versions, and the number alone tells
whether an id was ever used. For each waiting message the application's token is kept, in the order of sending, which
is all that the cumulative mode `client` needs.

An ACK or NACK for a message that was sent but does not wait (its subscription has ended or is `auto`, or the message
was acknowledged before, by itself or by a cumulative ACK for a later one) acknowledges nothing and is not an error:
clients unsubscribe while their acknowledgements are on the way.
"""

from __future__ import annotations

from itertools import takewhile

from rowbell.stomp.events import AckMode
from rowbell.stomp.headers import encode_header


class Subscription:
    """One subscription of a `Connection`, which owns it."""

    __slots__ = ("_cumulative", "acknowledges", "destination", "prefix", "waiting")

    def __init__(self, destination: str, ack: AckMode, prefix: str) -> None:
        self.destination = destination
        self.prefix = prefix
        """The frame up to the message's number."""
        self.acknowledges = ack != "auto"
        self.waiting: dict[int, object] = {}
        """Tracks number → token, in the order of sending. The application limits how many there are."""
        self._cumulative = ack == "client"

    def wait_for(self, number: int, token: object) -> None:
        """Remember the token of a message that is being sent."""
        self.waiting[number] = token

    def settle(self, number: int) -> list[object]:
        """Remove and return the token of a waiting message, in cumulative mode with those of all earlier ones."""
        if not self._cumulative:
            return [self.waiting.pop(number)]
        # "The acknowledgment operates on the message specified in the ACK frame and all messages sent to the
        # subscription before the ACK'ed message."
        settled = list(takewhile(lambda waiting: waiting <= number, self.waiting))
        return [self.waiting.pop(each) for each in settled]


def message_prefix(id: str | None, destination: str, session: str, version: str) -> str:
    """Return the beginning of every message of a subscription: the frame up to the message's number.

    Clients look up their handlers by id, some by destination, so both are what the client wrote. 1.0 clients that gave
    no id expect no `subscription`. `content-type` is always sent: without it, a body is "a binary blob".
    """
    named = encode_header("subscription", id, version) + "\n" if id else ""
    to = encode_header("destination", destination, version)
    return f"MESSAGE\n{named}{to}\ncontent-type:application/json\nmessage-id:{session}-"

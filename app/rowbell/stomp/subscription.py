"""One subscription as the server keeps it: what its messages begin with, and which of them wait.

A message has one number for as long as the connection lasts; `SESSION-NUMBER` is its `message-id` and, where an
acknowledgement is wanted, its `ack`. So the message is found alike on all versions, and the number alone says
whether an id was ever given out. What is remembered per message is the application's token, in the order of
sending, which is all that `client`, the cumulative mode, needs.

An ACK or NACK for a message that was sent but does not wait (its subscription has ended; it was acknowledged
before, by itself or by a cumulative ACK for a later one; its subscription is `auto`) acknowledges nothing and
is no error: clients unsubscribe while their acknowledgements are on the way.
"""

from __future__ import annotations

from itertools import takewhile

from rowbell.stomp.events import AckMode
from rowbell.stomp.headers import encode_header


class Subscription:
    """What one subscription's messages begin with, and which of them wait for their acknowledgement."""

    __slots__ = ("_cumulative", "acknowledges", "destination", "prefix", "waiting")

    def __init__(self, destination: str, ack: AckMode, prefix: str) -> None:
        self.destination = destination
        self.prefix = prefix
        """The frame up to the message's number."""
        self.acknowledges = ack != "auto"
        self.waiting: dict[int, object] = {}
        """Number → token, in the order of sending. How many there may be is the application's to say."""
        self._cumulative = ack == "client"

    def wait_for(self, number: int, token: object) -> None:
        """Remember the token of a message that is being sent."""
        self.waiting[number] = token

    def settle(self, number: int) -> list[object]:
        """Take out the token of a waiting message, in cumulative mode with those of all messages before it."""
        if not self._cumulative:
            return [self.waiting.pop(number)]
        # "The acknowledgment operates on the message specified in the ACK frame and all messages sent to the
        # subscription before the ACK'ed message."
        settled = list(takewhile(lambda waiting: waiting <= number, self.waiting))
        return [self.waiting.pop(each) for each in settled]


def message_prefix(id: str | None, destination: str, session: str, version: str) -> str:
    """What every message of a subscription begins with: the frame up to the message's number.

    Clients look up their handlers by the id, and some by the destination, so both are what the client wrote. 1.0
    clients that gave no id expect no `subscription`. `content-type` always comes: without it a body is "a binary blob".
    """
    named = encode_header("subscription", id, version) + "\n" if id else ""
    to = encode_header("destination", destination, version)
    return f"MESSAGE\n{named}{to}\ncontent-type:application/json\nmessage-id:{session}-"

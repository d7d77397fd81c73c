"""One subscription to the number of unread rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rowbell.inbox import MOST_UNREAD
from rowbell.stomp.server import Subscribe

if TYPE_CHECKING:
    from rowbell.gateway.session import Session

UNACKNOWLEDGED = 100
"""Counts that may wait for the client's ACK; beyond that it is told the next when some came."""


class Badge:
    __slots__ = ("_counted", "_receipt", "_session", "_told", "auto", "id", "open", "recipient")

    def __init__(self, session: Session, recipient: str, subscribe: Subscribe) -> None:
        self._session = session
        self._receipt = subscribe.receipt
        """Tracks the receipt that the client waits for until it has been told a number."""
        self._counted: int | None = None
        """Tracks the last count, and `_told` the last one that the client was sent."""
        self._told: int | None = None
        self.id = subscribe.id
        self.auto = subscribe.ack == "auto"
        self.recipient = recipient
        self.open = True
        """False once it was unsubscribed or its session ended."""

    def show(self, count: int) -> None:
        """This many are unread, as `Inbox.count_unread` says. A client that does not keep up is told the last only."""
        self._counted = count
        self.drained()

    def drained(self) -> None:
        """The session's queue is empty, or the client acknowledged: say what could not be said before."""
        if self._counted is None or self._counted == self._told or not self.open or not self._has_room():
            return
        self._told = self._counted
        self._session.send_unread(self, rendered(self._counted))
        self._answer_receipt()

    def end(self) -> None:
        """It was unsubscribed, or its session ended. A receipt of SUBSCRIBE that is still owed is given."""
        self._answer_receipt()
        self.open = False

    def _has_room(self) -> bool:
        return self._session.has_room() and (self.auto or len(self._session.unacknowledged(self)) < UNACKNOWLEDGED)

    def _answer_receipt(self) -> None:
        receipt, self._receipt = self._receipt, None
        self._session.send_receipt(receipt)


def rendered(count: int) -> str:
    """The JSON that a client is told."""
    return f'{{"unread":{count}}}' if count <= MOST_UNREAD else f'{{"unread":{MOST_UNREAD},"more":true}}'

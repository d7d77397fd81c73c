"""One subscription to the number of unread rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rowbell.inbox import MOST_UNREAD

if TYPE_CHECKING:
    from rowbell.gateway.session import Session

UNACKNOWLEDGED = 100
"""Counts that may wait for the client's ACK; beyond that it is told the next when some came."""


class Badge:
    __slots__ = ("_begun", "_counted", "_session", "_told", "auto", "id", "open", "recipient")

    def __init__(
        self, session: Session, recipient: str, id: str, auto: bool, begun: Callable[[], None] | None = None
    ) -> None:
        self._session = session
        self._begun = begun
        """Tracks what tells the client that it has been told a number, until it has."""
        self._counted: int | None = None
        """Tracks the last count, and `_told` the last one that the client was sent."""
        self._told: int | None = None
        self.id = id
        self.auto = auto
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
        self._tell_begun()

    def end(self) -> None:
        """It was unsubscribed, or its session ended. A client that still waits for it to begin is told so."""
        self._tell_begun()
        self.open = False

    def _has_room(self) -> bool:
        return self._session.has_room() and (self.auto or len(self._session.unacknowledged(self)) < UNACKNOWLEDGED)

    def _tell_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun()


def rendered(count: int) -> str:
    """The JSON that a client is told."""
    return f'{{"unread":{count}}}' if count <= MOST_UNREAD else f'{{"unread":{MOST_UNREAD},"more":true}}'

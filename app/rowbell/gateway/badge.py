"""A subscription to the number of unread rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rowbell.inbox import MOST_UNREAD

if TYPE_CHECKING:
    from rowbell.gateway.session import Session

UNACKNOWLEDGED = 100
"""Counts that may wait for the client's ACK; beyond that, none is sent until some arrive."""


class Badge:
    """One subscription of one session to its user's number of unread rows. `Gateway` opens and closes it; `Unread`
    counts for it. No method waits or raises.
    """

    __slots__ = ("_begun", "_counted", "_session", "_told", "auto", "id", "open", "recipient")

    def __init__(
        self, session: Session, recipient: str, id: str, auto: bool, begun: Callable[[], None] | None = None
    ) -> None:
        self._session = session
        self._begun = begun
        """Tracks the callback that reports the first number as sent, until it has been called."""
        self._counted: int | None = None
        """Tracks the latest count, and `_told` the last one sent to the client."""
        self._told: int | None = None
        self.id = id
        self.auto = auto
        self.recipient = recipient
        self.open = True
        """False once unsubscribed, or once the session has ended."""

    def show(self, count: int) -> None:
        """Show `count`, as from `Inbox.count_unread`. A client that lags gets only the latest count."""
        self._counted = count
        self.drained()

    def drained(self) -> None:
        """Send a pending count, now that the session's queue is empty or the client has acknowledged."""
        if self._counted is None or self._counted == self._told or not self.open or not self._has_room():
            return
        self._told = self._counted
        self._session.send_unread(self, rendered(self._counted))
        self._tell_begun()

    def end(self) -> None:
        """End the subscription, because of UNSUBSCRIBE or because its session ended. A client that still waits for it
        to begin gets its receipt now.
        """
        self._tell_begun()
        self.open = False

    def _has_room(self) -> bool:
        return self._session.has_room() and (self.auto or len(self._session.unacknowledged(self)) < UNACKNOWLEDGED)

    def _tell_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun()


def rendered(count: int) -> str:
    """Return the JSON sent to the client."""
    return f'{{"unread":{count}}}' if count <= MOST_UNREAD else f'{{"unread":{MOST_UNREAD},"more":true}}'

"""Connects one subscription of one session to its `Subscription`, whose answers it carries out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING
from uuid import UUID

from rowbell.gateway.subscription import Answer, Delivery, State, Subscription, Sweep
from rowbell.inbox import Given
from rowbell.metrics import (
    COMMIT_TO_SOCKET,
    EVENTS_LIVE,
    EVENTS_REPLAYED,
    EVENTS_RESCUED,
    LAGGING_SLOW,
    LAGGING_UNACKNOWLEDGED,
)
from rowbell.notification import Change

if TYPE_CHECKING:
    from rowbell.gateway.replay import Pager
    from rowbell.gateway.session import Session


class Feed:
    """One subscription of one session to the notifications of its user, or to a topic. `Gateway` opens and closes it;
    the bus, the pager, the sweep and the session drive it. No method waits or raises.
    """

    __slots__ = ("_begun", "_pager", "_session", "_stalled", "auto", "id", "open", "subscription", "topic")

    def __init__(
        self,
        session: Session,
        pager: Pager,
        recipient: str,
        id: str,
        auto: bool,
        begun: Callable[[], None] | None = None,
        topic: str | None = None,
    ) -> None:
        self._session = session
        self._pager = pager
        self._begun = begun
        """Tracks the callback that reports the feed as live, until it has been called."""
        self._stalled = False
        """Tracks whether the limit of messages that wait for the client's ACK is reached."""
        self.id = id
        self.auto = auto
        """Whether a notification counts as delivered once written to the socket, rather than once acknowledged."""
        self.open = True
        """False once unsubscribed, or once the session has ended: query results that arrive later are dropped."""
        self.topic = topic
        """The name of the topic; None for the user's own notifications."""
        self.subscription = Subscription(recipient, from_now=topic is not None)

    @property
    def recipient(self) -> str:
        return self.subscription.recipient

    @property
    def is_live(self) -> bool:
        """Whether changes from the bus are sent as they arrive."""
        return self.subscription.state is State.LIVE

    # Events. None of these methods waits.

    def drained(self) -> None:
        """Continue if the feed was waiting for an empty queue of the session, or for an ACK or NACK of the client."""
        if self._can_go_on():
            self.carry_out(self.subscription.drained())

    def carry_out(self, answer: Answer) -> None:
        """Carry out an answer of the subscription: send, report that it is live, request the next query."""
        while self.open:
            self._send(answer.send)
            if answer.live:
                self._tell_begun()
            if answer.query is not None:
                self._pager.ask(self, answer.query)
            if answer.query is not None or not self._can_go_on():
                return
            if answer.send:  # yield to other tasks: a pass may have thousands of pages that need no query
                asyncio.get_running_loop().call_soon(self.drained)
                return
            answer = self.subscription.drained()

    def end(self) -> None:
        """End the subscription, because of UNSUBSCRIBE or because its session ended. A client that still waits for it
        to be live gets its receipt now.
        """
        self._tell_begun()
        self.open = False

    def offer(self, change: Change) -> None:
        """Take a complete change of this recipient that came from the bus."""
        if not self.open:
            return
        was_live = self.is_live
        delivery = self.subscription.offered(change, self._has_room)
        if delivery is not None:
            if change.committed_at:
                COMMIT_TO_SOCKET.observe(max(0.0, time.time() - change.committed_at / 1e6))
            EVENTS_LIVE.inc()
            self._session.send_message(self, delivery)
        elif was_live and self.subscription.state is State.WAITING and not self._stalled:
            LAGGING_SLOW.inc()  # the session's writer calls `drained` when the queue is empty

    def misses(self, sweep: Sweep) -> list[tuple[int, int, int]] | None:
        """See `Subscription.misses`; a feed that cannot follow the sweep begins paging here."""
        missed = self.subscription.misses(sweep)
        if missed is None:
            self.drained()
        return missed

    def rescue(self, sweep: Sweep, changes: list[Change]) -> int:
        """Send what the sweep found missing, and return how many changes were sent."""
        if not self.open:
            return 0
        deliveries = self.subscription.rescued(sweep, changes, self._has_room)
        EVENTS_RESCUED.inc(len(deliveries))
        self.carry_out(Answer(deliveries))
        return len(deliveries)

    def seen(self, ids: Collection[int]) -> Iterator[int]:
        """Return the transactions of the versions of these rows that the client was sent, where SQL may not see them
        yet.
        """
        sent = self.subscription.ledger.sent
        return (sent[id][1] for id in ids if id in sent)

    def given(self, epoch: UUID) -> Given:
        """Return what the client has: with `ack:auto` what was written to its socket, else what it has acknowledged."""
        withheld = {*self._session.on_their_way(self), *self._session.refused}
        return Given(epoch, *self.subscription.given(), withheld=withheld)

    def _has_room(self) -> bool:
        return self._session.has_room() and not self._stalls()

    def _can_go_on(self) -> bool:
        return self.subscription.state is State.WAITING and self._session.idle and not self._stalls()

    def _stalls(self) -> bool:
        """Whether ACKs must arrive before more is sent; counts each time that this begins."""
        if self.auto:
            return False
        stalls = len(self._session.unacknowledged(self)) >= self._session.max_unacknowledged
        if stalls and not self._stalled:
            LAGGING_UNACKNOWLEDGED.inc()
        self._stalled = stalls
        return stalls

    def _tell_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun()

    def _send(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.replayed:
                EVENTS_REPLAYED.inc()
            self._session.send_message(self, delivery)

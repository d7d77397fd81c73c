"""A session that speaks STOMP: handles the events of the protocol and encodes messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from rowbell.auth import Identity, bearer
from rowbell.errors import Refused
from rowbell.gateway.badge import Badge
from rowbell.gateway.feed import Feed
from rowbell.gateway.mark_request import ALL, parse_read
from rowbell.gateway.session import (
    CLOSE_TIMEOUT,
    NO_DELIVERY,
    NORMAL,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    Receive,
    Send,
    Session,
    Write,
    whose_limit,
)
from rowbell.gateway.subscription import Delivery
from rowbell.gateway.topics import DESTINATION, topic_of
from rowbell.logs import get_logger
from rowbell.notification import with_event
from rowbell.stomp import server as stomp

if TYPE_CHECKING:
    from rowbell.gateway.gateway import Gateway

log = get_logger("gateway.session")

NOTIFICATIONS = "/user/queue/notifications"
"""The destination of a user's own notifications; only the token determines the user."""
UNREAD = "/user/queue/unread"
"""The destination of the number of unread notifications."""
PLAIN_JSON = "To speak plain JSON, connect to /ws with ?token= and no subprotocol."
"""For clients that have not sent CONNECT and may not know that this is STOMP."""
READ = "/app/notifications/read"
"""The destination to which a client sends the notifications that its user has read."""
TOKEN = "/app/token"
"""The destination to which a client sends a newer token, so that its session outlives the previous one."""

EVENTS_A_TURN = 50
"""Frames of one client that are handled before yielding to the event loop: about half a millisecond."""
REFUSED = 5000
"""Messages refused with NACK that are remembered for one session."""


class StompSession(Session):
    """A session that speaks STOMP. Created by `Web` for one accepted WebSocket."""

    RENEWAL = f"Send a newer one to {TOKEN} before it expires, or connect with one."

    def __init__(
        self,
        gateway: Gateway,
        identity: Identity | None,
        receive: Receive,
        send: Send,
        write: Write,
        subprotocol: str | None,
        claim: Callable[[str], None],
    ) -> None:
        """`claim` assigns the connection to the user of CONNECT's token; Refused if they have too many sessions."""
        super().__init__(gateway, identity, receive, send, write)
        self._claim = claim
        self._stomp = stomp.Connection(secrets.token_urlsafe(12), subprotocol=subprotocol, limits=gateway.frame_limits)
        self._refused: set[int] = set()
        """Tracks the ids of notifications that the client has refused (NACK) and not acknowledged since."""
        self._greeted = False
        """Tracks whether CONNECT has been accepted."""

    def beat(self, now: float) -> None:
        """Also check the time until CONNECT and the heart-beats in both directions."""
        if not self._greeted:
            if now - self._opened_at > (patience := self._gateway.settings.connect_timeout):
                problem = f"no CONNECT within {patience} seconds"
                self._fail(problem, PLAIN_JSON, code=POLICY_VIOLATION, reason="connect_timeout")
            return
        super().beat(now)
        if self._stomp.receive_timeout is not None and now - self._received_at > self._stomp.receive_timeout:
            log.info("client_vanished", silent=round(now - self._received_at))
            self._fail("no heart-beat from the client", reason="heart_beat")
        elif self._stomp.send_interval is not None and now - self._sent_at > self._stomp.send_interval and self.idle:
            self._give(stomp.HEART_BEAT)

    # Encoding messages.

    def _message(self, feed: Feed, delivery: Delivery, delivers: int) -> str:
        event, change, replayed = delivery
        headers = f"event:{event}\nnotification-id:{change.id}\n"
        if event != "deleted":
            headers += f"version:{change.version}\n"
        if replayed:
            headers += "replayed:true\n"
        return self._stomp.message(feed.id, headers, with_event(event, change), delivers)

    def _count(self, badge: Badge, body: str) -> str:
        return self._stomp.message(badge.id, "", body, NO_DELIVERY)

    def _receipt(self, receipt: str) -> str:
        return self._stomp.receipt(receipt)

    def _error(self, message: str, detail: str, receipt: str | None) -> str:
        return self._stomp.error(message, f"{message}. {detail}" if detail else message, receipt)

    def unacknowledged(self, one: Feed | Badge) -> Collection[object]:
        return self._stomp.unacknowledged(one.id)

    @property
    def refused(self) -> Collection[int]:
        return self._refused

    # Handling events.

    async def _begin(self) -> None:
        """Do nothing: the client speaks first."""

    async def _take(self, data: str | bytes) -> None:
        frames = self._stomp.frames
        self._stomp.receive_data(data)
        events = 0
        while self._closing is None and (event := self._next_event()) is not None:
            await self._handle(event)
            events += 1
            if events % EVENTS_A_TURN == 0:
                await asyncio.sleep(0)  # one message may hold thousands of frames: yield to other tasks
        if self._closing is None and self._stomp.frames == frames:
            self._count_frames(1, 0)  # a heart-beat, or a piece of a frame, costs as much as a small frame

    def _next_event(self) -> stomp.Event | None:
        frames, settlements = self._stomp.frames, self._stomp.settlements
        event = self._stomp.next_event()
        if self._stomp.frames != frames:
            self._count_frames(self._stomp.frames - frames, self._stomp.settlements - settlements)
        return event if self._closing is None else None

    async def _handle(self, event: stomp.Event) -> None:
        match event:
            case stomp.Connect():
                await self._connect(event)
            case stomp.Subscribe():
                await self._subscribe(event)
            case stomp.Unsubscribe():
                self._unsubscribe(event)
            case stomp.Ack():
                delivered = [id for id in event.tokens if isinstance(id, int) and id != NO_DELIVERY]
                self._refused.difference_update(delivered)
                self._acknowledge(delivered, event.receipt)
            case stomp.Nack():
                # A notification that the client refuses stays unread and undelivered: there is nothing to write.
                refused = (id for id in event.tokens if isinstance(id, int) and id != NO_DELIVERY)
                self._refused.update(islice(refused, REFUSED - len(self._refused)))
                self.send_receipt(event.receipt)
                self._go_on()
            case stomp.Disconnect():
                await self._disconnect(event)
            case stomp.Send():
                await self._obey(event)
            case stomp.Begin() | stomp.Abort():
                self.send_receipt(event.receipt)
            case stomp.Commit():
                self._commit(event)
            case stomp.Invalid():
                self._fail(event.message, self._advice(event), event.receipt, reason=event.reason)

    def _advice(self, event: stomp.Invalid) -> str:
        if not self._greeted:
            return f"{event.detail} {PLAIN_JSON}".lstrip()
        if hasattr(self._gateway.frame_limits, event.reason):
            return f"{event.detail} {whose_limit(f'max_{event.reason}')}".lstrip()
        return event.detail

    async def _connect(self, event: stomp.Connect) -> None:
        receipt = event.headers.get("receipt")
        identity = await self._identify(lambda: _token(event.headers), receipt)
        if identity is None:
            return
        try:
            self._claim(identity.user)
        except Refused as refused:
            self._fail(str(refused), receipt=receipt, code=TRY_AGAIN_LATER, reason=refused.reason)
            return
        self._identity = identity
        self._greeted = True
        self._give(self._stomp.connected(identity.user))

    async def _subscribe(self, event: stomp.Subscribe) -> None:
        assert self._identity is not None, "the protocol does not allow SUBSCRIBE before CONNECT"
        topic = topic_of(event.destination)
        if topic is None and event.destination not in (NOTIFICATIONS, UNREAD):
            self._fail(
                f"there is no destination {event.destination}",
                f"Subscribe to {NOTIFICATIONS} for the notifications of the token's user, to {UNREAD} for the number "
                f"of unread ones, or to {DESTINATION}NAME for a topic, whose name has 1 to 249 characters without "
                "/ * # : and control characters.",
                event.receipt,
                reason="destination",
            )
        elif topic is not None and not self._gateway.may_follow(self._identity, topic):
            self._fail(
                f"the token does not allow {event.destination}",
                "The token's topics claim must contain a pattern that matches the name.",
                event.receipt,
                POLICY_VIOLATION,
                reason="topic",
            )
        elif len(self._subscriptions) >= (most := self._gateway.settings.max_subscriptions):
            message = f"a session may have at most {most} subscriptions"
            advice = f"UNSUBSCRIBE from one first. {whose_limit('max_subscriptions')}"
            self._fail(message, advice, event.receipt, reason="subscriptions")
        else:
            await self._follow(self._open(event, topic))

    def _open(self, event: stomp.Subscribe, topic: str | None) -> Feed | Badge:
        auto, begun = event.ack == "auto", partial(self.send_receipt, event.receipt)
        if topic is not None:
            return self._gateway.open_topic(self, topic, event.id, auto, begun)
        if event.destination == UNREAD:
            return self._gateway.open_badge(self, event.id, auto, begun)
        return self._gateway.open_feed(self, event.id, auto, begun)

    def _unsubscribe(self, event: stomp.Unsubscribe) -> None:
        if closed := self._subscriptions.pop(event.id, None):
            closed.end()
            self._gateway.close(closed)
        self.send_receipt(event.receipt)

    async def _obey(self, event: stomp.Send) -> None:
        if event.destination == READ:
            self._read(event)
            await asyncio.sleep(0)  # one message may hold a thousand of these, and each scans all that was sent
        elif event.destination == TOKEN:
            await self._renew(event.body.decode("ascii", "replace").strip(), event.receipt)
            await asyncio.sleep(0)  # a signature takes up to a millisecond
        else:
            message, advice = f"nothing can be sent to {event.destination}", f"Send to {READ} or {TOKEN}."
            self._fail(message, advice, event.receipt, reason="destination")

    def _read(self, event: stomp.Send) -> None:
        try:
            ids = parse_read(event.body)
            if ids is None:
                self._check_that_all_is_known()
        except ValueError as problem:
            self._fail(f"the message to {READ} cannot be processed", str(problem), event.receipt)
        else:
            self._mark(ids, event.receipt)

    def _check_that_all_is_known(self) -> None:
        """Raise ValueError if it is not known what the client has."""
        if not self._own_feeds():
            raise ValueError(f"Subscribe to {NOTIFICATIONS} first: {ALL} marks what was received there.")
        if len(self._refused) >= REFUSED:
            raise ValueError(f"{REFUSED} messages have been refused with NACK: give the ids of what was read instead.")

    def _commit(self, event: stomp.Commit) -> None:
        """Answer COMMIT: the transaction's events have been handled, and the receipt confirms that all is written."""
        if event.receipt is not None and self._may_promise(event.receipt):
            before: list[asyncio.Future[Any]] = [self._gateway.acknowledgements.written(), *self._marking]
            written = asyncio.gather(*map(asyncio.shield, before), return_exceptions=True)
            self._answer_when(written, event.receipt)

    async def _disconnect(self, event: stomp.Disconnect) -> None:
        last = None
        if event.receipt is not None:
            # The receipt confirms that everything before it is written, acknowledgements included. Otherwise none is
            # sent.
            before: set[asyncio.Future[Any]] = {self._gateway.acknowledgements.written(), *self._marking}
            _, unwritten = await asyncio.wait(before, timeout=CLOSE_TIMEOUT)
            await asyncio.sleep(0)  # let the receipts that waited for the same go first
            if not unwritten and self._closing is None:
                last = self._receipt(event.receipt)
        self.close(NORMAL, last)


def _token(headers: Mapping[str, str]) -> str | None:
    """Return the token of a CONNECT frame, from its header `Authorization: Bearer TOKEN` in any capitalisation."""
    for name, value in headers.items():
        if name.lower() == "authorization":
            return bearer(value)
    return None

"""One client: a WebSocket, its subscriptions, and one bounded queue to the socket, in either protocol.

`StompSession` and `JsonSession` encode messages and decode what the client requests; everything else is here, once. The
methods that other parts call (`send_message`, `close`) never wait: a frame is written to the socket if it can take it
at once. Otherwise it is queued, and a writer task, which exists only while the queue is not empty, writes it. A client
that reads slowly blocks its own writer and nobody else.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from sys import getsizeof
from typing import TYPE_CHECKING, Any, ClassVar

from rowbell.auth import Identity
from rowbell.config import environment_name
from rowbell.errors import KeysUnavailable, TokenError
from rowbell.gateway.badge import Badge
from rowbell.gateway.feed import Feed
from rowbell.gateway.rate import RateMeter
from rowbell.gateway.subscription import PAGE, Delivery
from rowbell.gateway.topics import DESTINATION
from rowbell.metrics import REFUSED

if TYPE_CHECKING:
    from rowbell.gateway.gateway import Gateway

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Write = Callable[[str], bool]
"""Writes a text message and returns True if the socket can take it at once; otherwise writes nothing, returns False."""

QUEUE_FRAMES = 1000
QUEUE_OCTETS = 1 << 20
"""Bounds of the queue of one socket; beyond either, a subscription goes back to reading from SQL. A character takes
four octets of memory if the frame contains a single emoji."""

CLOSE_TIMEOUT = 5.0
"""Seconds for the queue to reach a client whose session is being closed."""

NO_DELIVERY = 0
"""In place of a notification's id: this frame delivers nothing that is recorded in `notification_delivery`."""
AN_ANSWER = -1
"""In place of a notification's id: this frame is a receipt or the answer to a ping."""

PROMISES = 1000
"""Receipts of one session that may wait for PostgreSQL to write deliveries or marks."""
RENEWALS_A_SECOND = 10
"""Tokens a second that a session may send, in bursts of two seconds' worth: each counts as that fraction of the frame
rate, because a P-384 signature takes 0.4 ms to verify."""
ANSWER_CHARACTERS = 64 * 1024
"""Characters of answers that may be queued for a client that requests them but does not read."""

NORMAL, PROTOCOL_ERROR, NOT_UTF8, POLICY_VIOLATION, TOO_LARGE = 1000, 1002, 1007, 1008, 1009
RESTARTING, TRY_AGAIN_LATER = 1012, 1013
"""WebSocket close codes: RFC 6455, section 7.4.1, and the IANA registry."""


def whose_limit(setting: str) -> str:
    """Return the sentence that names the setting whose limit a client has exceeded."""
    return f"The limit is the gateway's, {environment_name(setting)}."


class Session(ABC):
    """The session of one client, from the accepted handshake until either side closes. `Gateway.serve` runs it.

    What the client does wrong never raises: the session ends with an ERROR and a close code.
    """

    RENEWAL: ClassVar[str]
    """Advice on sending a newer token, for a client whose session ended because its token expired."""

    def __init__(self, gateway: Gateway, identity: Identity | None, receive: Receive, send: Send, write: Write) -> None:
        self._gateway = gateway
        self._receive = receive
        self._send = send
        self._write = write
        self._subscriptions: dict[str, Feed | Badge] = {}
        """Tracks subscription id → the subscription."""
        self._promised = 0
        """Tracks how many receipts wait for PostgreSQL."""
        self._marking: dict[asyncio.Future[bool], list[str]] = {}
        """Tracks the client's unfinished requests to mark rows as read → the receipts that wait for each."""
        self._queue: deque[tuple[str, int]] = deque()
        """Tracks frames that wait for the socket, each with the id of the notification that writing it delivers."""
        self._queued = 0
        """Tracks the memory that the queue takes, in octets, and `_owed` the characters of answers in it."""
        self._owed = 0
        self._writer: asyncio.Task[None] | None = None
        self._closing: int | None = None
        """Tracks the close code once the session is ending: nothing more is queued then."""
        self._task: asyncio.Task[Any] | None = None
        now = asyncio.get_running_loop().time()
        self._opened_at = self._received_at = self._sent_at = now
        self._rate = RateMeter(gateway.settings.max_frame_rate)
        self._answers = 0
        """Tracks how many more ACKs or NACKs the client may send that do not count as frames."""
        self._identity = identity
        """Tracks the identity of the newest token; None until there is one."""

    # What each protocol implements.

    @abstractmethod
    async def _begin(self) -> None:
        """Begin the session: the socket is open, and nothing has been received."""

    @abstractmethod
    async def _take(self, data: str | bytes) -> None:
        """Handle one WebSocket message of the client."""

    @abstractmethod
    def _message(self, feed: Feed, delivery: Delivery, delivers: int) -> str:
        """Encode a change. In a feed that the client acknowledges, it counts as unacknowledged from now on."""

    @abstractmethod
    def _count(self, badge: Badge, body: str) -> str:
        """Encode a number of unread rows, which `body` contains as JSON."""

    @abstractmethod
    def _receipt(self, receipt: str) -> str: ...

    @abstractmethod
    def _error(self, message: str, detail: str, receipt: str | None) -> str:
        """Encode an ERROR, the last frame."""

    @abstractmethod
    def unacknowledged(self, one: Feed | Badge) -> Collection[object]:
        """Return what waits for the client's ACK: for each message the id that it delivers, or NO_DELIVERY."""

    @property
    def refused(self) -> Collection[int]:
        """The ids of notifications that the client has refused, which it therefore does not have."""
        return ()

    # What other parts call.

    @property
    def user(self) -> str | None:
        """The user that the token names; None until there is one."""
        return None if self._identity is None else self._identity.user

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return self._writer is None and not self._queue

    @property
    def max_unacknowledged(self) -> int:
        """How many messages of a subscription may wait for the client's ACK."""
        return self._gateway.settings.max_unacknowledged

    def has_room(self) -> bool:
        """Whether the queue takes another frame."""
        return len(self._queue) < QUEUE_FRAMES and self._queued < QUEUE_OCTETS

    def send_message(self, feed: Feed, delivery: Delivery) -> None:
        """Send a change of a feed; nothing once the session is closing."""
        if self._closing is not None:
            return
        event, change, _ = delivery
        self._answers += 1
        # A change of an unread row also delivers it: the row may have been hidden when it was created.
        hands_out = event == "created" or (event == "updated" and not change.read)
        delivers = change.id if hands_out and feed.topic is None else NO_DELIVERY
        self._give(self._message(feed, delivery, delivers), delivers if feed.auto else NO_DELIVERY)

    def send_receipt(self, receipt: str | None) -> None:
        """Send a receipt, if the client asked for one; nothing once the session is closing."""
        if receipt is not None and self._closing is None:
            self._answer(self._receipt(receipt))

    def send_unread(self, badge: Badge, body: str) -> None:
        """Send a number of unread rows, as JSON; nothing once the session is closing."""
        if self._closing is None:
            self._answers += 1
            self._give(self._count(badge, body))

    def on_their_way(self, feed: Feed) -> list[int]:
        """Return the ids of unread rows that the feed has sent but the client is not known to have received."""
        waiting = (id for _, id in self._queue) if feed.auto else self.unacknowledged(feed)
        return [id for id in waiting if isinstance(id, int) and id > NO_DELIVERY]

    def close(self, code: int, last: str | None = None) -> None:
        """Write what is queued, then close, within CLOSE_TIMEOUT; nothing if the session is already closing.

        The `last` frame is written right before the close: a client that has read it may hang up or close by itself.
        """
        if self._closing is not None:
            return
        self._closing = code
        if last is not None:
            self._line_up(last, NO_DELIVERY)
        self._start_writer()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut)

    def beat(self, now: float) -> None:
        """Check whether the session may go on; called about every second, with the loop's time."""
        if self._has_expired():
            self._fail("token expired", self.RENEWAL, code=POLICY_VIOLATION, reason="expired")

    def check_token(self) -> None:
        """End the session if its token has been revoked."""
        if self._identity is not None and self._gateway.revokes(self._identity):
            self._fail("token revoked", "Log in again and connect with a new one.", None, POLICY_VIOLATION, "revoked")

    # Receiving.

    async def run(self) -> None:
        """Serve the client until either side closes."""
        self._task = asyncio.current_task()
        try:
            await self._begin()
            while (message := await self._receive())["type"] == "websocket.receive":
                self._received_at = asyncio.get_running_loop().time()
                await self._take(message.get("text") or message.get("bytes") or "")
        except asyncio.CancelledError:
            if self._closing is None:
                raise
        finally:
            self._end()

    async def _identify(self, token: Callable[[], str | None], receipt: str | None) -> Identity | None:
        """Return the identity that the token names; None if there is none, and the session ends."""
        try:
            identity = await self._gateway.identify(self._identity, token())
        except KeysUnavailable as error:
            self._fail(str(error), receipt=receipt, code=TRY_AGAIN_LATER, reason="keys")
        except TokenError as error:
            self._fail(str(error), receipt=receipt, code=POLICY_VIOLATION, reason="token")
        else:
            return identity if self._closing is None else None
        return None

    async def _renew(self, token: str, receipt: str | None) -> None:
        """Take a newer token of the same user: from now on the session lasts as long as this one."""
        self._count_frames(self._gateway.settings.max_frame_rate // RENEWALS_A_SECOND, answers=0)
        identity = await self._identify(lambda: token, receipt)
        if identity is None:
            return
        self._identity = identity
        topics = [each.topic for each in self._subscriptions.values() if isinstance(each, Feed) and each.topic]
        if lost := [topic for topic in topics if not self._gateway.may_follow(identity, topic)]:
            message = f"the new token does not allow {DESTINATION}{lost[0]}"
            self._fail(message, receipt=receipt, code=POLICY_VIOLATION, reason="topic")
        self.send_receipt(receipt)

    def _has_expired(self) -> bool:
        return (
            self._identity is not None
            and self._identity.expires_at is not None
            and time.time() > self._identity.expires_at + self._gateway.leeway
        )

    async def _follow(self, *opened: Feed | Badge) -> None:
        """Begin these subscriptions once presence knows their recipients, or the wait for that has timed out."""
        self._subscriptions.update((each.id, each) for each in opened)
        for recipient in {each.recipient for each in opened}:
            await self._gateway.attendance.known(recipient)
        for each in opened:
            each.drained()

    def _own_feeds(self) -> list[Feed]:
        """Return the subscriptions to the user's own notifications."""
        return [each for each in self._subscriptions.values() if isinstance(each, Feed) and each.topic is None]

    def _mark(self, ids: Collection[int] | None, receipt: str | None) -> None:
        """Mark these rows as read, or with None all that the client has. The receipt confirms that it is written."""
        assert self.user is not None
        if ids is None:
            marked = self._gateway.mark_given(self.user, self._own_feeds())
        else:
            marked = self._gateway.mark_ids(self.user, ids, self._own_feeds())
        if marked is None:
            self._fail(
                "too many rows already wait to be marked as read: try again later",
                "PostgreSQL is slow or unavailable: these rows, and those already waiting, are still unread.",
                receipt,
                TRY_AGAIN_LATER,
                "marks",
            )
            return
        if marked not in self._marking:
            self._marking[marked] = []
            marked.add_done_callback(self._marked)
        if receipt is not None and self._may_promise(receipt):
            self._marking[marked].append(receipt)

    def _marked(self, done: asyncio.Future[bool]) -> None:
        receipts = self._marking.pop(done)
        self._promised -= len(receipts)
        if done.cancelled():
            return
        if not done.result():
            self._fail(
                "the rows could not be marked as read: the database refused",
                receipt=receipts[0] if receipts else None,
                code=POLICY_VIOLATION,
                reason="marks",
            )
        for receipt in receipts:
            self.send_receipt(receipt)

    def _acknowledge(self, delivered: Iterable[int], receipt: str | None) -> None:
        """Record that the client has received these notifications, and send it more. The receipt confirms that it is
        written.
        """
        assert self.user is not None
        for id in delivered:
            self._gateway.acknowledgements.add(id, self.user)
        if receipt is not None and self._may_promise(receipt):
            self._answer_when(self._gateway.acknowledgements.written(), receipt)
        self._go_on()

    def _go_on(self) -> None:
        """Let subscriptions continue that waited for an empty queue, or for an answer of the client."""
        for each in tuple(self._subscriptions.values()):
            each.drained()

    def _may_promise(self, receipt: str) -> bool:
        """Count a receipt that waits for PostgreSQL. If there are too many, return False and end the session."""
        if self._promised >= PROMISES:
            message = f"{PROMISES} receipts already wait for PostgreSQL: try again later"
            self._fail(message, receipt=receipt, code=TRY_AGAIN_LATER, reason="receipts")
            return False
        self._promised += 1
        return True

    def _answer_when(self, written: asyncio.Future[Any], receipt: str) -> None:
        """Send a promised receipt as soon as `written` is done."""

        def answer(_: asyncio.Future[Any]) -> None:
            self._promised -= 1
            self.send_receipt(receipt)

        written.add_done_callback(answer)

    def _count_frames(self, frames: int, answers: int) -> None:
        """Count frames from the client, of which `answers` are ACK or NACK; the session ends if they come too fast.

        One ACK or NACK per message is expected of the client, and may come much faster than a person acts.
        """
        settings, asked_for = self._gateway.settings, min(answers, self._answers)
        # This includes ended subscriptions, whose answers may still be on their way.
        most = (settings.max_unacknowledged + PAGE) * settings.max_subscriptions
        self._answers = min(self._answers - asked_for, most)
        if frames == asked_for:
            return
        if self._rate.is_exceeded(asyncio.get_running_loop().time(), frames - asked_for):
            self._fail(
                f"more than {settings.max_frame_rate} frames a second",
                f"Send fewer, or mark several rows as read with one frame. {whose_limit('max_frame_rate')}",
                code=POLICY_VIOLATION,
                reason="frame_rate",
            )

    def _fail(
        self,
        message: str,
        detail: str = "",
        receipt: str | None = None,
        code: int = PROTOCOL_ERROR,
        reason: str = "protocol",
    ) -> None:
        """Send ERROR, then close with `code`: the close is what makes clients reconnect. `reason` is counted."""
        if self._closing is not None:
            return
        REFUSED[reason].inc()
        self.close(code, last=self._error(message, detail, receipt))

    # Sending.

    def _answer(self, frame: str) -> None:
        """Send what the client has requested, or end the session if it does not read."""
        if self._owed > ANSWER_CHARACTERS:
            self._fail("receipts were requested but not read", code=POLICY_VIOLATION, reason="receipts")
        else:
            self._give(frame, AN_ANSWER)

    def _give(self, frame: str, delivers: int = NO_DELIVERY) -> None:
        """Write a frame to the socket, or queue it."""
        if self._closing is not None:
            return
        if not self._queue and self._write(frame):
            self._written(delivers)
            return
        self._line_up(frame, delivers)
        self._start_writer()

    def _line_up(self, frame: str, delivers: int) -> None:
        self._queue.append((frame, delivers))
        self._queued += getsizeof(frame)
        if delivers == AN_ANSWER:
            self._owed += len(frame)

    def _written(self, delivers: int) -> None:
        """Record that a frame has been written to the socket."""
        self._sent_at = asyncio.get_running_loop().time()
        if delivers > NO_DELIVERY:
            assert self.user is not None, "a delivery needs a user"
            self._gateway.acknowledgements.add(delivers, self.user)

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write_on())

    async def _write_on(self) -> None:
        try:
            await self._write_queue()
            if self._closing is not None:
                await self._send({"type": "websocket.close", "code": self._closing, "reason": ""})
        except (OSError, RuntimeError):
            # The client is gone, or uvicorn closed because of what it sent (too large, not UTF-8): `run` is told.
            self._closing = self._closing or NORMAL
            self._queue.clear()
        finally:
            self._writer = None
        if self._closing is None:
            self._go_on()

    async def _write_queue(self) -> None:
        while self._queue:
            frame, delivers = self._queue[0]
            await self._send({"type": "websocket.send", "text": frame})
            self._queue.popleft()
            self._queued -= getsizeof(frame)
            if delivers == AN_ANSWER:
                self._owed -= len(frame)
            self._written(delivers)

    # Ending.

    def _cut(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def _end(self) -> None:
        self._closing = self._closing or NORMAL
        for each in self._subscriptions.values():
            each.end()
            self._gateway.close(each)
        self._subscriptions.clear()
        if self._writer is not None:
            self._writer.cancel()
        self._queue.clear()

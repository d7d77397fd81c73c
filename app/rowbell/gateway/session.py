"""One client: a WebSocket, the STOMP connection over it, its subscriptions, and one bounded queue to the socket.

What others call (`send_message`, `close`) never waits: frames go into the queue, and a writer task, which exists only
while the queue is not empty, takes them to the socket. A client that reads slowly parks its own writer, nobody else.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from rowbell.auth import Identity, bearer
from rowbell.errors import KeysUnavailable, TokenError
from rowbell.gateway.badge import Badge
from rowbell.gateway.feed import Feed
from rowbell.gateway.reading import ALL, parse_read
from rowbell.gateway.subscription import Delivery
from rowbell.logs import get_logger
from rowbell.notification import with_event
from rowbell.stomp import server as stomp

if TYPE_CHECKING:
    from rowbell.gateway.gateway import Gateway

log = get_logger("gateway.session")

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

NOTIFICATIONS = "/user/queue/notifications"
"""The destination of a user's own notifications; whose they are is the token's business alone."""
UNREAD = "/user/queue/unread"
"""The destination that tells how many of them are unread."""
READ = "/app/notifications/read"
"""Where a client says which of them its user has read."""
TOKEN = "/app/token"
"""Where a client sends a newer token, so that its session outlives the one before."""

QUEUE_FRAMES = 1000
QUEUE_CHARACTERS = 1 << 20
"""Bounds of what waits for one socket: beyond either a subscription goes back to reading from SQL."""

CONNECT_TIMEOUT = 10.0
"""Seconds until a connection must have sent CONNECT."""
CLOSE_TIMEOUT = 5.0
"""Seconds for the queue to reach a client that is being closed."""

NO_DELIVERY = 0
"""Instead of a notification's id: this frame hands out nothing that `notification_delivery` should know of."""
A_RECEIPT = -1
"""Instead of a notification's id: this frame is a receipt."""

SUBSCRIPTIONS = 32
"""Of one session: each change of its user is written once for each."""
MARKING = 1000
"""Receipts of messages that mark rows as read, of one session, which may wait for PostgreSQL."""
REFUSED = 5000
"""Messages of one session, refused with NACK, that are remembered."""
RECEIPT_CHARACTERS = 64 * 1024
"""Receipts that may wait for a client that asks for them and does not read."""

NORMAL, PROTOCOL_ERROR, POLICY_VIOLATION, RESTARTING, TRY_AGAIN_LATER = 1000, 1002, 1008, 1012, 1013
"""WebSocket close codes: RFC 6455, section 7.4.1, and the IANA registry."""


class Session:
    def __init__(
        self, gateway: Gateway, subprotocol: str | None, identity: Identity | None, receive: Receive, send: Send
    ) -> None:
        self._gateway = gateway
        self._receive = receive
        self._send = send
        self._stomp = stomp.Connection(secrets.token_urlsafe(12), subprotocol=subprotocol)
        self._subscriptions: dict[str, Feed | Badge] = {}
        """Tracks subscription id → what it gives."""
        self._marking: dict[asyncio.Future[bool], list[str]] = {}
        """Tracks what the client has marked as read and is not written yet: → the receipts that wait for it."""
        self._refused: set[int] = set()
        """Tracks the notifications that the client has refused (NACK) and not acknowledged since."""
        self._queue: deque[tuple[str, int]] = deque()
        """Tracks frames on their way to the socket, each with the id of what it delivers by being written."""
        self._queued = 0
        """Tracks the characters in the queue; `_owed`, those of receipts among them."""
        self._owed = 0
        self._writer: asyncio.Task[None] | None = None
        self._closing: int | None = None
        """Tracks the close code, once the session is to end: nothing is queued any more."""
        self._task: asyncio.Task[Any] | None = None
        now = asyncio.get_running_loop().time()
        self._opened_at = self._received_at = self._sent_at = now
        self._identity = identity
        """Tracks whom the newest token names, and until when; None until CONNECT if the handshake had no token."""
        self._greeted = False

    # What others call.

    @property
    def user(self) -> str | None:
        """Who the token says it is; None before CONNECT if the handshake had no token."""
        return None if self._identity is None else self._identity.user

    @property
    def idle(self) -> bool:
        """Is everything written?"""
        return self._writer is None and not self._queue

    def has_room(self) -> bool:
        return len(self._queue) < QUEUE_FRAMES and self._queued < QUEUE_CHARACTERS

    def send_message(self, feed: Feed, delivery: Delivery) -> None:
        if self._closing is not None:
            return
        event, change, replayed = delivery
        headers = f"event:{event}\nnotification-id:{change.id}\n"
        if event != "deleted":
            headers += f"version:{change.version}\n"
        if replayed:
            headers += "replayed:true\n"
        # A change of an unread row hands it out too: it may have been hidden when it was created.
        delivers = change.id if event == "created" or (event == "updated" and not change.read) else NO_DELIVERY
        frame = self._stomp.message(feed.id, headers, with_event(event, change), delivers)
        self._enqueue(frame, delivers if feed.auto else NO_DELIVERY)

    def send_receipt(self, receipt: str | None) -> None:
        if receipt is None or self._closing is not None:
            return
        if self._owed > RECEIPT_CHARACTERS:
            self._fail("receipts are asked for and not read", code=POLICY_VIOLATION)
            return
        frame = self._stomp.receipt(receipt)
        self._owed += len(frame)
        self._enqueue(frame, A_RECEIPT)

    def send_unread(self, badge: Badge, body: str) -> None:
        if self._closing is None:
            self._enqueue(self._stomp.message(badge.id, "", body, NO_DELIVERY))

    def unacknowledged(self, one: Feed | Badge) -> Collection[object]:
        """What waits for the client's ACK: for each message the id that it delivers, or NO_DELIVERY."""
        return self._stomp.unacknowledged(one.id)

    def on_their_way(self, feed: Feed) -> list[int]:
        """The ids of unread rows that the feed has sent and the client, as far as one knows, not yet got."""
        waiting = (id for _, id in self._queue) if feed.auto else self.unacknowledged(feed)
        return [id for id in waiting if isinstance(id, int) and id > NO_DELIVERY]

    @property
    def refused(self) -> Collection[int]:
        """The ids of what the client has refused: it has not got that either."""
        return self._refused

    def close(self, code: int) -> None:
        """Write what is queued, then close; within CLOSE_TIMEOUT."""
        if self._closing is not None:
            return
        self._closing = code
        self._start_writer()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self._cut)

    def beat(self, now: float) -> None:
        """Called every second or so: heart-beats in both directions, and the time to CONNECT."""
        if not self._greeted:
            if now - self._opened_at > CONNECT_TIMEOUT:
                self._fail(f"no CONNECT within {CONNECT_TIMEOUT:.0f} seconds", code=POLICY_VIOLATION)
        elif self._has_expired():
            self._fail(
                "token expired", f"Send a new one to {TOKEN} in time, or connect with it.", code=POLICY_VIOLATION
            )
        elif self._stomp.receive_timeout is not None and now - self._received_at > self._stomp.receive_timeout:
            log.info("client_vanished", silent=round(now - self._received_at))
            self._fail("no heart-beat from the client")
        elif self._stomp.send_interval is not None and now - self._sent_at > self._stomp.send_interval and self.idle:
            self._enqueue(stomp.HEART_BEAT)

    # Receiving.

    async def run(self) -> None:
        """Serve the client until either side closes."""
        self._task = asyncio.current_task()
        try:
            while (message := await self._receive())["type"] == "websocket.receive":
                self._received_at = asyncio.get_running_loop().time()
                self._stomp.receive_data(message.get("text") or message.get("bytes") or "")
                while self._closing is None and (event := self._stomp.next_event()) is not None:
                    await self._handle(event)
        except asyncio.CancelledError:
            if self._closing is None:
                raise
        finally:
            self._end()

    async def _handle(self, event: stomp.Event) -> None:
        match event:
            case stomp.Connect():
                await self._connect(event)
            case stomp.Subscribe():
                await self._subscribe(event)
            case stomp.Unsubscribe():
                self._unsubscribe(event)
            case stomp.Ack():
                self._acknowledge(event)
            case stomp.Nack():
                # What a client refuses stays unread and undelivered: there is nothing to write.
                refused = (id for id in event.tokens if isinstance(id, int) and id != NO_DELIVERY)
                self._refused.update(islice(refused, REFUSED - len(self._refused)))
                self.send_receipt(event.receipt)
            case stomp.Disconnect():
                await self._disconnect(event)
            case stomp.Send():
                await self._take(event)
            case stomp.Begin() | stomp.Abort():
                self.send_receipt(event.receipt)
            case stomp.Commit():
                self._commit(event)
            case stomp.Invalid():
                self._fail(event.message, event.body, event.receipt)

    async def _connect(self, event: stomp.Connect) -> None:
        identity = await self._identify(lambda: _token(event.headers), None)
        if identity is None:
            return
        self._identity = identity
        self._greeted = True
        self._enqueue(self._stomp.connected(identity.user))

    async def _renew(self, event: stomp.Send) -> None:
        """A newer token of the same user: the session lasts as long as this one."""
        identity = await self._identify(lambda: event.body.decode("ascii", "replace").strip(), event.receipt)
        if identity is not None:
            self._identity = identity
            self.send_receipt(event.receipt)

    async def _identify(self, token: Callable[[], str | None], receipt: str | None) -> Identity | None:
        """Whom the token names; None if the session ends because it names nobody."""
        try:
            identity = await self._gateway.identify(self._identity, token())
        except KeysUnavailable as error:
            self._fail(str(error), receipt=receipt, code=TRY_AGAIN_LATER)
        except TokenError as error:
            self._fail(str(error), receipt=receipt, code=POLICY_VIOLATION)
        else:
            return identity if self._closing is None else None
        return None

    def _has_expired(self) -> bool:
        return (
            self._identity is not None
            and self._identity.expires_at is not None
            and time.time() > self._identity.expires_at + self._gateway.leeway
        )

    async def _subscribe(self, event: stomp.Subscribe) -> None:
        assert self.user is not None, "the protocol lets nobody subscribe before CONNECT"
        if event.destination not in (NOTIFICATIONS, UNREAD):
            self._fail(
                f"there is no destination {event.destination}",
                f"Subscribe to {NOTIFICATIONS} or {UNREAD}: they give the notifications of the user whom the token "
                "names, and how many of them are unread.",
                event.receipt,
            )
            return
        if len(self._subscriptions) >= SUBSCRIPTIONS:
            self._fail(f"a session has at most {SUBSCRIPTIONS} subscriptions", receipt=event.receipt)
            return
        opened: Feed | Badge
        if event.destination == NOTIFICATIONS:
            opened = self._gateway.open_feed(self, event)
        else:
            opened = self._gateway.open_badge(self, event)
        self._subscriptions[event.id] = opened
        await self._gateway.attendance.known(self.user)
        opened.drained()

    def _unsubscribe(self, event: stomp.Unsubscribe) -> None:
        if closed := self._subscriptions.pop(event.id, None):
            closed.end()
            self._gateway.close(closed)
        self.send_receipt(event.receipt)

    async def _take(self, event: stomp.Send) -> None:
        if event.destination == READ:
            self._mark(event)
            await asyncio.sleep(0)  # a message may hold a thousand, and each looks at all that was sent
        elif event.destination == TOKEN:
            await self._renew(event)
        else:
            self._fail(f"nothing can be sent to {event.destination}", f"Send to {READ} or {TOKEN}.", event.receipt)

    def _mark(self, event: stomp.Send) -> None:
        """The user has read something. The receipt says that it is written."""
        assert self.user is not None
        feeds = [each for each in self._subscriptions.values() if isinstance(each, Feed)]
        try:
            ids = parse_read(event.body)
            if ids is None:
                self._check_that_all_is_known(feeds)
        except ValueError as problem:
            self._fail(f"the message to {READ} cannot be obeyed", str(problem), event.receipt)
            return
        if ids is None:
            marked = self._gateway.mark_given(self.user, feeds)
        else:
            marked = self._gateway.mark_ids(self.user, ids, feeds)
        if marked is None or sum(map(len, self._marking.values())) >= MARKING:
            self._fail("more waits to be marked as read than is kept: try again later", receipt=event.receipt)
            return
        if marked not in self._marking:
            self._marking[marked] = []
            marked.add_done_callback(self._marked)
        if event.receipt is not None:
            self._marking[marked].append(event.receipt)

    def _commit(self, event: stomp.Commit) -> None:
        """All that was in the transaction has been done; the receipt says that it is written."""
        if event.receipt is None:
            return
        receipt = event.receipt
        written = asyncio.gather(
            self._gateway.acknowledgements.written(), *map(asyncio.shield, self._marking), return_exceptions=True
        )
        written.add_done_callback(lambda _: self.send_receipt(receipt))

    def _check_that_all_is_known(self, feeds: list[Feed]) -> None:
        """ValueError if one cannot say what the client has."""
        if not feeds:
            raise ValueError(f"All of what? Subscribe to {NOTIFICATIONS} first: {ALL} marks what came.")
        if len(self._refused) >= REFUSED:
            raise ValueError(f"{REFUSED} messages were refused with NACK; name the ids of what was read.")

    def _marked(self, done: asyncio.Future[bool]) -> None:
        receipts = self._marking.pop(done)
        if done.cancelled():
            return
        if not done.result():
            self._fail(
                "the rows could not be marked as read: the database refused",
                receipt=receipts[0] if receipts else None,
                code=POLICY_VIOLATION,
            )
        for receipt in receipts:
            self.send_receipt(receipt)

    def _acknowledge(self, event: stomp.Ack) -> None:
        assert self.user is not None
        for id in event.tokens:
            if isinstance(id, int) and id != NO_DELIVERY:
                self._gateway.acknowledgements.add(id, self.user)
                self._refused.discard(id)
        if event.receipt is not None:
            receipt = event.receipt
            written = self._gateway.acknowledgements.written()
            written.add_done_callback(lambda _: self.send_receipt(receipt))
        for each in tuple(self._subscriptions.values()):
            each.drained()

    async def _disconnect(self, event: stomp.Disconnect) -> None:
        if event.receipt is not None:
            # The receipt says that everything before it stands: acknowledgements, too. If not, none is sent.
            before: set[asyncio.Future[Any]] = {self._gateway.acknowledgements.written(), *self._marking}
            _, unwritten = await asyncio.wait(before, timeout=CLOSE_TIMEOUT)
            await asyncio.sleep(0)  # receipts of what was waited for come first
            if not unwritten:
                self.send_receipt(event.receipt)
        self.close(NORMAL)

    def _fail(self, message: str, body: str = "", receipt: str | None = None, code: int = PROTOCOL_ERROR) -> None:
        """ERROR, then close with a real code: the close is what makes clients reconnect."""
        if self._closing is not None:
            return
        self._enqueue(self._stomp.error(message, body, receipt))
        self.close(code)

    # Sending.

    def _enqueue(self, frame: str, delivers: int = NO_DELIVERY) -> None:
        if self._closing is None:
            self._queue.append((frame, delivers))
            self._queued += len(frame)
            self._start_writer()

    def _start_writer(self) -> None:
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        try:
            await self._write_queue()
            if self._closing is not None:
                await self._send({"type": "websocket.close", "code": self._closing, "reason": ""})
        except (OSError, RuntimeError):
            # The client is gone, or uvicorn closed because of what it sent (too large, not UTF-8): `run` hears of it.
            self._queue.clear()
        finally:
            self._writer = None
        if self._closing is None:
            for each in tuple(self._subscriptions.values()):
                each.drained()

    async def _write_queue(self) -> None:
        user, acknowledgements = self.user, self._gateway.acknowledgements
        while self._queue:
            frame, delivers = self._queue[0]
            await self._send({"type": "websocket.send", "text": frame})
            self._queue.popleft()
            self._queued -= len(frame)
            if delivers == A_RECEIPT:
                self._owed -= len(frame)
            elif delivers != NO_DELIVERY and user is not None:
                acknowledgements.add(delivers, user)
        self._sent_at = asyncio.get_running_loop().time()

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


def _token(headers: Mapping[str, str]) -> str | None:
    """The token of a CONNECT frame: the header `Authorization: Bearer`, however it is capitalised."""
    for name, value in headers.items():
        if name.lower() == "authorization":
            return bearer(value)
    return None

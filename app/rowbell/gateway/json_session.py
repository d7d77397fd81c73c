"""A session without STOMP, for clients that are a few lines around `new WebSocket(url)`: one JSON object per message.

It is subscribed to the user's notifications and the number of unread ones from the start. An object with `event` is a
change of a notification, as in the body of a STOMP message; every other object has a `type` and no `event`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import msgspec

from rowbell.auth import Identity
from rowbell.gateway.badge import Badge
from rowbell.gateway.commands import ADVICE, Ack, Ping, Read, Token, parse_command
from rowbell.gateway.feed import Feed
from rowbell.gateway.session import NO_DELIVERY, Receive, Send, Session, Write
from rowbell.gateway.subscription import Delivery
from rowbell.notification import with_event

if TYPE_CHECKING:
    from rowbell.gateway.gateway import Gateway

ACK_MODES = ("auto", "client")
"""The values of `?ack=`: a notification counts as delivered when written to the socket, or when acknowledged."""

FEED, BADGE = "notifications", "unread"
"""The ids of a session's two subscriptions."""

LIVE = '{"type":"LIVE"}'
PONG = '{"type":"pong"}'

PING_AFTER = 25.0
"""Seconds without a message until the gateway pings: proxies cut connections that are silent for 55 to 60 seconds
(nginx, AWS, Heroku), and a client of six lines sends nothing."""
REASON_CHARACTERS = 300
"""The most characters of the reason in an ERROR, which may quote what the client sent: up to 64 KiB."""

_encode = msgspec.json.Encoder().encode


class JsonSession(Session):
    """A session that speaks plain JSON. Created by `Web` for one accepted WebSocket."""

    RENEWAL = 'Send a newer one as {"type":"token","token":"..."} before it expires, or connect with one.'

    def __init__(
        self,
        gateway: Gateway,
        identity: Identity,
        receive: Receive,
        send: Send,
        write: Write,
        ping: Callable[[], None],
        ack: str,
    ) -> None:
        """`ack` is the value of `?ack=`; one that is not in ACK_MODES ends the session with an ERROR."""
        super().__init__(gateway, identity, receive, send, write)
        self._ping = ping
        self._ack = ack
        self._unacknowledged = Unacknowledged()

    def beat(self, now: float) -> None:
        """Check the token, and ping a client that has been sent nothing for a while."""
        super().beat(now)
        if now - self._sent_at > PING_AFTER:
            self._sent_at = now
            self._ping()

    # Encoding messages.

    def _message(self, feed: Feed, delivery: Delivery, delivers: int) -> str:
        event, change, replayed = delivery
        if not feed.auto:
            self._unacknowledged.add(change.id, delivers)
        rendered = with_event(event, change)
        return '{"replayed":true,' + rendered[1:] if replayed else rendered

    def _count(self, badge: Badge, body: str) -> str:
        return '{"type":"UNREAD",' + body[1:]

    def _receipt(self, receipt: str) -> str:
        return _object(type="RECEIPT", receipt=receipt)

    def _error(self, message: str, detail: str, receipt: str | None) -> str:
        members = {"type": "ERROR", "message": message, "detail": detail, "receipt": receipt}
        return _object(**{name: value for name, value in members.items() if value})

    def unacknowledged(self, one: Feed | Badge) -> Collection[object]:
        return self._unacknowledged if isinstance(one, Feed) else ()

    # Handling commands.

    async def _begin(self) -> None:
        assert self.user is not None, "plain JSON needs a token in the handshake"
        if self._ack not in ACK_MODES:
            self._fail(f"?ack= must be {' or '.join(ACK_MODES)}")
            return
        self._give(_object(type="CONNECTED", user=self.user))
        await self._follow(
            self._gateway.open_badge(self, BADGE, auto=True),
            self._gateway.open_feed(self, FEED, auto=self._ack == "auto", begun=lambda: self._give(LIVE)),
        )

    async def _take(self, data: str | bytes) -> None:
        if self._closing is not None:
            return
        try:
            command = parse_command(data)
        except ValueError as problem:
            self._fail(f"the message cannot be processed: {str(problem)[:REASON_CHARACTERS]}", ADVICE)
            return
        self._count_frames(1, answers=isinstance(command, Ack))
        if self._closing is not None:
            return
        match command:
            case Ack():
                self._acknowledge(self._unacknowledged.settle(command.id), command.receipt)
            case Read():
                self._mark(command.ids, command.receipt)
            case Token():
                await self._renew(command.token, command.receipt)
            case Ping():
                self._answer(PONG)
                self.send_receipt(command.receipt)
        await asyncio.sleep(0)  # one read may hold many messages: yield to other tasks, among them the writer


class Unacknowledged(Collection[int]):
    """What the messages that wait for an acknowledgement deliver: for each a notification's id, or NO_DELIVERY."""

    def __init__(self) -> None:
        self._of: dict[int, list[int]] = {}
        """Tracks notification id → what each waiting message about it delivers, oldest first."""
        self._count = 0

    def add(self, id: int, delivers: int) -> None:
        """Add a message about notification `id`."""
        self._of.setdefault(id, []).append(delivers)
        self._count += 1

    def settle(self, id: int) -> list[int]:
        """Remove the oldest message about this notification, and return what it delivered: one id, or nothing."""
        waiting = self._of.get(id)
        if waiting is None:
            return []
        delivered = waiting.pop(0)
        self._count -= 1
        if not waiting:
            del self._of[id]
        return [] if delivered == NO_DELIVERY else [delivered]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return (delivers for waiting in self._of.values() for delivers in waiting)

    def __contains__(self, delivers: object) -> bool:
        return any(delivers == each for each in self)


def _object(**members: str) -> str:
    return _encode(members).decode()

"""The gateway: its parts, how it starts, and how it stops."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any

import msgspec

from rowbell.auth import Identity, Tokens
from rowbell.bus import Bus
from rowbell.config import DEFAULTS, Settings
from rowbell.errors import DatabaseError, TokenError
from rowbell.gateway.acknowledgements import Acknowledgements
from rowbell.gateway.attendance import Attendance
from rowbell.gateway.badge import Badge
from rowbell.gateway.feed import Feed
from rowbell.gateway.link import Link
from rowbell.gateway.marks import Marks
from rowbell.gateway.readiness import Readiness
from rowbell.gateway.registry import Registry
from rowbell.gateway.replay import Pager
from rowbell.gateway.revocations import Revocations
from rowbell.gateway.session import RESTARTING, Session
from rowbell.gateway.sweep import Sweeper
from rowbell.gateway.topics import allow, patterns, recipient_of
from rowbell.gateway.unread import Unread
from rowbell.inbox import Epoch, Inbox, Tick
from rowbell.logs import get_logger
from rowbell.metrics import SESSIONS
from rowbell.notification import Change
from rowbell.presence import Presence
from rowbell.stomp.server import Limits

log = get_logger("gateway")

BEAT = 1.0
"""Seconds between checks of all sessions (heart-beats, expiry): one timer for all of them."""
CLOSE_TIMEOUT = 1.5
"""Seconds that the clients of a stopping gateway have to read what is queued for them."""
STOP_RATE = 400
"""Sessions a second that the stopping gateways of one port close, so that their clients do not reach another gateway
all at once: fewer than it accepts (ROWBELL_MAX_CONNECT_RATE)."""
STOP_WINDOW = 15.0
"""Seconds that closing the sessions takes at most; with many sessions the rate is higher. Supervisors allow 30 seconds
for a stop, and other work follows."""
STOP_STEP = 0.1
"""Seconds between batches of sessions that are closed together."""
FLUSH_TIMEOUT = 5.0
"""Seconds for the last marks to be written, and again for the last acknowledgements."""
OFFERS_A_TURN = 200
"""Changes offered to feeds before yielding to the event loop: a few milliseconds."""


class Gateway:
    """One gateway: its parts, its open sessions, and the paths between them. All of it runs on one event loop."""

    def __init__(
        self,
        inbox: Inbox,
        presence: Presence,
        bus: Bus,
        tokens: Tokens,
        streaming: Callable[[], bool] = lambda: True,
        settings: Settings = DEFAULTS,
    ) -> None:
        """`streaming` says whether changes are being streamed at present; without it they count as always streamed."""
        self.settings = settings
        """The settings of the process."""
        self.frame_limits = Limits(
            frame=settings.max_frame,
            headers=settings.max_headers,
            header_line=settings.max_header_line,
            body=settings.max_body,
        )
        self._inbox = inbox
        self._tokens = tokens
        self._public_topics = patterns(settings.public_topics)
        self._registry = Registry()
        self._epoch: Epoch | None = None
        """Tracks the epoch of the database to which all state in memory belongs."""
        self._sessions: dict[Session, asyncio.Task[Any] | None] = {}
        """Tracks the open sessions, each with the task that serves it."""
        self._offered = 0
        """Tracks how many changes have been offered to feeds."""
        self.stopping = False
        self.acknowledgements = Acknowledgements(inbox)
        self.attendance = Attendance(presence, self._registry)
        self._link = Link(bus, self.attendance, self.deliver)
        self._pager = Pager(inbox, self._epoch_seen)
        self._unread = Unread(inbox, self._registry)
        self._marks = Marks(inbox)
        self._revocations = Revocations()
        self._sweeper = Sweeper(inbox, self._registry, self._found, self.attendance.note, streaming)
        self._readiness = Readiness(inbox, tokens, self._link, self._sweeper)

    def serves(self, recipient: str) -> bool:
        """Whether anyone is subscribed here to what is written for this recipient."""
        return recipient in self._registry

    # Life cycle.

    async def prepare(self) -> None:
        """Sweep once before any client connects, which finds the epoch. DatabaseError if the database is not usable."""
        await self._sweeper.sweep()

    async def run(
        self, serve: asyncio.Task[None], beside: Mapping[str, Callable[[], Coroutine[Any, Any, None]]]
    ) -> None:
        """Run until `serve`, the web server, ends. If any part fails before that, everything ends, with its error.

        `beside` maps names to coroutine functions that run in this process for as long as the gateway does.
        """
        async with asyncio.TaskGroup() as tasks:
            parts = [
                *(tasks.create_task(part(), name=name) for name, part in beside.items()),
                tasks.create_task(self._link.run(), name="link"),
                tasks.create_task(self.attendance.run(), name="attendance"),
                tasks.create_task(self._pager.run(self._offer), name="pager"),
                tasks.create_task(self._sweeper.run(), name="sweeper"),
                tasks.create_task(self._unread.run(), name="unread"),
                tasks.create_task(self._marks.run(), name="marks"),
                tasks.create_task(self.acknowledgements.run(), name="acknowledgements"),
                tasks.create_task(self._beat(), name="beat"),
            ]
            await serve
            for part in parts:
                part.cancel()

    async def stop(self) -> None:
        """Stop: be not ready and accept no sockets, remove presence, close the sessions gradually, and write the last
        marks and acknowledgements.
        """
        self.stopping = True
        await self.attendance.leave()
        sessions = list(self._sessions)
        rate = max(STOP_RATE / self.settings.workers, len(sessions) / STOP_WINDOW)
        together = math.ceil(rate * STOP_STEP)
        for number, session in enumerate(sessions):
            if number and number % together == 0:
                await asyncio.sleep(STOP_STEP)
            session.close(RESTARTING)
        if serving := [task for task in self._sessions.values() if task is not None]:
            _, slow = await asyncio.wait(serving, timeout=CLOSE_TIMEOUT)
            for task in slow:
                task.cancel()
        if late := await self._marks.drain(FLUSH_TIMEOUT):
            log.warning("marks_not_made", marks=late)
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self.acknowledgements.flush()
        except (TimeoutError, DatabaseError) as error:
            log.warning("deliveries_not_written", reason=str(error) or "timed out")
        log.info("gateway_stopped", sessions=len(sessions), cut=len(self._sessions))

    async def ready(self) -> str | None:
        """Return None if clients should be sent here, otherwise the reason why not, fit for anyone to read."""
        return "stopping" if self.stopping else await self._readiness.complaint()

    # Sessions and their feeds.

    async def serve(self, session: Session) -> None:
        """Serve one accepted client until either side closes."""
        self._sessions[session] = asyncio.current_task()
        SESSIONS.inc()
        try:
            session.check_token()  # it may have been revoked since the handshake
            await session.run()
        finally:
            del self._sessions[session]
            SESSIONS.dec()

    @property
    def leeway(self) -> int:
        """Seconds for which a token is still accepted after it has expired."""
        return self._tokens.leeway

    async def identify(self, known: Identity | None, token: str | None) -> Identity:
        """Return the identity that a token names; `known` is that of an earlier token of the same connection.

        TokenError if there is no valid token, or if it names another user than `known`; its subclass KeysUnavailable
        if the token cannot be checked at present.
        """
        if token is None:
            if known is None:
                raise TokenError("no token: send one as ?token=, or in CONNECT as Authorization: Bearer TOKEN")
            return known
        identity = await self._tokens.identify(token)
        if self.revokes(identity):
            raise TokenError("the token is refused: it was revoked")
        if known is not None and known.user != identity.user:
            raise TokenError("the token names a different user from the previous token on this connection")
        return identity

    def revokes(self, identity: Identity) -> bool:
        """Whether this identity's token has been revoked."""
        return self._revocations.refuse(identity)

    def open_feed(self, session: Session, id: str, auto: bool, begun: Callable[[], None] | None = None) -> Feed:
        """Open a subscription to the user's notifications; `begun` is called when the replay is complete."""
        assert session.user is not None
        feed = Feed(session, self._pager, session.user, id, auto, begun)
        self._registry.feeds.add(feed)
        return feed

    def open_topic(self, session: Session, topic: str, id: str, auto: bool, begun: Callable[[], None]) -> Feed:
        """Open a subscription to what is written for this topic from now on; `begun` is called when it is live."""
        feed = Feed(session, self._pager, recipient_of(topic), id, auto, begun, topic)
        self._registry.feeds.add(feed)
        return feed

    def may_follow(self, identity: Identity, topic: str) -> bool:
        """Whether the token, or ROWBELL_PUBLIC_TOPICS, allows this topic."""
        return allow(self._public_topics, topic) or allow(identity.topics, topic)

    def open_badge(self, session: Session, id: str, auto: bool, begun: Callable[[], None] | None = None) -> Badge:
        """Open a subscription to the user's number of unread rows; `begun` is called after the first number."""
        assert session.user is not None
        badge = Badge(session, session.user, id, auto, begun)
        self._registry.badges.add(badge)
        self._unread.recount([badge.recipient])
        return badge

    def close(self, one: Feed | Badge) -> None:
        """Forget a subscription that has ended."""
        if isinstance(one, Feed):
            self._registry.feeds.remove(one)
        else:
            self._registry.badges.remove(one)
        if one.recipient not in self._registry:
            self.attendance.note(one.recipient)

    # Marking as read; see `Marks` for the results. Marks are carried out even if the session ends.

    def mark_ids(self, user: str, ids: Collection[int], feeds: Collection[Feed]) -> asyncio.Future[bool] | None:
        """Mark these rows of `user` as read; `feeds` are those that may have shown some of them."""
        if self._epoch is None:
            return self._nothing_to_do()
        seen = {tx for feed in feeds for tx in feed.seen(ids)}
        return self._marks.mark_ids(user, ids, seen, self._epoch.id)

    def mark_given(self, user: str, feeds: Collection[Feed]) -> asyncio.Future[bool] | None:
        """Mark as read everything that the clients of these feeds have, and nothing that arrives later."""
        if self._epoch is None:
            return self._nothing_to_do()
        given = {feed: feed.given(self._epoch.id) for feed in feeds}
        return self._marks.mark_given(user, given, self._epoch.id)

    def _nothing_to_do(self) -> asyncio.Future[bool]:
        """Return a result for a moment between two epochs: no client has been given anything, and all are closing."""
        nothing: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        nothing.set_result(True)
        return nothing

    # Events.

    async def deliver(self, changes: list[Change]) -> None:
        """Deliver changes from the bus. This never waits for a socket: a full one has a writer task of its own."""
        self._unread.recount({change.recipient_id for change in changes})
        for change in changes:
            if change.recipient_id not in self._registry.feeds:
                continue
            if change.incomplete:
                self._pager.ask_whole(change.id)
                continue
            if change.deleted:
                change = msgspec.structs.replace(change, tx=self._sweeper.snapshot.widen(change.tx & 0xFFFFFFFF))
            await self._offer(change)

    async def _offer(self, change: Change) -> None:
        for feed in self._registry.feeds.of(change.recipient_id):
            feed.offer(change)
            self._offered += 1
            if self._offered % OFFERS_A_TURN == 0:
                await asyncio.sleep(0)  # a topic may have thousands of feeds: yield to other tasks

    def _epoch_seen(self, epoch: Epoch | None) -> bool:
        """Whether `epoch` is the one the sessions know. If not, close them all, so that their clients start afresh."""
        known, self._epoch = self._epoch, epoch
        if epoch is not None and (known is None or known.id == epoch.id):
            return True
        log.warning("epoch_changed", sessions=len(self._sessions))
        self._sweeper.forget()
        for session in tuple(self._sessions):
            session.close(RESTARTING)
        if epoch is None:
            self._sweeper.hurry()
        return False

    def _found(self, tick: Tick, changed: Iterable[str]) -> None:
        """Take what a sweep saw; `changed` are the recipients whose rows have changed."""
        self._epoch_seen(tick.epoch)
        self._unread.recount(changed)
        if self._revocations.learn(tick.revocations):
            for session in tuple(self._sessions):
                session.check_token()

    async def _beat(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(BEAT)
            now = clock()
            for session in tuple(self._sessions):
                session.beat(now)

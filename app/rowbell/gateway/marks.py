"""Marks rows as read for clients, for as long as it takes: what a client has asked for outlives its session.

One at a time for each user, and what a user asks for meanwhile is put together: so neither a thousand clicks nor a row
that somebody has locked holds up others, and the memory for it is bounded, however often clients reconnect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from rowbell.backoff import backoff
from rowbell.errors import RowbellError
from rowbell.gateway.feed import Feed
from rowbell.gateway.retry import until_answered
from rowbell.inbox import Given, Inbox
from rowbell.logs import get_logger

log = get_logger("gateway.marks")

AT_ONCE = 2
"""Users in work at a time, of the pool's connections: one with a million rows must not take all of them."""
IDS_OF_A_USER = 10_000
"""Ids that may wait for PostgreSQL: about 1 MB."""
IDS_OF_ALL = 1_000_000
"""The same for all users together."""
GIVEN_OF_A_USER = 64
"""Subscriptions whose content may wait to be marked: two sessions full of them."""
RETRY_CAP = 1.0
"""The longest pause before rows that somebody has locked are tried again, in seconds."""


@dataclass
class Pending:
    """What one user has asked for and is not in work yet."""

    epoch: UUID
    """In which `seen` means something."""
    done: asyncio.Future[bool]
    """True when it stands, False when PostgreSQL refused."""
    ids: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    """The transactions in which the user saw them."""
    given: dict[Feed, Given] = field(default_factory=dict)
    """Subscription → what it had been given when this was last asked for."""


class Marks:
    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._pending: dict[str, Pending] = {}
        """Tracks user → what waits."""
        self._ids = 0
        """Tracks how many ids wait, of all users."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Tracks user → the task that works for them, until nothing waits."""
        self._turns = asyncio.Semaphore(AT_ONCE)
        """Held while PostgreSQL works, not between two attempts."""
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Until cancelled."""
        async with self._group:
            await asyncio.Event().wait()

    # Asking, while `run` runs. The result is done when it stands (True) or PostgreSQL refused (False); None: so much
    # waits already that it is not taken.

    def mark_ids(
        self, user: str, ids: Collection[int], seen: Collection[int], epoch: UUID
    ) -> asyncio.Future[bool] | None:
        """These rows; `seen` as in `Inbox.mark_ids`."""
        pending = self._of(user, epoch)
        before = len(pending.ids)
        if before + len(ids) > IDS_OF_A_USER or self._ids + len(ids) > IDS_OF_ALL:
            return None
        pending.ids.update(ids)
        pending.seen.update(seen)
        self._ids += len(pending.ids) - before
        return self._start(user, pending)

    def mark_given(self, user: str, given: dict[Feed, Given], epoch: UUID) -> asyncio.Future[bool] | None:
        """What each of these subscriptions has been given."""
        pending = self._of(user, epoch)
        if len(pending.given.keys() | given.keys()) > GIVEN_OF_A_USER:
            return None
        pending.given.update(given)
        return self._start(user, pending)

    async def drain(self, within: float) -> int:
        """Wait for everything that has been asked for, so many seconds; for how many users it does not stand then."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks.values(), timeout=within)
        return len(late)

    # How it is done.

    def _of(self, user: str, epoch: UUID) -> Pending:
        pending = self._pending.get(user)
        if pending is None:
            return Pending(epoch, asyncio.get_running_loop().create_future())
        if pending.epoch != epoch:
            # Ids are the rows' for ever; transactions, and what subscriptions were given by them, are of their epoch.
            pending.epoch = epoch
            pending.seen.clear()
            pending.given.clear()
        return pending

    def _start(self, user: str, pending: Pending) -> asyncio.Future[bool]:
        self._pending[user] = pending
        if user not in self._tasks:
            self._tasks[user] = self._group.create_task(self._work(user), name="marks")
        return pending.done

    async def _work(self, user: str) -> None:
        try:
            while pending := self._pending.pop(user, None):
                self._ids -= len(pending.ids)
                pending.done.set_result(await self._carry_out(user, pending))
        finally:
            del self._tasks[user]

    async def _carry_out(self, user: str, pending: Pending) -> bool:
        marks = [partial(self._inbox.mark_given, user, given) for given in pending.given.values()]
        if pending.ids:
            marks.append(partial(self._inbox.mark_ids, user, pending.ids, pending.seen, pending.epoch))
        try:
            for mark in marks:
                await self._until_whole(mark)
        except Exception as error:  # a trigger or a CHECK of the application: no reason to end what serves everybody
            log.error("mark_refused", reason=_reason(error))
            return False
        return True

    async def _until_whole(self, mark: Callable[[], Awaitable[bool]]) -> None:
        for delay in backoff(first=0.05, cap=RETRY_CAP):
            if await until_answered(partial(self._in_turn, mark)):
                return
            await asyncio.sleep(delay)

    async def _in_turn(self, mark: Callable[[], Awaitable[bool]]) -> bool:
        async with self._turns:
            return await mark()


def _reason(error: Exception) -> str:
    """What PostgreSQL says first. The rest of its message, and of the driver's, quotes rows and parameters."""
    if isinstance(error, RowbellError):
        return str(error)
    said = getattr(getattr(error, "orig", None), "diag", None)
    return (said and said.message_primary) or type(error).__name__

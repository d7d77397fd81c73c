"""Marks rows as read for clients, however long it takes: a client's request outlives its session.

Each user's requests run one at a time, and those that arrive meanwhile are merged. So neither a thousand clicks nor a
row that someone has locked holds up other users, and memory is bounded however often clients reconnect.
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
"""Users served at the same time, each on a connection of the pool: users with a million rows must not take them all."""
IDS_OF_A_USER = 10_000
"""Ids of one user that may wait for PostgreSQL, in about 1 MB."""
IDS_OF_ALL = 1_000_000
"""Ids of all users together that may wait."""
GIVEN_OF_A_USER = 64
"""Subscriptions of one user whose content may wait to be marked: as many as two sessions may have by default."""
RETRY_CAP = 1.0
"""The longest pause, in seconds, before locked rows are tried again."""


@dataclass
class Pending:
    """One user's requests that have not been started."""

    epoch: UUID
    """The epoch to which `seen` and `given` belong."""
    done: asyncio.Future[bool]
    """The result: True once the rows are marked, False if PostgreSQL refused."""
    ids: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    """The transactions of the versions that the user has seen."""
    given: dict[Feed, Given] = field(default_factory=dict)
    """Subscription → what it had been given at the time of the latest request."""


class Marks:
    """The requests to mark as read of one gateway, which owns it and runs `run` as a task.

    The result of a request is a future: True once the rows are marked, False if PostgreSQL refused. It is None if too
    much is waiting already, and the request is not accepted.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._pending: dict[str, Pending] = {}
        """Tracks user → the requests that wait."""
        self._ids = 0
        """Tracks how many ids wait, for all users together."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """Tracks user → the task that carries out their requests, until none waits."""
        self._turns = asyncio.Semaphore(AT_ONCE)
        """Held during an attempt, not between two attempts."""
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Carry out requests until cancelled."""
        async with self._group:
            await asyncio.Event().wait()

    # Requests, to be made while `run` runs.

    def mark_ids(
        self, user: str, ids: Collection[int], seen: Collection[int], epoch: UUID
    ) -> asyncio.Future[bool] | None:
        """Mark these rows of `user` as read; `seen` as in `Inbox.mark_ids`."""
        pending = self._of(user, epoch)
        before = len(pending.ids)
        if before + len(ids) > IDS_OF_A_USER or self._ids + len(ids) > IDS_OF_ALL:
            return None
        pending.ids.update(ids)
        pending.seen.update(seen)
        self._ids += len(pending.ids) - before
        return self._start(user, pending)

    def mark_given(self, user: str, given: dict[Feed, Given], epoch: UUID) -> asyncio.Future[bool] | None:
        """Mark as read what each of these subscriptions has been given."""
        pending = self._of(user, epoch)
        if len(pending.given.keys() | given.keys()) > GIVEN_OF_A_USER:
            return None
        pending.given.update(given)
        return self._start(user, pending)

    async def drain(self, within: float) -> int:
        """Wait up to `within` seconds for all requests, and return how many users have unfinished ones."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks.values(), timeout=within)
        return len(late)

    # Private.

    def _of(self, user: str, epoch: UUID) -> Pending:
        pending = self._pending.get(user)
        if pending is None:
            return Pending(epoch, asyncio.get_running_loop().create_future())
        if pending.epoch != epoch:
            # Ids identify rows forever; transactions, and what subscriptions were given, belong to one epoch.
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
        except Exception as error:  # a trigger or CHECK of the application must not end the task group
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
    """Return the primary message of PostgreSQL. The rest of it, and the driver's text, quote rows and parameters."""
    if isinstance(error, RowbellError):
        return str(error)
    said = getattr(getattr(error, "orig", None), "diag", None)
    return (said and said.message_primary) or type(error).__name__

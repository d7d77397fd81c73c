"""Keeps the numbers of unread rows current. They are always counted in SQL, so they cannot drift."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from functools import partial

from rowbell.gateway.registry import Registry
from rowbell.gateway.retry import until_answered
from rowbell.inbox import Inbox

INTERVAL = 0.2
"""Seconds between two counts of one user, however much changes meanwhile."""
EXPIRY_INTERVAL = 1.0
"""Seconds between checks for expired rows: the table does not change when a row expires."""


class Unread:
    """Counts unread rows for the badges of one gateway, which owns it and runs `run` as a task. DatabaseUnavailable is
    retried; any other DatabaseError ends `run`.
    """

    def __init__(self, inbox: Inbox, registry: Registry) -> None:
        self._inbox = inbox
        self._badges = registry.badges
        self._changed: set[str] = set()
        """Tracks the recipients whose rows have changed since they were counted."""
        self._wanted = asyncio.Event()
        self._looked_at: datetime | None = None
        """Tracks the time (PostgreSQL's clock) up to which expired rows have been looked for."""

    def recount(self, recipients: Iterable[str]) -> None:
        """Request a count for each of these recipients that has a badge: their rows changed, or they subscribed."""
        before = len(self._changed)
        self._changed.update(recipient for recipient in recipients if recipient in self._badges)
        if len(self._changed) > before:
            self._wanted.set()

    async def run(self) -> None:
        """Count until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._count(), name="unread-count")
            tasks.create_task(self._watch_expiry(), name="unread-expiry")

    async def _count(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            changed, self._changed = self._changed, set()
            counts = await until_answered(partial(self._inbox.count_unread, changed))
            for recipient, count in counts.items():
                for badge in self._badges.of(recipient):
                    badge.show(count)
            await asyncio.sleep(INTERVAL)

    async def _watch_expiry(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL)
            if counted := self._badges.recipients():
                look = partial(self._inbox.expired, self._looked_at, counted)
                first_look = self._looked_at is None
                self._looked_at, expired = await until_answered(look)
                self.recount(counted if first_look else expired)
            else:
                self._looked_at = None

"""Who was handed what, written in batches: a row of `notification_delivery` for each."""

from __future__ import annotations

import asyncio
from collections import deque

from rowbell.backoff import backoff
from rowbell.errors import DatabaseUnavailable
from rowbell.inbox import Inbox
from rowbell.logs import get_logger

log = get_logger("gateway.acknowledgements")

BATCH = 2000
"""Rows of one INSERT: about 10 ms."""
LINGER = 0.1
"""Seconds that a first delivery waits for others to share its transaction: ten commits a second, not one a row."""


class Acknowledgements:
    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._waiting: list[tuple[int, str]] = []
        """Tracks deliveries not yet written: (notification id, user). A batch that failed stays here."""
        self._count = 0
        """Tracks how many have been written in all."""
        self._promises: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Tracks who waits until so many have been written in all."""
        self._added = asyncio.Event()
        self._flushing = asyncio.Lock()
        """Held by who writes: two at once would take the same batch."""

    def add(self, id: int, user: str) -> None:
        self._waiting.append((id, user))
        self._added.set()

    def written(self) -> asyncio.Future[None]:
        """Done when everything added so far is in the table."""
        until = self._count + len(self._waiting)
        if self._promises and self._promises[-1][0] == until:
            return self._promises[-1][1]
        promise: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._promises.append((until, promise))
        self._keep_promises()
        return promise

    async def run(self) -> None:
        """Write until cancelled; while PostgreSQL is away, keep and try again."""
        delays = backoff()
        while True:
            await self._added.wait()
            await asyncio.sleep(LINGER)
            try:
                await self.flush()
                delays = backoff()
            except DatabaseUnavailable as error:
                log.warning("deliveries_kept", deliveries=len(self._waiting), reason=str(error))
                await asyncio.sleep(next(delays))

    async def flush(self) -> None:
        """Write all that waits now: what comes meanwhile lingers. DatabaseUnavailable leaves the rest waiting."""
        async with self._flushing:
            self._added.clear()
            until = self._count + len(self._waiting)
            while self._count < until:
                batch = self._waiting[:BATCH]
                try:
                    await self._inbox.record_deliveries(batch)
                except DatabaseUnavailable:
                    self._added.set()
                    raise
                del self._waiting[: len(batch)]
                self._count += len(batch)
                self._keep_promises()

    def _keep_promises(self) -> None:
        while self._promises and self._promises[0][0] <= self._count:
            _, promise = self._promises.popleft()
            if not promise.done():
                promise.set_result(None)

"""Records deliveries in batches: one row of `notification_delivery` for each notification that a user was handed."""

from __future__ import annotations

import asyncio
from collections import deque

from rowbell.backoff import backoff
from rowbell.errors import DatabaseUnavailable
from rowbell.inbox import Inbox
from rowbell.logs import get_logger

log = get_logger("gateway.acknowledgements")

BATCH = 2000
"""Rows in one INSERT, which takes about 10 ms."""
LINGER = 0.1
"""Seconds that a delivery waits for others to share its transaction: ten commits a second instead of one per row."""


class Acknowledgements:
    """The deliveries of one gateway that are not in the table yet. Owned by `Gateway`, which runs `run` as a task."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._waiting: list[tuple[int, str]] = []
        """Tracks deliveries not yet written, as (notification id, user). A batch that failed stays here."""
        self._count = 0
        """Tracks how many deliveries have been written in total."""
        self._promises: deque[tuple[int, asyncio.Future[None]]] = deque()
        """Tracks the futures to resolve, each with the total (`_count`) at which it is due."""
        self._added = asyncio.Event()
        self._flushing = asyncio.Lock()
        """Held while writing: two writers would take the same batch."""

    def add(self, id: int, user: str) -> None:
        """Queue the delivery of notification `id` to `user`."""
        self._waiting.append((id, user))
        self._added.set()

    def written(self) -> asyncio.Future[None]:
        """Return a future that is done when everything added so far is in the table."""
        until = self._count + len(self._waiting)
        if self._promises and self._promises[-1][0] == until:
            return self._promises[-1][1]
        promise: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._promises.append((until, promise))
        self._keep_promises()
        return promise

    async def run(self) -> None:
        """Write until cancelled; while PostgreSQL is unavailable, keep the deliveries and retry."""
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
        """Write everything that is queued now, but not what is added meanwhile.

        DatabaseUnavailable: what has not been written stays queued.
        """
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

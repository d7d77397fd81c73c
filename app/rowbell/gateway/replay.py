"""Runs the queries that subscriptions request, many subscriptions to a query.

Subscriptions that arrive together, as when clients reconnect after a restart, share one transaction for their passes
and one query for their pages. A query that fails because PostgreSQL is unavailable is repeated until it succeeds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from rowbell.gateway.feed import Feed
from rowbell.gateway.retry import until_answered
from rowbell.gateway.subscription import PAGE, ReadPass, ReadRows
from rowbell.inbox import Epoch, Found, Inbox
from rowbell.notification import Change
from rowbell.snapshot import Snapshot

PASSES_A_QUERY = 1000
"""Feeds that share one pass: more would keep the transaction open, and hold back the vacuum horizon, for too long."""
ROWS_A_QUERY = 10 * PAGE
"""Rows read by one query, each at most 40 KiB."""

Request = TypeVar("Request")


class Pager:
    """Answers the queries of one gateway's feeds, in the order of the requests. Owned by `Gateway`; DatabaseUnavailable
    is retried, any other DatabaseError ends `run`.
    """

    def __init__(self, inbox: Inbox, epoch_seen: Callable[[Epoch | None], bool]) -> None:
        self._inbox = inbox
        self._epoch_seen = epoch_seen
        """Reports the epoch of a pass to the gateway; False if it is not the current one, and the pass is void."""
        self._passes: deque[tuple[Feed, Snapshot | None]] = deque()
        self._pages: deque[tuple[Feed, list[int]]] = deque()
        self._whole: set[int] = set()
        """Tracks the ids of rows that replication could not supply completely, to be read for all their feeds."""
        self._passes_asked = asyncio.Event()
        self._rows_asked = asyncio.Event()

    def ask(self, feed: Feed, query: ReadPass | ReadRows) -> None:
        """Request a query; its result goes to the feed, if that is still open then."""
        if isinstance(query, ReadPass):
            self._passes.append((feed, query.floor))
            self._passes_asked.set()
        else:
            self._pages.append((feed, list(query.ids)))
            self._rows_asked.set()

    async def run(self, offer: Callable[[Change], Awaitable[None]]) -> None:
        """Answer requests until cancelled; `offer` takes the rows requested by `ask_whole`."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_passes(), name="passes")
            tasks.create_task(self._run_rows(offer), name="rows")

    def ask_whole(self, id: int) -> None:
        """Request that this row be read and offered: the stream reported the change, but not the complete row."""
        self._whole.add(id)
        self._rows_asked.set()

    async def _run_passes(self) -> None:
        while True:
            await self._passes_asked.wait()
            asked = _take(self._passes, PASSES_A_QUERY)
            if not self._passes:
                self._passes_asked.clear()
            if asked:
                await self._answer_passes(asked)

    async def _answer_passes(self, asked: list[tuple[Feed, Snapshot | None]]) -> None:
        requests = [(feed.recipient, floor) for feed, floor in asked if floor is not None]
        passes = await until_answered(lambda: self._inbox.take_pass(requests))
        if not self._epoch_seen(passes.epoch):
            return  # every session is being closed
        answers = iter(passes.found)
        for feed, floor in asked:
            found = Found() if floor is None else next(answers)
            if feed.open:
                feed.carry_out(feed.subscription.passed(passes.first, found.ids, found.deleted))
                await asyncio.sleep(0)  # a storm of joins must not delay live changes

    async def _run_rows(self, offer: Callable[[Change], Awaitable[None]]) -> None:
        while True:
            await self._rows_asked.wait()
            pages = _take(self._pages, ROWS_A_QUERY, len)
            whole = frozenset(self._whole)
            self._whole -= whole
            if not self._pages:
                self._rows_asked.clear()
            if not pages and not whole:
                continue
            wanted = whole.union(*(ids for _, ids in pages))
            rows = {row.id: row for row in await until_answered(partial(self._inbox.rows, wanted))}
            for id in whole & rows.keys():
                await offer(rows[id])
            for feed, ids in pages:
                if feed.open:
                    feed.carry_out(feed.subscription.paged([rows[id] for id in ids if id in rows]))
                    await asyncio.sleep(0)


def _take(
    queue: deque[tuple[Feed, Request]], most: int, size: Callable[[Request], int] = lambda request: 1
) -> list[tuple[Feed, Request]]:
    """Take out the oldest requests of feeds that are still open, until their sizes reach `most`; at least one if there
    is any. Without `size` each counts 1.
    """
    taken: list[tuple[Feed, Request]] = []
    while queue and (most > 0 or not taken):
        feed, request = queue.popleft()
        if feed.open:
            taken.append((feed, request))
            most -= size(request)
    return taken

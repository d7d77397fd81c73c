"""The sweep: every two seconds, finds what has changed in the table and delivers what subscribers were not sent.

It delivers whatever was lost anywhere between the commit and this gateway; a transaction that was open for an hour
appears when it commits. The keys that one sweep finds are offered one sweep later, so that changes that are merely on
their way can still arrive by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress

from rowbell.backoff import backoff
from rowbell.errors import DatabaseUnavailable
from rowbell.gateway.feed import Feed
from rowbell.gateway.registry import Registry
from rowbell.gateway.subscription import Sweep
from rowbell.inbox import Inbox, Tick
from rowbell.logs import get_logger
from rowbell.notification import DELETED, Change
from rowbell.snapshot import EMPTY, Snapshot

log = get_logger("gateway.sweep")

INTERVAL = 2.0
"""Seconds between sweeps. A lost change arrives within two sweeps."""
INTERVAL_ALONE = 0.25
"""Seconds between sweeps while no changes are streamed."""
FEEDS_A_TURN = 200
"""Feeds checked before yielding to the event loop: about a millisecond."""
KEYS_A_QUERY = 2000
"""Keys per query of rows, exceeded at most by those of its last feed."""

Missing = list[tuple[Feed, list[tuple[int, int, int]]]]
"""Feeds, each with the keys (id, version, tx) of what it was never sent."""


class Sweeper:
    """The sweep of one gateway, which owns it and runs `run` as a task. While PostgreSQL is unavailable `run` retries;
    any other DatabaseError ends it.
    """

    def __init__(
        self,
        inbox: Inbox,
        registry: Registry,
        told: Callable[[Tick, Iterable[str]], None],
        rescued: Callable[[str], None],
        streaming: Callable[[], bool],
    ) -> None:
        self._inbox = inbox
        self._registry = registry
        self._tell = told
        """Called with what a sweep saw and the recipients whose rows changed. If the epoch changed, the gateway calls
        `forget`."""
        self._rescued = rescued
        """Called with each recipient that the stream failed to reach."""
        self._streaming = streaming
        """Whether changes are being streamed. While they are not, only the sweep delivers."""
        self._previous: Snapshot | None = None
        self._found: Sweep | None = None
        """Tracks what the last sweep found, until it has been offered."""
        self._at_once = asyncio.Event()
        self.swept_at = time.monotonic()
        """When the last sweep ended (monotonic seconds)."""
        self.snapshot = EMPTY
        """The latest snapshot, against which 32-bit transaction ids from replication are widened."""

    async def run(self) -> None:
        """Sweep until cancelled; while PostgreSQL is unavailable, retry."""
        delays, told = backoff(cap=INTERVAL), ""
        while True:
            try:
                await self.sweep()
            except DatabaseUnavailable as error:
                if told != str(error):
                    log.warning("sweep_failed", reason=str(error))
                told = str(error)
                await asyncio.sleep(next(delays))
            else:
                delays, told = backoff(cap=INTERVAL), ""
                await self._wait()

    def hurry(self) -> None:
        """Sweep without waiting for the end of the interval."""
        self._at_once.set()

    def forget(self) -> None:
        """Forget the previous snapshot: the epoch changed, and it means nothing to new subscriptions."""
        self._previous = self._found = None

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL if self._streaming() else INTERVAL_ALONE):
                await self._at_once.wait()
        self._at_once.clear()

    async def sweep(self) -> None:
        """Offer what the previous sweep found, then sweep. May be repeated after a failure at any point.

        DatabaseError if PostgreSQL cannot be queried.
        """
        if self._found is not None:
            await self._offer(self._found)
            self._found = None
        tick = await self._inbox.tick(self._previous, self._registry.recipients)
        if tick.epoch is None:
            if self._previous is not None:
                log.warning("epoch_ended", reason="PostgreSQL crashed, failed over or was restored")
            epoch = await self._inbox.new_epoch()
            log.info("epoch_begun", epoch=str(epoch))
            self._previous = None
            tick = await self._inbox.tick(None, self._registry.recipients)
        self._tell(tick, {key.recipient_id for key in tick.keys})
        if self._previous is not None:
            self._found = _by_recipient(self._previous, tick)
        self._previous = self.snapshot = tick.snapshot
        self.swept_at = time.monotonic()

    async def _offer(self, sweep: Sweep) -> None:
        """Raise the floor of every feed that was sent everything; read and deliver what the others missed."""
        missing: Missing = []
        for number, feed in enumerate(self._registry.feeds):
            if number % FEEDS_A_TURN == 0:
                await asyncio.sleep(0)  # with thousands of feeds, let the sockets be served in between
            was_live = feed.is_live
            missed = feed.misses(sweep)
            if missed:
                missing.append((feed, missed))
            elif missed is not None:
                feed.rescue(sweep, [])
            elif was_live and not feed.is_live:
                self._rescued(feed.recipient)  # a pass brings what the stream did not: presence may be wrong
        while missing:
            await self._rescue(sweep, _part(missing))

    async def _rescue(self, sweep: Sweep, missing: Missing) -> None:
        wanted = {id for _, missed in missing for id, version, _ in missed if version != DELETED}
        rows = {row.id: row for row in await self._inbox.rows(wanted)} if wanted else {}
        for feed, missed in missing:
            changes = [
                Change(id, feed.recipient, DELETED, 0, tx) if version == DELETED else rows[id]
                for id, version, tx in missed
                if version == DELETED or id in rows  # a row deleted meanwhile has a tombstone in a later sweep
            ]
            if sent := feed.rescue(sweep, changes):
                log.info("rescued", recipient=feed.recipient, changes=sent)
                self._rescued(feed.recipient)


def _part(missing: Missing) -> Missing:
    """Take out the first feeds, as many as one query of rows may serve."""
    keys = taken = 0
    while taken < len(missing) and keys < KEYS_A_QUERY:
        keys += len(missing[taken][1])
        taken += 1
    part = missing[:taken]
    del missing[:taken]
    return part


def _by_recipient(previous: Snapshot, tick: Tick) -> Sweep:
    keys: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for key in tick.keys:
        if key.recipient_id in tick.recipients:
            keys[key.recipient_id].append((key.id, key.version, key.tx))
    return Sweep(previous, tick.snapshot, tick.recipients, keys)

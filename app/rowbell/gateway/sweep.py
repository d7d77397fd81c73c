"""Every two seconds: what changed in the table since, and has every subscriber been sent it?

Whatever was lost anywhere between the commit and this gateway is found here and delivered, and a transaction that was
open for an hour appears when it commits. The keys that one sweep finds are offered one sweep later, so that what is
merely on its way still arrives by itself.
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
"""Seconds between sweeps: what is lost arrives within two of them."""
INTERVAL_ALONE = 0.25
"""Seconds between sweeps while no stream of changes stands."""
FEEDS_A_TURN = 200
"""Feeds looked at before the event loop does something else: about a millisecond."""
KEYS_A_QUERY = 2000
"""Bodies that are read at once, and a few of the next feed."""

Missing = list[tuple[Feed, list[tuple[int, int, int]]]]
"""Feeds, each with the keys (id, version, tx) of what it was never sent."""


class Sweeper:
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
        """Called with what a sweep saw, and with whose rows changed. When the epoch did, the gateway calls `forget`."""
        self._rescued = rescued
        """Called with each recipient whose rows the stream did not bring."""
        self._streaming = streaming
        """Are changes being streamed at all? While they are not, the sweep is all there is."""
        self._previous: Snapshot | None = None
        self._found: Sweep | None = None
        """Tracks what the last sweep found, until it has been offered."""
        self._at_once = asyncio.Event()
        self.swept_at = time.monotonic()
        """When the last sweep ended."""
        self.snapshot = EMPTY
        """The newest snapshot: what replicated 32-bit transaction ids are widened against."""

    async def run(self) -> None:
        """Sweep until cancelled; while PostgreSQL is away, try again."""
        delays = backoff(cap=INTERVAL)
        while True:
            try:
                await self.sweep()
            except DatabaseUnavailable as error:
                log.warning("sweep_failed", reason=str(error))
                await asyncio.sleep(next(delays))
            else:
                delays = backoff(cap=INTERVAL)
                await self._wait()

    def hurry(self) -> None:
        """Do not wait for the next interval."""
        self._at_once.set()

    def forget(self) -> None:
        """The epoch changed: snapshots from before mean nothing to the subscriptions that come now."""
        self._previous = self._found = None

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL if self._streaming() else INTERVAL_ALONE):
                await self._at_once.wait()
        self._at_once.clear()

    async def sweep(self) -> None:
        """Offer what the sweep before found, then look again. Interrupted anywhere, it can be run again."""
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
        """Raise the floor of every feed that was sent all of it; read and give what the others miss."""
        missing: Missing = []
        for number, feed in enumerate(self._registry.feeds):
            if number % FEEDS_A_TURN == 0:
                await asyncio.sleep(0)  # with thousands of feeds the sockets must have their turn in between
            was_live = feed.is_live
            missed = feed.misses(sweep)
            if missed:
                missing.append((feed, missed))
            elif missed is not None:
                feed.rescue(sweep, [])
            elif was_live and not feed.is_live:
                self._rescued(feed.recipient)  # a pass brings what the stream did not: is presence wrong?
        while missing:
            await self._rescue(sweep, _part(missing))

    async def _rescue(self, sweep: Sweep, missing: Missing) -> None:
        wanted = {id for _, missed in missing for id, version, _ in missed if version != DELETED}
        rows = {row.id: row for row in await self._inbox.rows(wanted)} if wanted else {}
        for feed, missed in missing:
            changes = [
                Change(id, feed.recipient, DELETED, 0, tx) if version == DELETED else rows[id]
                for id, version, tx in missed
                if version == DELETED or id in rows  # one that is gone by now has a tombstone in a later sweep
            ]
            if sent := feed.rescue(sweep, changes):
                log.info("rescued", recipient=feed.recipient, changes=sent)
                self._rescued(feed.recipient)


def _part(missing: Missing) -> Missing:
    """Take out the first feeds, as many as one query of bodies may serve."""
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

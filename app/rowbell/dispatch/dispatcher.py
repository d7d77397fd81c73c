"""Takes the committed changes, asks who is connected where, and hands each gateway what is for its users."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from rowbell import metrics
from rowbell.backoff import backoff
from rowbell.bus import Bundle, Bus
from rowbell.changes import Batch, ChangeSource
from rowbell.dispatch.bundles import addressed, bundled
from rowbell.dispatch.dead_letters import DeadLetters
from rowbell.errors import BusUnavailable, PresenceUnavailable, StreamUnavailable
from rowbell.logs import get_logger
from rowbell.notification import Change
from rowbell.presence import Presence

log = get_logger("dispatch")

RETRY_CAP_SECONDS = 2.0
"""The longest wait before a batch is tried again while RabbitMQ is away."""
PRESENCE_PAUSE_SECONDS = 2.0
"""How long presence is not asked after it failed: a Redis that hangs would otherwise hold up every batch."""

OBSERVED_OF_A_BATCH = 50
"""How many delays of one batch are measured at most."""


class Dispatcher:
    """One batch after the other, each once its predecessor stands: so the order of each recipient is kept.

    No pipelining: look-up and confirms of 500 changes take a few milliseconds, far more than the target's rate, and
    while they run the next batch grows.
    """

    def __init__(self, changes: ChangeSource, presence: Presence, bus: Bus, dead_letters: DeadLetters) -> None:
        self._changes = changes
        self._presence = presence
        self._bus = bus
        self._dead_letters = dead_letters
        self._working = asyncio.Lock()
        """Held while a batch is in work, so that `stop` comes between two."""
        self._stopping = False
        self._presence_again_at = 0.0
        """Not to be asked before this (seconds, monotonic); 0 while it answers."""

    async def run(self) -> None:
        """Until `stop`, or until the source fails for good."""
        async for batch in self._changes.batches():
            async with self._working:
                if self._stopping:
                    return
                await self._dispatch(batch)
                await self._changes.done(batch)

    async def stop(self) -> None:
        """Finish the batch in work and close the source: `run` returns. Bound it: a bus that is away does not end."""
        self._stopping = True
        async with self._working:
            await self._changes.close()

    async def _dispatch(self, batch: Batch) -> None:
        _observe_delays(batch.changes)
        if batch.dead:
            await _until_done("dead_letters_kept", lambda: self._dead_letters.keep(batch.dead))
            metrics.DISPATCHED_DEAD.inc(len(batch.dead))
            log.warning("records_undecodable", records=len(batch.dead), first=batch.dead[0].reason)
        if batch.changes:
            await _until_done("published", lambda: self._deliver(batch.changes))

    async def _deliver(self, changes: Sequence[Change]) -> None:
        """One attempt. The look-up is part of it: when the bus was away, gateways come back under other ids."""
        gateways = await self._gateways_of(changes)
        bundles = bundled(addressed(changes, gateways))
        gone = await self._bus.publish(bundles) if bundles else set()
        _count(changes, gateways)
        for gateway in gone:
            await self._forget(gateway, bundles)

    # Presence

    async def _gateways_of(self, changes: Sequence[Change]) -> dict[str, set[str]] | None:
        """Who is where; None when that is not known, and every gateway is to be told."""
        if time.monotonic() < self._presence_again_at:
            return None
        try:
            gateways = await self._presence.gateways_of({change.recipient_id for change in changes})
        except PresenceUnavailable as error:
            if not self._presence_again_at:
                log.warning("presence_unavailable", problem=str(error), effect="every gateway is told")
            self._presence_again_at = time.monotonic() + PRESENCE_PAUSE_SECONDS
            return None
        if self._presence_again_at:
            self._presence_again_at = 0.0
            log.info("presence_back")
        return gateways

    async def _forget(self, gateway: str, bundles: Sequence[Bundle]) -> None:
        """The gateway does not exist any more: these users are not there."""
        users = {change.recipient_id for bundle in bundles if bundle.gateway == gateway for change in bundle.changes}
        log.info("bundle_undeliverable", gateway=gateway, users=len(users))
        try:
            await self._presence.remove(gateway, users)
        except PresenceUnavailable as error:  # it is returned again next time
            log.info("presence_not_removed", gateway=gateway, problem=str(error))


async def _until_done(what: str, effort: Callable[[], Awaitable[None]]) -> None:
    """Try until it works, with growing pauses; say so once, and once when it is over."""
    delays = backoff(cap=RETRY_CAP_SECONDS)
    failed = False
    while True:
        try:
            await effort()
        except (BusUnavailable, StreamUnavailable) as error:
            if not failed:
                log.warning("dispatch_waits", until=what, problem=str(error))
            failed = True
            await asyncio.sleep(next(delays))
        else:
            break
    if failed:
        log.info("dispatch_goes_on", after=what)


def _observe_delays(changes: Sequence[Change]) -> None:
    """Evenly over the batch; all of a small one. An observation costs 1.7 µs, a tenth of all that a change costs."""
    now = time.time()
    for change in changes[:: 1 + len(changes) // OBSERVED_OF_A_BATCH]:
        if change.committed_at:
            metrics.COMMIT_TO_DISPATCH.observe(max(0.0, now - change.committed_at / 1e6))


def _count(changes: Sequence[Change], gateways: dict[str, set[str]] | None) -> None:
    nobody = 0 if gateways is None else sum(change.recipient_id not in gateways for change in changes)
    metrics.DISPATCHED_NOBODY.inc(nobody)
    metrics.DISPATCHED_PUBLISHED.inc(len(changes) - nobody)

"""Takes committed changes, looks up which gateways their recipients are connected to, and sends the changes there."""

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
"""The longest pause before a batch is retried while RabbitMQ is unavailable."""
PRESENCE_PAUSE_SECONDS = 2.0
"""Seconds without look-ups after presence has failed: otherwise a Redis that hangs would hold up every batch."""

OBSERVED_OF_A_BATCH = 50
"""The most delays that are measured per batch."""


class Dispatcher:
    """Dispatches one batch after another, each when the previous one is done, so the order per recipient is kept.

    Batches are not pipelined: the look-up and the confirms for 500 changes take a few milliseconds, which is far faster
    than the target rate, and meanwhile the next batch grows.
    """

    def __init__(self, changes: ChangeSource, presence: Presence, bus: Bus, dead_letters: DeadLetters) -> None:
        self._changes = changes
        self._presence = presence
        self._bus = bus
        self._dead_letters = dead_letters
        self._working = asyncio.Lock()
        """Held while a batch is being dispatched, so that `stop` acts between two."""
        self._stopping = False
        self._presence_again_at = 0.0
        """Tracks the time (monotonic seconds) before which presence is not asked again; 0 while it answers."""

    async def run(self) -> None:
        """Dispatch batches until `stop` is called. While the bus or Kafka is unavailable, a batch is retried; an error
        of the source itself is raised.
        """
        async for batch in self._changes.batches():
            async with self._working:
                if self._stopping:
                    return
                await self._dispatch(batch)
                await self._changes.done(batch)

    async def stop(self) -> None:
        """Finish the current batch and close the source, so that `run` returns.

        Call it with a timeout: while the bus is unavailable, the current batch does not end.
        """
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
        """Make one attempt. It includes the look-up, because gateways get new ids when the bus was unavailable."""
        gateways = await self._gateways_of(changes)
        bundles = bundled(addressed(changes, gateways))
        gone = await self._bus.publish(bundles) if bundles else set()
        _count(changes, gateways)
        for gateway in gone:
            await self._forget(gateway, bundles)

    # Presence

    async def _gateways_of(self, changes: Sequence[Change]) -> dict[str, set[str]] | None:
        """Return recipient → gateways; None if presence cannot be asked, and every gateway must be told."""
        if time.monotonic() < self._presence_again_at:
            return None
        try:
            gateways = await self._presence.gateways_of({change.recipient_id for change in changes})
        except PresenceUnavailable as error:
            if not self._presence_again_at:
                log.warning("presence_unavailable", reason=str(error), effect="every gateway is told")
            self._presence_again_at = time.monotonic() + PRESENCE_PAUSE_SECONDS
            return None
        if self._presence_again_at:
            self._presence_again_at = 0.0
            log.info("presence_back")
        return gateways

    async def _forget(self, gateway: str, bundles: Sequence[Bundle]) -> None:
        """Remove the presence of the bundles' users at a gateway that no longer exists."""
        users = {change.recipient_id for bundle in bundles if bundle.gateway == gateway for change in bundle.changes}
        log.info("bundle_undeliverable", gateway=gateway, users=len(users))
        try:
            await self._presence.remove(gateway, users)
        except PresenceUnavailable as error:  # the next bundle for it comes back as well
            log.info("presence_not_removed", gateway=gateway, reason=str(error))


async def _until_done(what: str, effort: Callable[[], Awaitable[None]]) -> None:
    """Retry `effort` until it succeeds, with growing pauses. Log the first failure, and the success after it."""
    delays = backoff(cap=RETRY_CAP_SECONDS)
    failed = False
    while True:
        try:
            await effort()
        except (BusUnavailable, StreamUnavailable) as error:
            if not failed:
                log.warning("dispatch_waits", until=what, reason=str(error))
            failed = True
            await asyncio.sleep(next(delays))
        else:
            break
    if failed:
        log.info("dispatch_goes_on", after=what)


def _observe_delays(changes: Sequence[Change]) -> None:
    """Observe the delays of changes sampled evenly from the batch, or of all changes of a small one. An observation
    costs 1.7 µs, a tenth of the total cost of a change.
    """
    now = time.time()
    for change in changes[:: 1 + len(changes) // OBSERVED_OF_A_BATCH]:
        if change.committed_at:
            metrics.COMMIT_TO_DISPATCH.observe(max(0.0, now - change.committed_at / 1e6))


def _count(changes: Sequence[Change], gateways: dict[str, set[str]] | None) -> None:
    nobody = 0 if gateways is None else sum(change.recipient_id not in gateways for change in changes)
    metrics.DISPATCHED_NOBODY.inc(nobody)
    metrics.DISPATCHED_PUBLISHED.inc(len(changes) - nobody)

"""Whether clients should be sent to this gateway, for /ready. Anyone may ask, so it costs little and reveals little."""

from __future__ import annotations

import asyncio
import time

from rowbell.auth import Tokens
from rowbell.errors import DatabaseError
from rowbell.gateway.link import Link
from rowbell.gateway.sweep import Sweeper
from rowbell.inbox import Inbox
from rowbell.logs import get_logger

log = get_logger("gateway.readiness")

SWEEP_OVERDUE = 15.0
"""Seconds without a sweep after which a gateway is not ready: what the stream has lost would not arrive."""
PROBE_TIMEOUT = 2.0
"""Seconds that PostgreSQL may take to answer the probe."""
PROBE_INTERVAL = 1.0
"""Seconds for which the answer to a probe is reused."""


class Readiness:
    """The readiness of one gateway, which owns it."""

    def __init__(self, inbox: Inbox, tokens: Tokens, link: Link, sweeper: Sweeper) -> None:
        self._inbox = inbox
        self._tokens = tokens
        self._link = link
        self._sweeper = sweeper
        self._probe: asyncio.Task[bool] | None = None
        """Tracks the latest probe of PostgreSQL."""
        self._asked_at = float("-inf")
        self._answers = True
        """Tracks whether PostgreSQL answered the last probe: a failure is logged once."""

    async def complaint(self) -> str | None:
        """Return None if PostgreSQL answers, the sweep runs, the bus is connected and tokens can be verified; otherwise
        what is wrong. The cause is only in the log, because it contains names that strangers should not learn.
        """
        if not self._link.connected:
            return "the bus is not connected"
        if not self._tokens.can_verify:
            return "the issuer's keys could not be read yet"
        if (silence := time.monotonic() - self._sweeper.swept_at) > SWEEP_OVERDUE:
            return f"the table has not been swept for {silence:.0f} s"
        if not await self._database_answers():
            return "PostgreSQL does not answer"
        return None

    async def _database_answers(self) -> bool:
        now = time.monotonic()
        if self._probe is None or (self._probe.done() and now - self._asked_at > PROBE_INTERVAL):
            self._asked_at = now
            self._probe = asyncio.create_task(self._ask(), name="readiness")
        return await asyncio.shield(self._probe)

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._inbox.ping()
        except (TimeoutError, DatabaseError) as error:
            if self._answers:
                log.warning("probe_failed", reason=str(error) or f"no answer within {PROBE_TIMEOUT:g} s")
            self._answers = False
        else:
            self._answers = True
        return self._answers

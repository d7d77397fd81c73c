"""Reports to presence which users this gateway holds, in order and in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

from rowbell.backoff import backoff
from rowbell.errors import PresenceUnavailable
from rowbell.gateway.registry import Registry
from rowbell.logs import get_logger
from rowbell.presence import Presence

log = get_logger("gateway.attendance")

REFRESH_SECONDS = 60.0
"""Seconds between full refreshes. Entries live for 150 s, so one failed refresh is tolerated."""
KNOWN_SECONDS = 1.0
"""Seconds that a subscription waits for its user's entry. Presence is a hint: without it the sweep delivers."""


class Attendance:
    """Keeps presence in step with the gateway's registry. Owned by `Gateway`; `run` is its only writer.

    While presence is unavailable, changes are kept and written later; no method raises PresenceUnavailable.
    """

    def __init__(self, presence: Presence, registry: Registry) -> None:
        self._presence = presence
        self._registry = registry
        self._gateway: str | None = None
        """Tracks the id under which the bus reaches this gateway; None while it is not connected."""
        self._changed: dict[str, None] = {}
        """Tracks users who came or went since the last write, in order; which of the two is decided when writing."""
        self._wanted = asyncio.Event()
        self._again_at = 0.0
        """Tracks when the next full refresh is due (the loop's clock)."""
        self._failing = False
        """Tracks whether the last write failed: then nobody waits for the next one."""
        self._slow = False
        """Tracks whether a wait has timed out since the last write. Only the first is logged: thousands may wait."""
        self._left = False
        """Tracks whether the gateway is stopping: nothing is added any more."""
        self._told: asyncio.Future[None] | None = None
        """Done when everything noted so far has been written, or the write has failed."""

    def connected(self, gateway: str) -> None:
        """The bus reaches this gateway under a new id: add every user under it."""
        if self._left:
            return
        self._gateway = gateway
        self.note(*self._registry.recipients())

    def disconnected(self) -> None:
        """The bus does not reach this gateway any more: write nothing until it is connected again."""
        self._gateway = None

    def note(self, *users: str) -> None:
        """Write the entries of these users: they came, went, or need to be written again."""
        self._changed.update(dict.fromkeys(users))
        self._wanted.set()

    async def known(self, user: str) -> None:
        """Note the user, and wait until presence has the entry, for at most KNOWN_SECONDS."""
        self.note(user)
        if self._gateway is None or self._failing:
            return
        if self._told is None:
            self._told = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(KNOWN_SECONDS):
                await asyncio.shield(self._told)
        except TimeoutError:
            if not self._slow:
                log.warning("presence_slow", waited=KNOWN_SECONDS)
            self._slow = True

    async def run(self) -> None:
        """Write until cancelled."""
        delays = backoff()
        while True:
            await self._wait()
            changed, self._changed = self._changed, {}
            told, self._told = self._told, None
            try:
                await self._write(changed)
            except PresenceUnavailable as error:
                self._keep(changed, error)
            else:
                self._failing, delays = False, backoff()
            self._slow = False
            if told is not None and not told.done():
                told.set_result(None)
            if self._failing:
                await asyncio.sleep(next(delays))

    async def leave(self) -> None:
        """Remove every user of this gateway, which is stopping, and add no more."""
        gateway, self._gateway, self._left = self._gateway, None, True
        if gateway is not None:
            try:
                await self._presence.remove(gateway, {*self._registry.recipients(), *self._changed})
            except PresenceUnavailable as error:
                log.warning("presence_unavailable", reason=str(error))

    def _keep(self, changed: dict[str, None], error: PresenceUnavailable) -> None:
        if not self._failing:
            log.warning("presence_unavailable", reason=str(error))
        self._failing = True
        self._changed = changed | self._changed
        self._wanted.set()

    async def _wait(self) -> None:
        """Wait until something has changed or a full refresh is due; on a busy gateway something always has."""
        clock = asyncio.get_running_loop().time
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._again_at):
                await self._wanted.wait()
        if clock() >= self._again_at:
            self._again_at = clock() + REFRESH_SECONDS
            self.note(*self._registry.recipients())
        self._wanted.clear()

    async def _write(self, changed: Collection[str]) -> None:
        if self._gateway is None:
            return  # `connected` notes every user
        if come := [user for user in changed if user in self._registry]:
            await self._presence.add(self._gateway, come)
        if gone := [user for user in changed if user not in self._registry]:
            await self._presence.remove(self._gateway, gone)

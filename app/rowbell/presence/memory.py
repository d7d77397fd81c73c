"""Presence within one process: for embedded and Postgres-only mode, where all sessions are local, and for tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from rowbell.presence import LIFETIME_SECONDS


class MemoryPresence:
    """Presence in a dict. `lifetime` is in seconds; `clock` returns seconds, and tests pass their own."""

    def __init__(self, lifetime: float = LIFETIME_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._gateways: dict[str, set[str]] = {}
        self._expires: dict[str, float] = {}
        """Tracks user → when their entries expire."""

    async def gateways_of(self, users: Collection[str]) -> dict[str, set[str]]:
        found = {}
        for user in users:
            self._expire(user)
            if gateways := self._gateways.get(user):
                found[user] = set(gateways)
        return found

    async def add(self, gateway: str, users: Collection[str]) -> None:
        for user in users:
            self._expire(user)
            self._gateways.setdefault(user, set()).add(gateway)
            self._expires[user] = self._clock() + self._lifetime

    async def remove(self, gateway: str, users: Collection[str]) -> None:
        for user in users:
            gateways = self._gateways.get(user, set())
            gateways.discard(gateway)
            if not gateways:
                self._drop(user)

    async def close(self) -> None: ...

    def _expire(self, user: str) -> None:
        if self._expires.get(user, 0.0) <= self._clock():
            self._drop(user)

    def _drop(self, user: str) -> None:
        self._gateways.pop(user, None)
        self._expires.pop(user, None)

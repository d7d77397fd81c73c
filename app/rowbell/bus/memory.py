"""The bus within one process: for embedded and Postgres-only mode, and for tests."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rowbell.bus import EVERY_GATEWAY, Bundle
from rowbell.errors import BusUnavailable
from rowbell.notification import Change

QUEUE_CHANGES = 100_000
"""Changes that may wait for one gateway. Beyond that bundles are dropped, and the sweep delivers them."""


class MemoryBus:
    """A bus between tasks of one event loop. Bundles are passed on without a copy."""

    def __init__(self, queue_changes: int = QUEUE_CHANGES) -> None:
        self._queue_changes = queue_changes
        self._receivers: dict[str, MemoryReceiver] = {}

    async def publish(self, bundles: Sequence[Bundle]) -> set[str]:
        gone = set()
        for bundle in bundles:
            if bundle.gateway == EVERY_GATEWAY:
                for receiver in self._receivers.values():
                    receiver.put(bundle.changes)
            elif bundle.gateway in self._receivers:
                self._receivers[bundle.gateway].put(bundle.changes)
            else:
                gone.add(bundle.gateway)
        return gone

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[MemoryReceiver]:
        receiver = MemoryReceiver(self._queue_changes)
        self._receivers[receiver.gateway] = receiver
        try:
            yield receiver
        finally:
            self._receivers.pop(receiver.gateway, None)

    async def close(self) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Lose every connection, as a restarting broker does."""
        for receiver in self._receivers.values():
            receiver.lose()
        self._receivers.clear()


class MemoryReceiver:
    """One gateway's queue."""

    def __init__(self, queue_changes: int) -> None:
        self.gateway = f"gateway-{secrets.token_hex(8)}"
        self._room = queue_changes
        self._bundles: deque[list[Change]] = deque()
        self._lost = False
        self._changed = asyncio.Event()

    def put(self, changes: list[Change]) -> None:
        """Queue a bundle, or drop it if there is no room."""
        if len(changes) <= self._room:
            self._room -= len(changes)
            self._bundles.append(changes)
            self._changed.set()

    def lose(self) -> None:
        """Mark the connection as lost: nothing follows what is queued."""
        self._lost = True
        self._changed.set()

    async def bundles(self) -> AsyncIterator[list[Change]]:
        while self._bundles or not self._lost:
            self._changed.clear()
            if not self._bundles:
                await self._changed.wait()
                continue
            changes = self._bundles.popleft()
            self._room += len(changes)
            yield changes
            # Let the sockets be served between bundles.
            await asyncio.sleep(0)
        raise BusUnavailable(f"the bus has closed the connection of {self.gateway}")

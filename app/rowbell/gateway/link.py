"""The gateway's connection to the bus, under a new id each time it connects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from rowbell.backoff import backoff
from rowbell.bus import Bus
from rowbell.errors import BusUnavailable
from rowbell.gateway.attendance import Attendance
from rowbell.logs import get_logger
from rowbell.notification import Change

log = get_logger("gateway.link")


class Link:
    """Receives from the bus and reconnects for as long as the gateway runs. Owned by `Gateway`."""

    def __init__(self, bus: Bus, attendance: Attendance, deliver: Callable[[list[Change]], Awaitable[None]]) -> None:
        self._bus = bus
        self._attendance = attendance
        self._deliver = deliver
        self.connected = False
        """Tracks whether the bus reaches this gateway."""

    async def run(self) -> None:
        """Deliver what the bus brings until cancelled; while the bus is unavailable, reconnect with growing pauses."""
        delays = backoff(cap=2.0)
        while True:
            try:
                await self._receive()
            except BusUnavailable as error:
                log.warning("bus_unavailable", reason=str(error))
            if self.connected:
                delays = backoff(cap=2.0)
            self.connected = False
            self._attendance.disconnected()
            await asyncio.sleep(next(delays))

    async def _receive(self) -> None:
        async with self._bus.receive() as receiver:
            self.connected = True
            self._attendance.connected(receiver.gateway)
            log.info("bus_connected", gateway=receiver.gateway)
            async for changes in receiver.bundles():
                await self._deliver(changes)

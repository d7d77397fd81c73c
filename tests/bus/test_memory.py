from __future__ import annotations

import pytest

from rowbell.bus import Bundle
from rowbell.bus.memory import MemoryBus
from rowbell.errors import BusUnavailable
from tests.bus.traffic import changes, take


async def test_a_lost_connection_ends_the_bundles_after_what_had_arrived() -> None:
    bus = MemoryBus()
    async with bus.receive() as receiver:
        await bus.publish([Bundle(receiver.gateway, changes([1]))])

        bus.disconnect()

        assert await take(receiver, 1) == [changes([1])]
        with pytest.raises(BusUnavailable):
            await take(receiver, 1)
        assert await bus.publish([Bundle(receiver.gateway, changes([2]))]) == {receiver.gateway}

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rowbell.bus import Bus
from rowbell.bus.memory import MemoryBus
from rowbell.bus.rabbitmq import RabbitMQBus
from stack import Stack


@pytest.fixture
async def rabbitmq(stack: Stack) -> AsyncIterator[RabbitMQBus]:
    bus = RabbitMQBus(stack.settings_env["ROWBELL_RABBITMQ_URL"])
    yield bus
    await bus.close()


@pytest.fixture(params=["memory", "rabbitmq"])
def bus(request: pytest.FixtureRequest) -> Bus:
    if request.param == "memory":
        return MemoryBus()
    rabbitmq: RabbitMQBus = request.getfixturevalue("rabbitmq")
    return rabbitmq


@pytest.fixture(params=["memory", "rabbitmq"])
async def small_bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    """One whose queues take a few changes only."""
    bus: Bus
    if request.param == "memory":
        bus = MemoryBus(queue_changes=20)
    else:
        stack: Stack = request.getfixturevalue("stack")
        bus = RabbitMQBus(stack.settings_env["ROWBELL_RABBITMQ_URL"], queue_bytes=1000)
    yield bus
    await bus.close()

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from rowbell.presence import LIFETIME_SECONDS, Presence
from rowbell.presence.memory import MemoryPresence
from rowbell.presence.redis import RedisPresence
from stack import Stack

MakePresence = Callable[[float], Presence]


@pytest.fixture(params=["memory", "redis"])
async def make_presence(request: pytest.FixtureRequest) -> AsyncIterator[MakePresence]:
    """Presence with a given lifetime."""
    async with AsyncExitStack() as opened:

        def make(lifetime: float) -> Presence:
            presence: Presence
            if request.param == "memory":
                presence = MemoryPresence(lifetime)
            else:
                stack: Stack = request.getfixturevalue("stack")
                presence = RedisPresence(stack.settings_env["ROWBELL_REDIS_URL"], lifetime)
            opened.push_async_callback(presence.close)
            return presence

        yield make


@pytest.fixture
def presence(make_presence: MakePresence) -> Presence:
    return make_presence(LIFETIME_SECONDS)


@pytest.fixture
def user() -> Callable[[str], str]:
    """Names that no other test has: `user("alice")`."""
    suffix = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{suffix}"

"""Presence in Redis: for each user a set of gateway ids, `presence:USER`, that expires as a whole.

A gateway that died stays in the set of a user whom another gateway keeps alive, until a change comes for that
user: the bus then names the gateway as undeliverable, and the dispatcher removes it. That is cheaper than an
expiry per gateway, which would be paid at every look-up.

One Redis (or a primary that Sentinel or a proxy stands for), not Redis Cluster: a look-up spans keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ReadOnlyError, RedisError

from rowbell.config import hide_password
from rowbell.errors import PresenceUnavailable
from rowbell.presence import LIFETIME_SECONDS

ANSWER_SECONDS = 0.5
"""How long Redis may take for one call: a hung one must not hold up what can do without."""
MAX_CONNECTIONS = 8
"""Of one process. Callers beyond wait for one: redis-py's default pool raises at its limit instead."""
USERS_A_CALL = 1000
"""Redis does nothing else while a script runs: 1,000 users take it 1.5 ms."""

# Scripts, because a pipeline of single commands costs the client 11.6 µs a user, and this 1.5.
_GATEWAYS_OF = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('SMEMBERS', key) end
return found
"""
_ADD = """
for _, key in ipairs(KEYS) do
  redis.call('SADD', key, ARGV[1])
  redis.call('PEXPIRE', key, ARGV[2])
end
"""
_REMOVE = """
for _, key in ipairs(KEYS) do redis.call('SREM', key, ARGV[1]) end
"""


class RedisPresence:
    """Presence that many gateways and dispatchers share. One instance a process; it connects when it is asked."""

    def __init__(self, url: str, lifetime: float = LIFETIME_SECONDS) -> None:
        self._where = hide_password(url)
        self._lifetime = int(lifetime * 1000)
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            decode_responses=True,
            # Once more at once, when a connection that had been idle turns out to be dead; never after a time-out.
            retry=Retry(NoBackoff(), 1, supported_errors=(ConnectionLost,)),
        )
        self._redis = Redis(connection_pool=pool)
        self._gateways_of = self._redis.register_script(_GATEWAYS_OF)
        self._add = self._redis.register_script(_ADD)
        self._remove = self._redis.register_script(_REMOVE)

    async def gateways_of(self, users: Collection[str]) -> dict[str, set[str]]:
        if not users:
            return {}
        async with self._asking():
            found: list[list[str]] = await self._gateways_of(keys=_keys(users))
        return {user: set(gateways) for user, gateways in zip(users, found, strict=True) if gateways}

    async def add(self, gateway: str, users: Collection[str]) -> None:
        await self._write(self._add, users, [gateway, self._lifetime])

    async def remove(self, gateway: str, users: Collection[str]) -> None:
        await self._write(self._remove, users, [gateway])

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    async def _write(self, script: Any, users: Collection[str], arguments: list[str | int]) -> None:
        rest = iter(users)
        while part := list(islice(rest, USERS_A_CALL)):
            async with self._asking():
                await script(keys=_keys(part), args=arguments)

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Bound the time of one call, and tell its failure as ours."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                try:
                    yield
                except ReadOnlyError:
                    # A failover demoted this server: its connections stay, though the address may lead elsewhere now.
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
                    raise
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            problem = str(error) or type(error).__name__
            raise PresenceUnavailable(f"Redis at {self._where}: {problem}") from error


def _keys(users: Collection[str]) -> Sequence[str]:
    return [f"presence:{user}" for user in users]

"""Presence in Redis: for each user a set of gateway ids, `presence:USER`, that expires as a whole.

A dead gateway stays in the set of a user whose entries another gateway keeps alive, until there is a change for that
user: the bus then reports the gateway as undeliverable, and the dispatcher removes it. That is cheaper than an expiry
for each gateway, which would cost something at every look-up.

It works with one Redis, or a primary behind Sentinel or a proxy, but not with Redis Cluster: a look-up spans keys.
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
"""Seconds that Redis may take for one call: a hanging one must not hold up work that can do without it."""
MAX_CONNECTIONS = 8
"""Connections of one process. Further callers wait for one; redis-py's default pool would raise at its limit."""
USERS_A_CALL = 1000
"""Users per call that writes: Redis does nothing else while a script runs, which takes 1.5 ms for 1,000 users."""

# Scripts, because a pipeline of single commands costs the client 11.6 µs per user, and a script 1.5 µs.
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
    """Presence that gateways and dispatchers share. One instance per process; it connects when first used."""

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
            # Retry once, immediately, if an idle connection turns out to be dead; never after a time-out.
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
        """Limit the time of one call, and turn its failure into PresenceUnavailable."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                try:
                    yield
                except ReadOnlyError:
                    # A failover demoted this server. Its connections stay open, but the address may now lead elsewhere.
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
                    raise
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            problem = str(error) or type(error).__name__
            raise PresenceUnavailable(f"Redis at {self._where}: {problem}") from error


def _keys(users: Collection[str]) -> Sequence[str]:
    return [f"presence:{user}" for user in users]

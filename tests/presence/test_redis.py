"""What Redis adds: it can be away, hang, and forget."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis
from yarl import URL

from rowbell.errors import PresenceUnavailable
from rowbell.presence import LIFETIME_SECONDS
from rowbell.presence.redis import MAX_CONNECTIONS, RedisPresence
from stack import Stack
from tests.integration.proxy import Proxy

User = Callable[[str], str]


@pytest.fixture
async def presence(stack: Stack) -> AsyncIterator[RedisPresence]:
    presence = RedisPresence(stack.settings_env["ROWBELL_REDIS_URL"])
    yield presence
    await presence.close()


@pytest.fixture
async def redis(stack: Stack) -> AsyncIterator[Redis]:
    async with Redis.from_url(stack.settings_env["ROWBELL_REDIS_URL"]) as client:
        yield client


@pytest.fixture
async def link(stack: Stack) -> AsyncIterator[Proxy]:
    """A way to Redis that counts its connections."""
    async with Proxy(stack.ports["STACK_REDIS_PORT"]) as proxy:
        yield proxy


@pytest.fixture
async def linked(stack: Stack, link: Proxy) -> AsyncIterator[RedisPresence]:
    """Presence that goes that way."""
    presence = RedisPresence(str(URL(stack.settings_env["ROWBELL_REDIS_URL"]).with_port(link.port)))
    yield presence
    await presence.close()


async def test_an_entry_lives_for_two_minutes_and_a_half(presence: RedisPresence, redis: Redis, user: User) -> None:
    await presence.add("gateway-1", [user("alice")])

    remaining = await redis.pttl(f"presence:{user('alice')}")

    assert LIFETIME_SECONDS - 10 < remaining / 1000 <= LIFETIME_SECONDS


async def test_a_redis_that_forgot_everything_is_written_again(
    presence: RedisPresence, redis: Redis, user: User
) -> None:
    await presence.add("gateway-1", [user("alice")])
    await redis.flushall()
    await redis.script_flush()

    assert await presence.gateways_of([user("alice")]) == {}
    await presence.add("gateway-1", [user("alice")])
    assert await presence.gateways_of([user("alice")]) == {user("alice"): {"gateway-1"}}
    await presence.remove("gateway-1", [user("alice")])
    assert await presence.gateways_of([user("alice")]) == {}


async def test_a_redis_that_is_away_is_told_and_found_again(stack: Stack, presence: RedisPresence, user: User) -> None:
    await presence.add("gateway-1", [user("alice")])
    await asyncio.to_thread(stack.stop_program, "redis")
    try:
        with pytest.raises(PresenceUnavailable, match="Redis at redis://"):
            await presence.gateways_of([user("alice")])
        with pytest.raises(PresenceUnavailable):
            await presence.add("gateway-1", [user("alice")])
        with pytest.raises(PresenceUnavailable):
            await presence.remove("gateway-1", [user("alice")])
    finally:
        await asyncio.to_thread(stack.start_program, "redis")

    assert await presence.gateways_of([user("alice")]) == {}


async def test_a_restart_between_two_calls_is_not_noticed(stack: Stack, presence: RedisPresence, user: User) -> None:
    await asyncio.gather(*(presence.gateways_of([user("alice")]) for _ in range(MAX_CONNECTIONS)))

    await asyncio.to_thread(stack.stop_program, "redis")
    await asyncio.to_thread(stack.start_program, "redis")

    assert await presence.gateways_of([user("alice")]) == {}


async def test_every_connection_to_a_primary_that_was_demoted_is_made_anew(
    link: Proxy, linked: RedisPresence, redis: Redis, user: User
) -> None:
    """Its address may lead to another server since: a name or a proxy stands for the primary."""
    # given
    await add_from_every_connection(linked, user("alice"))
    assert link.accepted == MAX_CONNECTIONS
    # when
    await redis.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(PresenceUnavailable, match="read only replica"):
            await linked.add("gateway-1", [user("alice")])
    finally:
        await redis.replicaof("NO", "ONE")
    # then
    await add_from_every_connection(linked, user("alice"))
    assert link.accepted == 2 * MAX_CONNECTIONS


async def add_from_every_connection(presence: RedisPresence, user: str) -> None:
    await asyncio.gather(*(presence.add("gateway-1", [user]) for _ in range(MAX_CONNECTIONS)))


async def test_a_redis_that_hangs_costs_less_than_a_second(stack: Stack, presence: RedisPresence, user: User) -> None:
    await presence.add("gateway-1", [user("alice")])
    stack.kill("redis", signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(PresenceUnavailable):
            await presence.gateways_of([user("alice")])
        took = time.monotonic() - began
    finally:
        stack.kill("redis", signal.SIGCONT)

    assert took < 1.0
    assert await presence.gateways_of([user("alice")]) == {user("alice"): {"gateway-1"}}


async def test_the_password_is_not_in_the_error() -> None:
    presence = RedisPresence("redis://:s3cret@127.0.0.1:1/0")

    with pytest.raises(PresenceUnavailable) as error:
        await presence.gateways_of(["alice"])

    assert "127.0.0.1:1" in str(error.value)
    assert "s3cret" not in str(error.value)
    await presence.close()


async def test_more_callers_than_connections_wait_for_their_turn(presence: RedisPresence, user: User) -> None:
    users = [user(f"user-{number}") for number in range(200)]

    await asyncio.gather(*(presence.add("gateway-1", [each]) for each in users))

    assert await presence.gateways_of(users) == {key: {"gateway-1"} for key in users}

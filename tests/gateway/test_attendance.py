"""Presence is told who is here: in time, again and again, and not by those who left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from rowbell.errors import PresenceUnavailable
from rowbell.gateway import attendance
from rowbell.gateway.attendance import Attendance
from rowbell.gateway.feed import Feed
from rowbell.gateway.registry import Registry
from rowbell.presence.memory import MemoryPresence
from tests.integration.processes import eventually


class Unreliable(MemoryPresence):
    """Fails as often as it is told to."""

    failures = 0

    async def add(self, gateway: str, users: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise PresenceUnavailable("it is away")
        await super().add(gateway, users)


class Here:
    def __init__(self) -> None:
        self.presence = Unreliable(lifetime=0.6)
        self.registry = Registry()
        self.attendance = Attendance(self.presence, self.registry)

    def come(self, user: str) -> Feed:
        feed = Feed(cast(Any, None), cast(Any, None), user, "1", auto=True)
        self.registry.feeds.add(feed)
        return feed

    async def known(self, user: str) -> bool:
        return await self.presence.gateways_of([user]) != {}


@pytest.fixture
async def here(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Here]:
    monkeypatch.setattr(attendance, "REFRESH_SECONDS", 0.2)
    here = Here()
    writer = asyncio.create_task(here.attendance.run())
    yield here
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)


async def test_who_subscribes_is_known_when_known_returns(here: Here) -> None:
    here.attendance.connected("g1")
    here.come("alice")
    await here.attendance.known("alice")
    assert await here.presence.gateways_of(["alice"]) == {"alice": {"g1"}}


async def test_without_a_bus_nobody_waits(here: Here) -> None:
    here.come("alice")
    async with asyncio.timeout(0.1):
        await here.attendance.known("alice")
    assert not await here.known("alice")


async def test_a_busy_gateway_still_adds_everybody_again_before_their_entries_expire(here: Here) -> None:
    here.attendance.connected("g1")
    here.come("quiet")
    await here.attendance.known("quiet")
    here.come("busy")
    ends = asyncio.get_running_loop().time() + 1.5
    while asyncio.get_running_loop().time() < ends:
        await here.attendance.known("busy")
        assert await here.known("quiet")


async def test_a_new_connection_to_the_bus_adds_everybody_under_the_new_id(here: Here) -> None:
    here.attendance.connected("g1")
    here.come("alice")
    await here.attendance.known("alice")
    here.attendance.disconnected()
    here.attendance.connected("g2")

    async def under_the_new_id() -> bool:
        return "g2" in (await here.presence.gateways_of(["alice"])).get("alice", set())

    await eventually("the new id is known", under_the_new_id)


async def test_what_presence_refused_is_written_when_it_is_back(here: Here) -> None:
    here.presence.failures = 3
    here.attendance.connected("g1")
    here.come("alice")
    await here.attendance.known("alice")
    await eventually("presence knows", lambda: here.known("alice"))


async def test_who_left_is_forgotten_at_once_and_everybody_at_the_end(here: Here) -> None:
    here.attendance.connected("g1")
    feed = here.come("alice")
    here.come("bob")
    await here.attendance.known("alice")
    await here.attendance.known("bob")
    here.registry.feeds.remove(feed)
    here.attendance.note("alice")

    async def forgotten() -> bool:
        return not await here.known("alice")

    await eventually("alice is forgotten", forgotten)
    assert await here.known("bob")
    await here.attendance.leave()
    assert not await here.known("bob")


async def test_who_left_just_before_the_end_is_forgotten_too(here: Here) -> None:
    here.attendance.connected("g1")
    feed = here.come("alice")
    await here.attendance.known("alice")
    here.registry.feeds.remove(feed)
    here.attendance.note("alice")
    await here.attendance.leave()
    assert not await here.known("alice")


async def test_while_presence_fails_nobody_waits_for_it(here: Here) -> None:
    here.presence.failures = 10**6
    here.attendance.connected("g1")
    async with asyncio.timeout(0.9):  # one wait alone may take a second
        for number in range(20):
            here.come(f"user-{number}")
            await here.attendance.known(f"user-{number}")


async def test_who_comes_while_the_gateway_stops_is_not_told_of(here: Here) -> None:
    here.attendance.connected("g1")
    await here.attendance.leave()
    here.attendance.connected("g2")
    here.come("late")
    await here.attendance.known("late")
    assert not await here.known("late")

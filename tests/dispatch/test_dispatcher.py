from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from rowbell.bus import Bundle, Receiver
from rowbell.bus.memory import MemoryBus
from rowbell.changes import DeadRecord
from rowbell.changes.memory import MemoryChanges, MemoryLog
from rowbell.dispatch import dispatcher as module
from rowbell.dispatch.dead_letters import MemoryDeadLetters
from rowbell.dispatch.dispatcher import Dispatcher
from rowbell.errors import BusUnavailable, PresenceUnavailable, StreamUnavailable
from rowbell.notification import Change
from rowbell.presence.memory import MemoryPresence
from tests.integration.processes import eventually

SOON = 10.0
DEAD = DeadRecord(b"key", b"value", "not JSON", "topic", 0, 7)


# ---- Faults, as thin layers over the twins ----


class FailingPresence(MemoryPresence):
    """Fails while `down`, and counts what it is asked."""

    down = False
    asked = 0

    async def gateways_of(self, users: Collection[str]) -> dict[str, set[str]]:
        self.asked += 1
        self._fail()
        return await super().gateways_of(users)

    async def remove(self, gateway: str, users: Collection[str]) -> None:
        self._fail()
        await super().remove(gateway, users)

    def _fail(self) -> None:
        if self.down:
            raise PresenceUnavailable


class FailingBus(MemoryBus):
    """Fails the next `failures` times."""

    failures = 0
    attempts = 0

    async def publish(self, bundles: Sequence[Bundle]) -> set[str]:
        self.attempts += 1
        if self.failures:
            self.failures -= 1
            raise BusUnavailable
        return await super().publish(bundles)


class FailingDeadLetters(MemoryDeadLetters):
    failures = 0

    async def keep(self, records: Sequence[DeadRecord]) -> None:
        if self.failures:
            self.failures -= 1
            raise StreamUnavailable
        await super().keep(records)


@dataclasses.dataclass
class Site:
    """A dispatcher between twins."""

    log: MemoryLog = dataclasses.field(default_factory=MemoryLog)
    presence: FailingPresence = dataclasses.field(default_factory=FailingPresence)
    bus: FailingBus = dataclasses.field(default_factory=FailingBus)
    dead_letters: FailingDeadLetters = dataclasses.field(default_factory=FailingDeadLetters)

    @asynccontextmanager
    async def dispatching(self) -> AsyncIterator[Dispatcher]:
        dispatcher = Dispatcher(MemoryChanges(self.log), self.presence, self.bus, self.dead_letters)
        async with asyncio.timeout(SOON), asyncio.TaskGroup() as tasks:
            tasks.create_task(dispatcher.run())
            yield dispatcher
            await dispatcher.stop()

    async def everything_done(self) -> None:
        await eventually("everything done", lambda: self.log.committed == len(self.log.records))

    @asynccontextmanager
    async def gateway(self, *users: str) -> AsyncIterator[Receiver]:
        async with self.bus.receive() as receiver:
            await self.presence.add(receiver.gateway, users)
            yield receiver


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def counted() -> Callable[[str], float]:
    """How much `rowbell_dispatched_total` has grown for an outcome."""

    def value(outcome: str) -> float:
        return REGISTRY.get_sample_value("rowbell_dispatched_total", {"outcome": outcome}) or 0.0

    before = {outcome: value(outcome) for outcome in ("published", "nobody", "dead_letter")}
    return lambda outcome: value(outcome) - before[outcome]


def change(id: int, recipient: str = "alice", committed_at: int = 0) -> Change:
    return Change(id, recipient, 1, 1, 1, "{}", committed_at=committed_at)


async def take(receiver: Receiver, count: int) -> list[int]:
    """The ids of the next so many changes."""
    ids: list[int] = []
    async for changes in receiver.bundles():
        ids += [change.id for change in changes]
        if len(ids) >= count:
            break
    return ids


# ---- Who gets what ----


async def test_a_change_reaches_every_gateway_of_its_recipient_and_no_other(site: Site) -> None:
    async with site.gateway("alice") as one, site.gateway("alice", "bob") as two, site.dispatching():
        site.log.append([change(1, "alice"), change(2, "bob"), change(3, "alice")])

        assert await take(one, 2) == [1, 3]
        assert await take(two, 3) == [1, 2, 3]


async def test_changes_of_a_recipient_keep_their_order_over_many_batches(site: Site) -> None:
    async with site.gateway("alice", "bob") as receiver, site.dispatching():
        site.log.append(change(id, "alice" if id % 2 else "bob") for id in range(1, 2001))

        assert await take(receiver, 2000) == list(range(1, 2001))
        await site.everything_done()


async def test_nobody_connected_costs_no_message(site: Site, counted: Callable[[str], float]) -> None:
    async with site.dispatching():
        site.log.append([change(1), change(2)])
        await site.everything_done()

    assert site.bus.attempts == 0
    assert counted("nobody") == 2
    assert counted("published") == 0


async def test_a_batch_costs_one_look_up_and_one_publish(site: Site, counted: Callable[[str], float]) -> None:
    site.log.append(change(id, f"user-{id % 50}") for id in range(100))
    async with site.gateway(*(f"user-{number}" for number in range(40))) as receiver, site.dispatching():
        await take(receiver, 80)
        await site.everything_done()

    assert site.presence.asked == 1
    assert site.bus.attempts == 1
    assert counted("published") == 80
    assert counted("nobody") == 20


async def test_the_delay_since_the_commit_is_measured_and_never_negative(site: Site) -> None:
    def observed() -> tuple[float, float]:
        count = REGISTRY.get_sample_value("rowbell_commit_to_dispatch_seconds_count")
        total = REGISTRY.get_sample_value("rowbell_commit_to_dispatch_seconds_sum")
        return count or 0.0, total or 0.0

    count, total = observed()
    in_the_future = 4102444800 * 10**6
    async with site.dispatching():
        site.log.append([change(1, committed_at=in_the_future), change(2)])
        await site.everything_done()

    assert observed() == (count + 1, total)


# ---- Gateways that are gone ----


async def test_a_gateway_that_is_gone_loses_the_users_of_the_batch(site: Site) -> None:
    await site.presence.add("gone", ["alice", "bob"])
    async with site.gateway("alice") as receiver, site.dispatching():
        site.log.append([change(1, "alice")])
        assert await take(receiver, 1) == [1]
        await site.everything_done()

        assert await site.presence.gateways_of(["alice", "bob"]) == {"alice": {receiver.gateway}, "bob": {"gone"}}


async def test_presence_that_fails_while_a_gateway_is_forgotten_holds_up_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(gateway: str, users: Collection[str]) -> None:
        raise PresenceUnavailable

    await site.presence.add("gone", ["alice"])
    monkeypatch.setattr(site.presence, "remove", fail)

    async with site.dispatching():
        site.log.append([change(1)])
        await site.everything_done()


# ---- Presence that cannot be asked ----


async def test_without_presence_every_gateway_is_told(site: Site, counted: Callable[[str], float]) -> None:
    async with site.gateway("alice") as one, site.gateway() as two, site.dispatching():
        site.presence.down = True
        site.log.append([change(1, "alice"), change(2, "nobody")])

        assert await take(one, 2) == [1, 2]
        assert await take(two, 2) == [1, 2]
        await site.everything_done()

    assert counted("published") == 2


async def test_presence_that_failed_is_left_alone_for_a_while_and_then_asked_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRESENCE_PAUSE_SECONDS", 0.3)
    async with site.gateway("alice") as one, site.gateway() as two, site.dispatching():
        with capture_logs() as logs:
            site.presence.down = True
            for id in range(1, 6):
                site.log.append([change(id)])
                assert await take(two, 1) == [id]
            assert site.presence.asked == 1
            site.presence.down = False

            async def is_asked_again() -> bool:
                site.log.append([change(99)])
                await site.everything_done()
                return site.presence.asked > 1

            await eventually("asked again", is_asked_again)
        assert (await take(one, 6))[:5] == [1, 2, 3, 4, 5]

    assert [log["event"] for log in logs] == ["presence_unavailable", "presence_back"]


# ---- A bus that is away ----


async def test_a_batch_is_published_again_until_the_bus_takes_it(site: Site) -> None:
    site.bus.failures = 2
    async with site.gateway("alice") as receiver, site.dispatching():
        with capture_logs() as logs:
            site.log.append([change(1)])
            assert await take(receiver, 1) == [1]
            site.log.append([change(2)])
            assert await take(receiver, 1) == [2]
            await site.everything_done()

    assert site.bus.attempts == 4
    assert [log["event"] for log in logs] == ["dispatch_waits", "dispatch_goes_on"]


async def test_a_batch_is_not_done_before_the_bus_has_taken_it(site: Site) -> None:
    site.bus.failures = 10**9
    async with site.gateway("alice"):
        dispatcher = Dispatcher(MemoryChanges(site.log), site.presence, site.bus, site.dead_letters)
        running = asyncio.create_task(dispatcher.run())
        site.log.append([change(1)])

        await eventually("tried three times", lambda: site.bus.attempts >= 3)

        assert site.log.committed == 0
        running.cancel()


async def test_gateways_that_came_back_under_other_ids_get_what_waited(site: Site) -> None:
    site.bus.failures = 3
    async with site.gateway("alice") as before, site.dispatching():
        site.log.append([change(1)])
        await eventually("tried", lambda: site.bus.attempts >= 1)
        await site.presence.remove(before.gateway, ["alice"])
        async with site.gateway("alice") as after:
            assert await take(after, 1) == [1]


# ---- Dead letters ----


async def test_a_dead_record_is_kept_and_its_neighbours_are_delivered(
    site: Site, counted: Callable[[str], float]
) -> None:
    site.log.append([change(1), DEAD, change(2)])
    async with site.gateway("alice") as receiver, site.dispatching():
        assert await take(receiver, 2) == [1, 2]
        await site.everything_done()

    assert list(site.dead_letters.records) == [DEAD]
    assert counted("dead_letter") == 1


async def test_a_dead_record_that_cannot_be_kept_is_tried_again(site: Site) -> None:
    site.dead_letters.failures = 2
    site.log.append([DEAD])
    async with site.dispatching():
        await site.everything_done()

    assert list(site.dead_letters.records) == [DEAD]


# ---- Stopping ----


async def test_stopping_while_idle_ends_at_once(site: Site) -> None:
    async with site.dispatching():
        await asyncio.sleep(0)


async def test_stopping_finishes_the_batch_in_work(site: Site) -> None:
    site.bus.failures = 1
    site.log.append([change(1)])
    async with site.gateway("alice") as receiver:
        async with site.dispatching() as dispatcher:
            await eventually("in work", lambda: site.bus.attempts >= 1)
            await dispatcher.stop()

        assert site.log.committed == 1
        assert await take(receiver, 1) == [1]


async def test_an_error_that_nobody_foresaw_ends_the_dispatcher(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(users: Collection[str]) -> dict[str, set[str]]:
        raise ZeroDivisionError

    monkeypatch.setattr(site.presence, "gateways_of", fail)
    site.log.append([change(1)])
    dispatcher = Dispatcher(MemoryChanges(site.log), site.presence, site.bus, site.dead_letters)

    with pytest.raises(ZeroDivisionError):
        await dispatcher.run()
    assert site.log.committed == 0

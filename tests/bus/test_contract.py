"""What every Bus promises."""

from __future__ import annotations

from rowbell.bus import EVERY_GATEWAY, Bundle, Bus, Receiver
from tests.bus.traffic import DELETION, HIDDEN, INCOMPLETE, change, changes, take
from tests.integration.processes import eventually


async def test_a_bundle_reaches_its_gateway_as_it_was(bus: Bus) -> None:
    sent = [change(1), DELETION, INCOMPLETE, HIDDEN]
    async with bus.receive() as receiver:
        undeliverable = await bus.publish([Bundle(receiver.gateway, sent)])

        assert undeliverable == set()
        assert await take(receiver, 1) == [sent]


async def test_each_gateway_gets_its_own_bundles_only(bus: Bus) -> None:
    async with bus.receive() as one, bus.receive() as two:
        await bus.publish([Bundle(one.gateway, changes([1])), Bundle(two.gateway, changes([2]))])
        await bus.publish([Bundle(one.gateway, changes([3])), Bundle(two.gateway, changes([4]))])

        assert await take(one, 2) == [changes([1]), changes([3])]
        assert await take(two, 2) == [changes([2]), changes([4])]


async def test_bundles_arrive_in_the_order_of_publishing(bus: Bus) -> None:
    async with bus.receive() as receiver:
        expected = []
        for first in range(1, 200, 10):
            bundles = [Bundle(receiver.gateway, changes([id])) for id in range(first, first + 10)]
            await bus.publish(bundles)
            expected += [bundle.changes for bundle in bundles]

        assert await take(receiver, len(expected)) == expected


async def test_what_is_for_every_gateway_reaches_all_in_order(bus: Bus) -> None:
    async with bus.receive() as one, bus.receive() as two:
        await bus.publish([Bundle(one.gateway, changes([1]))])
        undeliverable = await bus.publish([Bundle(EVERY_GATEWAY, changes([2]))])
        await bus.publish([Bundle(one.gateway, changes([3]))])

        assert undeliverable == set()
        assert await take(one, 3) == [changes([1]), changes([2]), changes([3])]
        assert await take(two, 1) == [changes([2])]


async def test_a_gateway_that_does_not_exist_is_named_and_the_others_are_served(bus: Bus) -> None:
    async with bus.receive() as receiver:
        bundles = [Bundle("gateway-x", changes([1])), Bundle(receiver.gateway, changes([2])), Bundle("gateway-y", [])]

        assert await bus.publish(bundles) == {"gateway-x", "gateway-y"}
        assert await take(receiver, 1) == [changes([2])]


async def test_publishing_nothing_is_fine(bus: Bus) -> None:
    assert await bus.publish([]) == set()


async def test_telling_every_gateway_when_there_is_none_is_fine(bus: Bus) -> None:
    assert await bus.publish([Bundle(EVERY_GATEWAY, changes([1]))]) == set()


async def test_a_gateway_comes_back_under_another_id_and_its_former_one_is_gone(bus: Bus) -> None:
    async with bus.receive() as receiver:
        former = receiver.gateway

    async def is_gone() -> bool:
        return await bus.publish([Bundle(former, changes([1]))]) == {former}

    async with bus.receive() as receiver:
        assert receiver.gateway != former
        await eventually("gone", is_gone)  # the broker deletes the queue a moment after the connection


async def test_a_full_queue_refuses_what_comes_last_and_holds_nobody_up(small_bus: Bus) -> None:
    async with small_bus.receive() as slow, small_bus.receive() as quick:
        for id in range(1, 101):
            bundles = [Bundle(slow.gateway, changes([id])), Bundle(quick.gateway, changes([id]))]
            assert await small_bus.publish(bundles) == set()
            assert await take(quick, 1) == [changes([id])]

        assert await take(slow, 16) == [changes([id]) for id in range(1, 17)]
        await small_bus.publish([Bundle(slow.gateway, changes([999]))])
        rest = await take_until(slow, 999)
    assert len(rest) < 84
    assert rest == sorted(rest)


async def take_until(receiver: Receiver, id: int) -> list[int]:
    ids: list[int] = []
    while id not in ids:
        [bundle] = await take(receiver, 1)
        ids += [change.id for change in bundle]
    return ids

"""What every Presence promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowbell.presence import Presence
from tests.integration.processes import eventually
from tests.presence.conftest import MakePresence

User = Callable[[str], str]


async def test_a_user_is_where_they_were_added(presence: Presence, user: User) -> None:
    alice, bob = user("alice"), user("bob")

    await presence.add("gateway-1", [alice, bob])
    await presence.add("gateway-2", [bob])

    assert await presence.gateways_of([alice, bob]) == {alice: {"gateway-1"}, bob: {"gateway-1", "gateway-2"}}


async def test_users_without_a_session_are_left_out(presence: Presence, user: User) -> None:
    alice, bob = user("alice"), user("bob")
    await presence.add("gateway-1", [alice])

    assert await presence.gateways_of([bob, alice, user("carol")]) == {alice: {"gateway-1"}}
    assert await presence.gateways_of([bob]) == {}


async def test_asking_for_nobody_and_changing_nobody_is_fine(presence: Presence) -> None:
    await presence.add("gateway-1", [])
    await presence.remove("gateway-1", [])

    assert await presence.gateways_of([]) == {}


async def test_a_user_removed_from_one_gateway_stays_at_the_other(presence: Presence, user: User) -> None:
    alice = user("alice")
    await presence.add("gateway-1", [alice])
    await presence.add("gateway-2", [alice])

    await presence.remove("gateway-1", [alice])
    assert await presence.gateways_of([alice]) == {alice: {"gateway-2"}}

    await presence.remove("gateway-2", [alice])
    assert await presence.gateways_of([alice]) == {}


async def test_removing_who_is_not_there_is_fine(presence: Presence, user: User) -> None:
    alice = user("alice")
    await presence.add("gateway-1", [alice])

    await presence.remove("gateway-2", [alice, user("bob")])

    assert await presence.gateways_of([alice]) == {alice: {"gateway-1"}}


async def test_adding_twice_is_adding_once(presence: Presence, user: User) -> None:
    alice = user("alice")
    await presence.add("gateway-1", [alice, alice])
    await presence.add("gateway-1", [alice])

    await presence.remove("gateway-1", [alice])

    assert await presence.gateways_of([alice]) == {}


async def test_entries_expire_when_they_are_not_added_again(make_presence: MakePresence, user: User) -> None:
    alice = user("alice")
    presence = make_presence(0.2)
    await presence.add("gateway-1", [alice])

    async def gone() -> bool:
        return await presence.gateways_of([alice]) == {}

    await eventually("expired", gone)


async def test_adding_again_prolongs(make_presence: MakePresence, user: User) -> None:
    alice, bob = user("alice"), user("bob")
    presence = make_presence(1.0)
    await presence.add("gateway-1", [alice, bob])

    async def only_alice_is_left() -> bool:
        await presence.add("gateway-1", [alice])
        return await presence.gateways_of([alice, bob]) == {alice: {"gateway-1"}}

    await eventually("bob expired", only_alice_is_left)


async def test_thousands_of_users_in_one_call(presence: Presence, user: User) -> None:
    users = [user(f"user-{number}") for number in range(2500)]

    await presence.add("gateway-1", users)
    assert await presence.gateways_of(users) == {key: {"gateway-1"} for key in users}

    await presence.remove("gateway-1", users)
    assert await presence.gateways_of(users) == {}


@pytest.mark.parametrize("name", ["Zoë", "名前", "a b", "a:b", "{a}", "*", "\x00", "x" * 255])
async def test_any_name_is_just_a_name(presence: Presence, user: User, name: str) -> None:
    await presence.add("gateway-1", [user(name)])

    assert await presence.gateways_of([user(name), user("")]) == {user(name): {"gateway-1"}}

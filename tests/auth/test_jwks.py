"""An issuer's list over HTTP: rotated, out of order, and asked for by strangers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from rowbell.auth import Tokens, jwks
from rowbell.auth import tokens as tokens_module
from rowbell.auth.fetch import MAX_DOCUMENT, read_url
from rowbell.auth.jwks import COOLDOWN, MAX_KEYS, REFRESH_SECONDS, Jwks, read_listing
from rowbell.auth.keyring import Keyring
from rowbell.config import JWT_ALGORITHMS
from rowbell.errors import KeysUnavailable, TokenError
from tests.auth.issuer import ED25519, OTHER_RSA, P256, RSA, Clock, Issuer, jwk, send, serving, token

Events = list[MutableMapping[str, Any]]

OLD = token(RSA, "RS256", kid="old")
NEW = token(P256, "ES256", kid="new")
UNKNOWN = token(OTHER_RSA, "RS256", kid="unknown")


class Gateway:
    """What a gateway has of it: tokens, and a task that keeps the keys fresh."""

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self.clock = Clock(0)
        self.tokens = Tokens(Keyring(jwks=Jwks(partial(read_url, url), url, JWT_ALGORITHMS, clock or self.clock)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        task = asyncio.create_task(self.tokens.run())
        try:
            yield self
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def knows_already(self, value: str) -> bool:
        try:
            return self.tokens.verify(value).user == "alice"
        except TokenError:
            return False

    async def knows(self, value: str) -> bool:
        try:
            return (await self.tokens.identify(value)).user == "alice"
        except TokenError:
            return False


@pytest.fixture
async def gateway(issuer: Issuer) -> AsyncIterator[Gateway]:
    """One that has read the issuer's list, at the time 0."""
    issuer.keys = [jwk(RSA, kid="old")]
    async with Gateway(issuer.url).running() as gateway:
        assert await gateway.knows(OLD)
        assert len(issuer.requests) == 1
        yield gateway


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def refused(gateway: Gateway, value: str) -> TokenError:
    with pytest.raises(TokenError) as caught:
        await gateway.tokens.identify(value)
    return caught.value


# Rotation.


async def test_a_token_of_a_key_that_was_added_is_good_after_one_more_reading(gateway: Gateway, issuer: Issuer) -> None:
    issuer.keys = [jwk(RSA, kid="old"), jwk(P256, kid="new")]
    gateway.clock.now = COOLDOWN

    assert await gateway.knows(NEW)
    assert await gateway.knows(OLD)
    assert len(issuer.requests) == 2


async def test_many_tokens_of_a_key_that_was_added_share_one_reading(gateway: Gateway, issuer: Issuer) -> None:
    issuer.keys = [jwk(P256, kid="new")]
    gateway.clock.now = COOLDOWN

    assert all(await asyncio.gather(*(gateway.knows(NEW) for _ in range(200))))
    assert len(issuer.requests) == 2


async def test_a_key_that_is_no_longer_listed_is_good_no_more(gateway: Gateway, issuer: Issuer) -> None:
    issuer.keys = [jwk(P256, kid="new")]
    gateway.clock.now = COOLDOWN

    assert await gateway.knows(NEW)
    assert not await gateway.knows(OLD)


async def test_the_list_is_read_again_by_itself(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFRESH_SECONDS", 0.02)
    issuer.keys = [jwk(RSA, kid="old")]
    async with Gateway(issuer.url, clock=time.monotonic).running() as gateway:
        assert await gateway.knows(OLD)

        issuer.keys = [jwk(P256, kid="new")]

        # nobody asks for the other before: that would have it read, too
        await until(lambda: not gateway.knows_already(OLD))
        assert gateway.knows_already(NEW)


def test_it_is_read_again_every_five_minutes() -> None:
    assert REFRESH_SECONDS == 300


async def test_a_list_without_keys_is_one_and_no_token_is_good(
    gateway: Gateway, issuer: Issuer, events: Events
) -> None:
    issuer.keys = []
    gateway.clock.now = COOLDOWN

    assert "does not list" in str(await refused(gateway, UNKNOWN))
    assert not await gateway.knows(OLD)
    assert [event["event"] for event in events] == ["jwks_is_empty"]


async def test_a_key_that_comes_back_under_the_same_name_replaces_the_former(gateway: Gateway, issuer: Issuer) -> None:
    issuer.keys = [jwk(OTHER_RSA, kid="old")]
    gateway.clock.now = COOLDOWN

    assert not await gateway.knows(UNKNOWN)  # has the list read again

    assert "another key" in str(await refused(gateway, OLD))
    assert await gateway.knows(token(OTHER_RSA, "RS256", kid="old"))


async def test_a_token_without_a_kid_of_a_key_that_was_added_is_good(gateway: Gateway, issuer: Issuer) -> None:
    issuer.keys = [jwk(P256)]
    gateway.clock.now = COOLDOWN

    assert await gateway.knows(token(P256, "ES256"))


# Strangers.


async def test_tokens_of_unknown_keys_cause_one_reading_in_five_seconds(gateway: Gateway, issuer: Issuer) -> None:
    strangers = [token(OTHER_RSA, "RS256", kid=f"stranger-{number}") for number in range(300)]

    # given a flood in the second of the first reading
    answers = await asyncio.gather(*(refused(gateway, each) for each in strangers))
    assert all(isinstance(answer, KeysUnavailable) for answer in answers)
    assert len(issuer.requests) == 1

    # when five seconds have passed, and it goes on
    for round_number in (1, 2, 3):
        gateway.clock.now += COOLDOWN
        answers = await asyncio.gather(*(refused(gateway, each) for each in strangers))

        # then one request answers all of them
        assert {type(answer) for answer in answers} == {TokenError}
        assert len(issuer.requests) == 1 + round_number
        assert await gateway.knows(OLD)


async def test_verifying_alone_asks_for_one_reading_too(gateway: Gateway, issuer: Issuer) -> None:
    issuer.keys = [jwk(P256, kid="new")]
    gateway.clock.now = COOLDOWN

    for _ in range(100):
        with pytest.raises(KeysUnavailable):
            gateway.tokens.verify(NEW)
    await until(lambda: len(issuer.requests) == 2 and not gateway.knows_already(OLD))

    assert gateway.tokens.verify(NEW).user == "alice"
    assert len(issuer.requests) == 2


async def test_nobody_waits_for_a_reading_that_is_not_allowed_so_soon(gateway: Gateway) -> None:
    gateway.clock.now = COOLDOWN - tokens_module.WAIT - 0.1

    begun = time.monotonic()
    assert isinstance(await refused(gateway, UNKNOWN), KeysUnavailable)
    assert time.monotonic() - begun < 0.5


async def test_a_hanging_issuer_holds_up_no_token_of_a_known_key(
    gateway: Gateway, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.answer = issuer.hang
    gateway.clock.now = COOLDOWN
    waiting = asyncio.create_task(refused(gateway, UNKNOWN))
    await until(lambda: len(issuer.requests) == 2)

    begun = time.monotonic()
    for _ in range(100):
        assert await gateway.knows(OLD)
    assert time.monotonic() - begun < 1
    assert not waiting.done()

    # and the others wait no longer than they may
    monkeypatch.setattr(tokens_module, "WAIT", 0.05)
    assert isinstance(await refused(gateway, UNKNOWN), KeysUnavailable)
    assert time.monotonic() - begun < 2
    waiting.cancel()


async def test_a_token_that_came_during_a_reading_is_not_called_unknown_by_it(gateway: Gateway, issuer: Issuer) -> None:
    # given a reading that has begun
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer(request: BaseHTTPRequestHandler) -> None:
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        issuer.list_keys(request)

    issuer.answer = answer
    gateway.clock.now = COOLDOWN
    first = asyncio.create_task(refused(gateway, UNKNOWN))
    await until(lambda: len(issuer.requests) == 2)

    # when another token comes, whose key may have been listed a moment too late
    second = asyncio.create_task(refused(gateway, UNKNOWN))
    await asyncio.sleep(0.05)
    go_on.set()

    # then
    assert type(await first) is TokenError
    assert isinstance(await second, KeysUnavailable)


async def test_no_more_wait_than_there_is_room_for(
    gateway: Gateway, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "MAX_WAITING", 3)
    issuer.answer = issuer.hang
    gateway.clock.now = COOLDOWN
    waiting = [asyncio.create_task(refused(gateway, UNKNOWN)) for _ in range(3)]
    await until(lambda: len(issuer.requests) == 2)

    begun = time.monotonic()
    assert isinstance(await refused(gateway, UNKNOWN), KeysUnavailable)
    assert time.monotonic() - begun < 0.5
    for task in waiting:
        task.cancel()


async def test_tokens_with_the_secrets_algorithms_cause_no_reading(gateway: Gateway, issuer: Issuer) -> None:
    gateway.clock.now = COOLDOWN

    for algorithm in ("HS256", "none"):
        value = token(b"x" * 32, "HS256", kid="unknown") if algorithm == "HS256" else "eyJhbGciOiJub25lIn0.e30."
        assert type(await refused(gateway, value)) is TokenError
    await asyncio.sleep(0.05)

    assert len(issuer.requests) == 1


# Faults of the issuer.


def redirect(request: BaseHTTPRequestHandler) -> None:
    send(request, b"", 302, Location="/jwks.json")


def a_page(request: BaseHTTPRequestHandler) -> None:
    send(request, b"<!doctype html><title>Log in</title>", Content_Type="text/html")


def another_object(request: BaseHTTPRequestHandler) -> None:
    send(request, b'{"error": "not now"}')


def too_much(request: BaseHTTPRequestHandler) -> None:
    send(request, b" " * (MAX_DOCUMENT + 1))


def too_many(request: BaseHTTPRequestHandler) -> None:
    send(request, b'{"keys": [' + b",".join([b"{}"] * (MAX_KEYS + 1)) + b"]}")


def twice(request: BaseHTTPRequestHandler) -> None:
    send(request, b'{"keys": [], "keys": []}')


def deep(request: BaseHTTPRequestHandler) -> None:
    send(request, b'{"keys": ' + b"[" * 100_000)


def nothing(request: BaseHTTPRequestHandler) -> None:
    send(request, b"")


FAULTS = [
    pytest.param(None, "status 500", id="out of order"),
    pytest.param(redirect, "it redirects", id="redirect"),
    pytest.param(a_page, "not JSON", id="a page"),
    pytest.param(nothing, "not JSON", id="nothing"),
    pytest.param(another_object, "no array `keys`", id="another object"),
    pytest.param(too_much, "longer than", id="too much"),
    pytest.param(too_many, "more than 64 keys", id="too many"),
    pytest.param(twice, "repeats a name", id="twice"),
    pytest.param(deep, "not JSON", id="deep"),
]


@pytest.mark.parametrize(("answer", "reason"), FAULTS)
async def test_while_the_list_cannot_be_read_its_last_keys_are_good(
    gateway: Gateway,
    issuer: Issuer,
    events: Events,
    answer: Callable[[BaseHTTPRequestHandler], None] | None,
    reason: str,
) -> None:
    # given
    issuer.answer = answer or issuer.fail
    gateway.clock.now = COOLDOWN

    # when
    said = await refused(gateway, UNKNOWN)

    # then
    assert isinstance(said, KeysUnavailable)
    assert await gateway.knows(OLD)
    [event] = events
    assert (event["event"], event["log_level"], event["keys_kept"]) == ("jwks_unavailable", "warning", 1)
    assert reason in event["reason"]

    # when it goes on, it is not logged again; when it is over, new keys are good
    gateway.clock.now += 100
    assert not await gateway.knows(NEW)
    assert len(events) == 1
    issuer.answer, issuer.keys = issuer.list_keys, [jwk(P256, kid="new")]
    gateway.clock.now += 100
    assert await gateway.knows(NEW)
    assert [event["event"] for event in events] == ["jwks_unavailable", "jwks_available"]


async def test_an_issuer_that_is_away_at_the_start_is_tried_again_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    monkeypatch.setattr(jwks, "RETRY_FIRST", 0.02)
    monkeypatch.setattr(jwks, "RETRY_CAP", 0.02)
    monkeypatch.setattr(tokens_module, "WAIT", 0.1)
    # given nobody at the address
    with serving() as earlier:
        port = int(earlier.url.split(":")[2].split("/")[0])
    async with Gateway(earlier.url, clock=time.monotonic).running() as gateway:
        # then tokens are refused, for no fault of theirs
        said = await refused(gateway, OLD)
        assert isinstance(said, KeysUnavailable)
        assert str(said) == "the issuer's keys are not known here yet: try again in a few seconds"
        await until(lambda: events)
        assert "Connection refused" in events[0]["reason"]

        # when it is there, they are good
        with serving(port) as issuer:
            issuer.keys = [jwk(RSA, kid="old")]
            await until(lambda: gateway.knows_already(OLD))
    assert [event["event"] for event in events] == ["jwks_unavailable", "jwks_available"]


async def test_the_first_clients_wait_for_the_first_reading(issuer: Issuer) -> None:
    issuer.keys = [jwk(RSA, kid="old")]
    gateway = Gateway(issuer.url)
    waiting = [asyncio.create_task(gateway.knows(OLD)) for _ in range(10)]
    await asyncio.sleep(0)

    async with gateway.running():
        assert all(await asyncio.gather(*waiting))
    assert len(issuer.requests) == 1


async def test_a_reading_that_hangs_is_given_up_and_no_second_one_begins_beside_it(
    gateway: Gateway, issuer: Issuer, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "ATTEMPT", 0.1)
    issuer.answer = issuer.hang
    gateway.clock.now = COOLDOWN

    assert isinstance(await refused(gateway, UNKNOWN), KeysUnavailable)
    gateway.clock.now += 100
    assert isinstance(await refused(gateway, UNKNOWN), KeysUnavailable)

    assert len(issuer.requests) == 2
    assert [event["reason"] for event in events] == [
        "it does not answer in time",
        "the previous attempt is still blocked",
    ]


async def test_stopping_does_not_wait_for_a_reading_that_hangs(issuer: Issuer) -> None:
    issuer.answer = issuer.hang
    gateway = Gateway(issuer.url)

    async with gateway.running():
        await until(lambda: issuer.requests)
        begun = time.monotonic()
    assert time.monotonic() - begun < 0.5

    [thread] = [thread for thread in threading.enumerate() if thread.name == "jwks"]
    assert thread.daemon  # nor does Python wait at its end


# Entries.

OCT = {"kty": "oct", "kid": "old", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg", "alg": "HS256"}


async def test_entries_that_cannot_be_used_are_left_out_with_one_warning(
    issuer: Issuer, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given
    monkeypatch.setattr(jwks, "COOLDOWN", 0)
    issuer.keys = [jwk(OTHER_RSA, use="enc"), OCT, {"kty": "AKP"}, "nonsense", jwk(RSA, kid="old"), None]
    gateway = Gateway(issuer.url)

    # when it is read several times
    async with gateway.running():
        assert await gateway.knows(OLD)
        for _ in range(3):
            assert not await gateway.knows(UNKNOWN)

        # then
        assert len(issuer.requests) >= 3
        [event] = events
        assert (event["event"], event["log_level"], event["usable"]) == ("jwks_entries_unusable", "warning", 1)
        assert [reason.split(":")[0] for reason in event["reasons"]] == [f"entry {n}" for n in (1, 2, 3, 4, 6)]

        # and another reason is told
        issuer.keys = [jwk(RSA, kid="old"), jwk(ED25519, alg="RS256")]
        assert not await gateway.knows(UNKNOWN)
        assert await gateway.knows(OLD)
        assert len(events) == 2


async def test_a_symmetric_key_in_a_list_makes_no_token_good(issuer: Issuer) -> None:
    issuer.keys = [OCT, jwk(RSA, kid="rsa")]
    async with Gateway(issuer.url).running() as gateway:
        for kid in (None, "old", "rsa"):
            said = await refused(gateway, token(b"x" * 32, "HS256", kid=kid))
            assert "not signed with one of RS256" in str(said)


def test_a_list_may_have_members_that_nobody_knows() -> None:
    listing = read_listing(b'{"keys": [], "x": 1}', JWT_ALGORITHMS)

    assert (listing.keys, listing.complaints) == ((), ())


@pytest.mark.parametrize("names", ["none", "some"])
def test_a_token_that_names_no_key_is_tried_with_the_first_eight(names: str) -> None:
    entries = [jwk(P256, kid=f"k{number}" if names == "some" else None) for number in range(20)]
    listing = read_listing(json.dumps({"keys": entries}).encode(), JWT_ALGORITHMS)

    assert listing.candidates(None) == listing.keys[:8]
    assert len(listing.candidates("k13")) == (1 if names == "some" else 8)
    assert len(listing.candidates("unknown")) == (0 if names == "some" else 8)


async def test_no_event_and_no_refusal_quotes_a_token_or_its_kid(
    gateway: Gateway, issuer: Issuer, events: Events
) -> None:
    issuer.answer = issuer.fail
    gateway.clock.now = COOLDOWN
    value = token(OTHER_RSA, "RS256", kid="hunter2", sub="hunter2")

    said = str(await refused(gateway, value)) + str(events)

    assert "hunter2" not in said
    assert not any(piece in said for piece in value.split("."))

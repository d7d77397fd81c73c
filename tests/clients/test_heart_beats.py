"""Every stock client beside its heart-beats: they keep a session, and find the end of one of which nobody tells.

A gateway wants beats every ten seconds and no faster, so all the clients wait for theirs at once: each once in peace,
and once behind a network that freezes.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.clients.stock import KINDS, RECONNECT, Client, Kind, Settings, starting
from tests.clients.tap import Tap
from tests.integration.processes import Gateway, eventually
from tests.integration.rows import Database, insert
from tests.integration.subscriber import assert_nothing_twice
from tests.integration.systems import PostgresOnly

pytestmark = pytest.mark.asyncio(loop_scope="package")

BEATS = 3
"""In each direction. A gateway gives up a client after two and a half periods of silence, so this many are needed."""

LONG = 60.0
"""Seconds until a beat, or the end of a session for want of any, is missing."""


@dataclass
class Watched:
    user: str
    client: Client
    tap: Tap
    row: int = 0
    """Committed while the network was frozen."""


@dataclass
class Story:
    resting: dict[Kind, Watched]
    frozen: dict[Kind, Watched]
    sessions: float
    """Of the gateway of those that are frozen, just before they are."""
    left: float
    """When it had found out."""


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def story(chromium: Browser, postgres_only: PostgresOnly, owner: Database) -> AsyncIterator[Story]:
    async with AsyncExitStack() as stack:
        start = await stack.enter_async_context(starting(chromium))

        async def watched(gateway: Gateway) -> dict[Kind, Watched]:
            taps = [await stack.enter_async_context(Tap(gateway.port)) for _ in KINDS]
            return dict(zip(KINDS, await asyncio.gather(*map(watch, KINDS, taps)), strict=True))

        async def watch(kind: Kind, tap: Tap) -> Watched:
            user = f"alice-{uuid.uuid4().hex[:8]}"
            client = await start(kind, Settings(f"{tap.url}/ws", postgres_only.token(user)))
            await client.until("the replay", lambda: client.replayed)
            return Watched(user, client, tap)

        # Given
        resting, other = await watched(postgres_only.gateway(0)), postgres_only.gateway(1)
        frozen = await watched(other)
        sessions = other.metric("rowbell_sessions")
        # When
        for each in frozen.values():
            each.tap.freeze()
            each.tap.shut = True
            each.row = await insert(owner, each.user)
        # Then
        left = sessions - len(KINDS)
        await eventually("all are found", lambda: other.metric("rowbell_sessions") <= left, LONG)
        left = other.metric("rowbell_sessions")
        for each in frozen.values():
            each.tap.shut = False
        yield Story(resting, frozen, sessions, left)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_session_in_which_nothing_is_said_goes_on_by_its_beats(
    kind: Kind, story: Story, owner: Database
) -> None:
    # Given
    resting = story.resting[kind]
    [link] = resting.tap.sockets
    # When
    await resting.client.until(
        "beats in both directions", lambda: min(link.client.beats, link.gateway.beats) >= BEATS, LONG
    )
    # Then nothing but beats has been said, and the session is there
    assert link.client.commands()[1:] == ["SUBSCRIBE", "SUBSCRIBE"]
    assert sorted(link.gateway.commands()) == ["CONNECTED", "MESSAGE", "RECEIPT", "RECEIPT"]
    id = await insert(owner, resting.user)
    assert "replayed" not in (await resting.client.message(id, "created")).headers
    assert (len(resting.tap.sockets), resting.client.closed) == (1, 0)


async def test_the_sessions_of_clients_whose_network_is_frozen_are_ended(story: Story) -> None:
    assert story.sessions >= len(KINDS)
    assert story.left <= story.sessions - len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_what_ends_such_a_session_says_that_there_was_no_beat(kind: Kind, story: Story) -> None:
    said = story.frozen[kind].tap.sockets[0].gateway
    assert said.commands()[-1] == "ERROR"
    assert "message:no heart-beat from the client" in said.frames[-1]
    assert said.closed == 1002


@pytest.mark.parametrize("kind", KINDS, ids=str)
async def test_a_client_whose_network_is_frozen_notices(kind: Kind, story: Story) -> None:
    client = story.frozen[kind].client
    await client.until("it notices", lambda: client.closed, LONG)
    assert client.errors == [], "nobody told it"


@pytest.mark.parametrize("kind", RECONNECT, ids=str)
async def test_a_client_whose_network_was_frozen_comes_back_and_has_what_it_missed(kind: Kind, story: Story) -> None:
    frozen = story.frozen[kind]
    client = frozen.client
    await client.until("it is back", lambda: len(client.subscriptions) == 2 and client.replayed, LONG)
    assert [(message.headers["notification-id"], message.headers["replayed"]) for message in client.messages] == [
        (str(frozen.row), "true")
    ]
    assert_nothing_twice(client)

"""Parts of the gateway by themselves, where a whole one would not show what they do."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Collection
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest

from rowbell.bus.memory import MemoryBus
from rowbell.gateway import acknowledgements
from rowbell.gateway.acknowledgements import Acknowledgements
from rowbell.gateway.feed import Feed
from rowbell.gateway.gateway import OFFERS_A_TURN, Gateway
from rowbell.gateway.replay import Pager
from rowbell.gateway.subscription import FOLLOWED, PAGE, State
from rowbell.inbox import Epoch, Inbox
from rowbell.inbox.inbox import OF_ONE
from rowbell.notification import DELETED, Change
from rowbell.presence.memory import MemoryPresence
from rowbell.snapshot import Snapshot
from tests.gateway.conftest import TOKENS
from tests.integration.rows import delivered
from tests.postgres_server import PostgresServer


class SlowInbox(Inbox):
    """The real one, each write after a moment."""

    async def record_deliveries(self, deliveries: Collection[tuple[int, str]]) -> None:
        await asyncio.sleep(0.02)
        await super().record_deliveries(deliveries)


async def test_what_is_added_during_two_flushes_is_written_before_its_promise_is_kept(
    server: PostgresServer, database: psycopg.AsyncConnection[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledgements, "BATCH", 5)
    inbox = SlowInbox.connect(server.url("postgres"))
    try:
        deliveries = Acknowledgements(inbox)
        for id in range(1, 16):
            deliveries.add(id, "twice")
        both = asyncio.gather(deliveries.flush(), deliveries.flush())
        await asyncio.sleep(0.01)
        for id in range(16, 26):
            deliveries.add(id, "twice")
        await asyncio.gather(both, deliveries.flush(), deliveries.written())
        assert await delivered(database, "twice") == set(range(1, 26))
    finally:
        await inbox.close()


async def test_deliveries_that_come_while_others_are_written_wait_to_share_a_transaction(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written at once, each in a transaction of its own, they cost four times as much as all else of a message."""
    inbox = Inbox.connect(server.url("postgres"))
    deliveries = Acknowledgements(inbox)
    record, written = inbox.record_deliveries, []

    async def and_one_more_comes(batch: Collection[tuple[int, str]]) -> None:
        await record(batch)
        written.append(len(batch))
        deliveries.add(1000 + len(written), "steady")

    monkeypatch.setattr(inbox, "record_deliveries", and_one_more_comes)
    try:
        deliveries.add(1000, "steady")
        async with asyncio.timeout(10):
            await deliveries.flush()
            await deliveries.flush()
        assert written == [1, 1]
    finally:
        await inbox.close()


def test_a_sweep_that_left_keys_out_is_not_followed_key_by_key() -> None:
    assert FOLLOWED <= OF_ONE


class Idle:
    """A session whose queue is empty; what it is sent is gone."""

    idle = True

    def has_room(self) -> bool:
        return True

    def send_message(self, *_: Any) -> None: ...


def asking(asked: list[Any]) -> Pager:
    """A pager that keeps what it is asked."""
    return cast(Pager, type("Asked", (), {"ask": lambda _, *query: asked.append(query)})())


def test_a_pass_over_a_hundred_thousand_deletions_that_were_sent_already_ends() -> None:
    # Given a live feed that was sent them
    feed = Feed(cast(Any, Idle()), cast(Pager, None), "alice", "1", auto=True)
    subscription = feed.subscription
    subscription.ledger.raise_floor(Snapshot(100, 100))
    deleted = {id: 100 + id for id in range(1, 100_001)}
    for id, tx in deleted.items():
        subscription.ledger.remember(Change(id, "alice", DELETED, 0, tx))
    subscription.drained()
    # When
    asked: list[Any] = []
    feed._pager = asking(asked)
    feed.carry_out(subscription.passed(Snapshot(200_000, 200_000), array("q"), deleted))
    # Then it went through all pages and asks for the next pass
    assert subscription.state is State.LISTING
    assert len(asked) == 1


async def test_a_pass_over_many_deletions_leaves_others_their_turn() -> None:
    # Given a feed whose socket takes all, and a pass of ten pages of which none takes a query
    session = Listing()
    feed = Feed(cast(Any, session), cast(Pager, None), "alice", "1", auto=True)
    feed.subscription.ledger.raise_floor(Snapshot(100, 100))
    feed.subscription.drained()
    asked: list[Any] = []
    feed._pager = asking(asked)
    deleted = {id: 100 + id for id in range(1, 10 * PAGE + 1)}
    # When
    feed.carry_out(feed.subscription.passed(Snapshot(200_000, 200_000), array("q"), deleted))
    # Then it is one page a turn, and the next pass at the end
    assert len(session.sent) == PAGE
    turns = 1
    while not asked:
        await asyncio.sleep(0)
        turns += 1
    assert len(session.sent) == 10 * PAGE
    assert turns >= 10


async def test_whoever_sees_a_new_epoch_first_the_sweep_begins_anew() -> None:
    """Otherwise the floors of sessions of the new epoch would rise to a snapshot of the old one."""
    # Given a gateway whose sweep has found something in the old epoch
    gateway = Gateway(cast(Inbox, None), MemoryPresence(), MemoryBus(), TOKENS)
    old, new = Epoch(uuid4(), 0), Epoch(uuid4(), 0)
    assert gateway._epoch_seen(old)
    gateway._sweeper._previous, gateway._sweeper._found = Snapshot(200, 200), cast(Any, "found")
    # When a pass sees the new one
    assert not gateway._epoch_seen(new)
    # Then
    assert (gateway._sweeper._previous, gateway._sweeper._found) == (None, None)
    assert gateway._epoch_seen(new)


async def test_a_topic_of_thousands_leaves_others_their_turn_and_who_leaves_meanwhile_is_sent_nothing() -> None:
    # Given a gateway with many live feeds of one topic
    gateway = Gateway(cast(Inbox, None), MemoryPresence(), MemoryBus(), TOKENS)
    feeds = []
    for number in range(2000):
        feed = Feed(cast(Any, Listing()), cast(Pager, None), "topic:x", str(number), True)
        feed.subscription.ledger.raise_floor(Snapshot(100, 100))
        feed.subscription.state = State.LIVE
        gateway._registry.feeds.add(feed)
        feeds.append(feed)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            feeds[-1].end()
            await asyncio.sleep(0)

    # When
    waiting = asyncio.create_task(others())
    await gateway.deliver([Change(id, "topic:x", 1, 200, 200, f'"id":{id}}}') for id in range(1, 11)])
    waiting.cancel()
    # Then
    assert turns >= 2000 * 10 // OFFERS_A_TURN
    sent = [len(cast(Any, feed._session).sent) for feed in feeds]
    assert sent == [10] * 1999 + [0]


class Listing(Idle):
    """A session that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_message(self, *message: Any) -> None:
        self.sent.append(message)

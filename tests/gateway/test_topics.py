"""Topics: everybody who is subscribed, each change once, from now on, and who may."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.bus import Bundle
from rowbell.config import Settings
from rowbell.errors import SettingsError
from rowbell.gateway.topics import allow, patterns, recipient_of, topic_of
from rowbell.notification import Change
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.test_gateway import close_code, next_frame, say_hello, socket
from tests.integration.processes import eventually
from tests.integration.rows import delivered, insert, unread
from tests.integration.subscriber import Frame, Subscriber, assert_nothing_twice

Database = psycopg.AsyncConnection[tuple[object, ...]]


def member(running: Running, user: str, *topics: str) -> Subscriber:
    return Subscriber(running.url, TOKENS.issue(user, 3600, topics=topics), reconnect=False)


async def follow(client: Subscriber, topic: str, ack: str = "auto") -> None:
    """Subscribe, and wait for the receipt."""
    await client.send("SUBSCRIBE", id=topic, destination=f"/topic/{topic}", ack=ack, receipt=topic)
    await client.until(lambda: topic in client.subscriptions[-1].receipts, "the receipt of SUBSCRIBE")


async def has(client: Subscriber, messages: int, what: str) -> None:
    await client.until(lambda: len(client.messages) >= messages, what)


def of_topic(client: Subscriber, topic: str) -> list[Frame]:
    return [message for message in client.messages if message.headers["destination"] == f"/topic/{topic}"]


def ids(messages: list[Frame]) -> list[int]:
    return [int(message.headers["notification-id"]) for message in messages]


class TestWhatComes:
    async def test_two_users_get_each_change_once_and_what_was_there_before_is_not_replayed(
        self, running_gateway: Running, database: Database
    ) -> None:
        await insert(database, "topic:both")
        async with (
            member(running_gateway, "alice", "both") as alice,
            member(running_gateway, "bob", "both") as bob,
        ):
            await follow(alice, "both")
            await follow(bob, "both")
            id = await insert(database, "topic:both")
            for client in (alice, bob):
                await has(client, 1, "the row")
            await database.execute("UPDATE notification SET title = 'Other' WHERE id = %s", [id])
            for client in (alice, bob):
                await has(client, 2, "the update")
            await database.execute("DELETE FROM notification WHERE id = %s", [id])
            last = await insert(database, "topic:both")
            for client in (alice, bob):
                await has(client, 4, "the deletion and the last row")
                assert_nothing_twice(client)
                events = {(int(m.headers["notification-id"]), m.headers["event"]) for m in client.messages}
                assert events == {(id, "created"), (id, "updated"), (id, "deleted"), (last, "created")}
                assert not any("replayed" in message.headers for message in client.messages)
                assert json.loads(client.messages[0].body)["recipientId"] == "topic:both"

    async def test_an_older_row_comes_when_it_is_changed_or_deleted(
        self, running_gateway: Running, database: Database
    ) -> None:
        older = [await insert(database, "topic:older") for _ in range(2)]
        async with member(running_gateway, "alice", "older") as alice:
            await follow(alice, "older")
            await database.execute("UPDATE notification SET title = 'Other' WHERE id = %s", [older[0]])
            await database.execute("DELETE FROM notification WHERE id = %s", [older[1]])
            await alice.until(lambda: len(alice.messages) == 2, "both")
            assert {(i, m.headers["event"]) for i, m in zip(ids(alice.messages), alice.messages, strict=True)} == {
                (older[0], "updated"),
                (older[1], "deleted"),
            }

    async def test_a_transaction_that_is_open_during_subscribe_is_not_missed(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with member(running_gateway, "alice", "open") as alice:
            async with database.transaction():
                id = await insert(database, "topic:open")
                await follow(alice, "open")
                assert alice.messages == []
            await alice.until(lambda: id in alice.seen, "the row")
            assert alice.messages[0].headers["event"] == "created"

    async def test_what_commits_while_somebody_subscribes_comes_once_from_the_receipt_on(
        self, running_gateway: Running, database: Database
    ) -> None:
        committed: list[int] = []

        async def write() -> None:
            while True:
                committed.append(await insert(database, "topic:busy"))

        writing = asyncio.create_task(write())
        try:
            async with member(running_gateway, "alice", "busy") as alice:
                await eventually("rows are written", lambda: len(committed) > 20)
                before = len(committed) - 1
                await follow(alice, "busy")
                after = len(committed)
                await eventually("more are written", lambda: len(committed) > after + 20)
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
                last = await insert(database, "topic:busy")
                await alice.until(lambda: {*committed[after:], last} <= alice.seen, "all since the receipt")
                assert_nothing_twice(alice)
                assert alice.seen.isdisjoint(committed[:before])
        finally:
            writing.cancel()

    async def test_the_bus_brings_changes_and_presence_says_where_to(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with member(running_gateway, "alice", "bus") as alice:
            await follow(alice, "bus")
            [gateway] = (await running_gateway.presence.gateways_of(["topic:bus"]))["topic:bus"]
            id = await insert(database, "topic:bus")
            cursor = await database.execute("SELECT changed_tx FROM notification WHERE id = %s", [id])
            row = await cursor.fetchone()
            assert row is not None
            tx = int(str(row[0]))
            change = Change(id, "topic:bus", 1, tx, tx, f'"id":{id}}}')
            await running_gateway.bus.publish([Bundle(gateway, [change, change])])
            last = await insert(database, "topic:bus")
            await alice.until(lambda: last in alice.seen, "the next one, by the sweep")
            assert ids(alice.messages) == [id, last]

            await alice.send("UNSUBSCRIBE", id="bus")

            async def forgotten() -> bool:
                return await running_gateway.presence.gateways_of(["topic:bus"]) == {}

            await eventually("presence forgets", forgotten)

    @pytest.mark.parametrize("running_gateway", [Settings(max_unacknowledged=50)], indirect=True)
    async def test_who_does_not_acknowledge_pages_from_where_it_was(
        self, running_gateway: Running, database: Database
    ) -> None:
        await insert(database, "topic:slow")
        async with member(running_gateway, "alice", "slow") as alice:
            await follow(alice, "slow", "client")
            written = [await insert(database, "topic:slow") for _ in range(100)]
            await alice.until(lambda: len(alice.messages) >= 50, "as many as may wait")
            await database.execute(
                "INSERT INTO notification (recipient_id, title) SELECT 'topic:slow', 'n' FROM generate_series(1, 500)"
            )
            await database.execute("DELETE FROM notification WHERE id = %s", [written[0]])
            last = await insert(database, "topic:slow")
            while last not in alice.seen:
                await alice.send("ACK", id=alice.messages[-1].headers["ack"])
                await has(alice, len(alice.messages) + 1, "more")
            created = [m for m in alice.messages if m.headers["event"] == "created"]
            assert len(created) == len(set(ids(created))) == 601
            assert created[-1].headers["replayed"] == "true"
            assert (written[0], "deleted") in {
                (i, m.headers["event"]) for i, m in zip(ids(alice.messages), alice.messages, strict=True)
            }
            assert_nothing_twice(alice)


class TestWhatIsLeftAlone:
    async def test_topics_have_no_delivery_records_and_are_not_marked_as_read(
        self, running_gateway: Running, database: Database
    ) -> None:
        own = await insert(database, "reader")
        async with member(running_gateway, "reader", "left.#") as client:
            await follow(client, "left.auto")
            await follow(client, "left.acked", "client-individual")
            rows = [await insert(database, f"topic:left.{name}") for name in ("auto", "acked")]
            await client.until(lambda: {own, *rows} <= client.seen, "all rows")
            [acked] = of_topic(client, "left.acked")
            await client.send("ACK", id=acked.headers["ack"], receipt="acked")
            await client.until(lambda: "acked" in client.subscriptions[0].receipts, "the receipt of ACK")
            await client.read()
            await client.read(*rows)
            assert await unread(database, "reader") == []
            cursor = await database.execute(
                "SELECT count(*) FROM notification WHERE read_at IS NULL AND id = ANY(%s)", [rows]
            )
            assert await cursor.fetchone() == (2,)

            async def recorded() -> bool:
                return await delivered(database, "reader") == {own}

            await eventually("the user's own row is recorded", recorded)

    async def test_all_needs_a_subscription_to_the_users_own(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, Authorization=f"Bearer {TOKENS.issue('alice', 60, topics=['t'])}")
            await opened.send("SUBSCRIBE\nid:1\ndestination:/topic/t\nreceipt:r\n\n\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "r"
            await opened.send('SEND\ndestination:/app/notifications/read\n\n{"all":true}\0')
            assert "Subscribe to /user/queue/notifications first" in (await next_frame(opened)).body


class TestPermission:
    @pytest.mark.parametrize("running_gateway", [Settings(public_topics="status,news.#")], indirect=True)
    async def test_the_public_list_allows_everybody(self, running_gateway: Running, database: Database) -> None:
        async with running_gateway.subscriber("nobody") as client:
            await follow(client, "news.sport.uk")
            id = await insert(database, "topic:news.sport.uk")
            await client.until(lambda: id in client.seen, "the row")

    @pytest.mark.parametrize("exists", [True, False])
    async def test_a_refusal_does_not_tell_whether_there_is_such_a_topic(
        self, running_gateway: Running, database: Database, exists: bool
    ) -> None:
        if exists:
            await insert(database, "topic:secret")
        async with socket(running_gateway) as opened:
            await say_hello(opened, Authorization=f"Bearer {TOKENS.issue('alice', 60, topics=['secrets'])}")
            await opened.send("SUBSCRIBE\nid:1\ndestination:/topic/secret\nreceipt:r\n\n\0")
            error = await next_frame(opened)
            assert (error.command, error.headers["receipt-id"]) == ("ERROR", "r")
            assert error.headers["message"] == "the token does not allow /topic/secret"
            assert error.body.endswith(". The token's topics claim must contain a pattern that matches the name.")
            assert await close_code(opened) == 1008

    @pytest.mark.parametrize(
        "destination",
        ["/topic/", "/topic/topic\\cx", "/topic/a/b", "/topic/*", "/topic/#", "/topic/a\\nb", "/topic/" + "x" * 250],
    )
    async def test_what_no_row_can_have_as_its_topic_is_no_destination(
        self, running_gateway: Running, destination: str
    ) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, Authorization=f"Bearer {TOKENS.issue('alice', 60, topics=['#'])}")
            await opened.send(f"SUBSCRIBE\nid:1\ndestination:{destination}\nreceipt:r\n\n\0")
            assert "there is no destination" in (await next_frame(opened)).headers["message"]
            assert await close_code(opened) == 1002

    async def test_a_newer_token_with_fewer_topics_ends_the_session(self, running_gateway: Running) -> None:
        async with member(running_gateway, "alice", "kept", "lost") as alice:
            await follow(alice, "kept")
            await alice.send("SEND", TOKENS.issue("alice", 60, topics=["kept"]), destination="/app/token", receipt="1")
            await alice.until(lambda: "1" in alice.subscriptions[0].receipts, "the receipt: nothing was lost")
            more = TOKENS.issue("alice", 60, topics=["kept", "lost"])
            await alice.send("SEND", more, destination="/app/token")
            await follow(alice, "lost")
            await alice.send("SEND", TOKENS.issue("alice", 60, topics=["kept"]), destination="/app/token", receipt="2")
            await alice.until(lambda: alice.subscriptions[0].closed, "the close")
            assert alice.subscriptions[0].closed == 1008
            assert alice.errors[0].headers["message"] == "the new token does not allow /topic/lost"
            assert "2" not in alice.subscriptions[0].receipts


class TestNames:
    @pytest.mark.parametrize(
        ("pattern", "topic", "allowed"),
        [
            ("news", "news", True),
            ("news", "News", False),
            ("news", "news.sport", False),
            ("news.*", "news.sport", True),
            ("news.*", "news.sport.uk", False),
            ("news.*", "news", False),
            ("news.s*t", "news.sport", True),
            ("news.s*t", "news.sports", False),
            ("*-*-*", "a-b-c", True),
            ("a*a", "a", False),
            ("*ab*ab*", "ab", False),
            ("*", "news", True),
            ("*", "news.sport", False),
            ("#", "news.sport", True),
            ("news.#", "news", True),
            ("news.#", "news.sport.uk", True),
            ("news.#", "newsroom", False),
            ("*.#", "a.b.c", True),
            ("news#", "news", False),
            ("#.sport", "news.sport", False),
            ("a.", "a", False),
            ("[a-z]", "a", False),
        ],
    )
    def test_a_pattern_allows_what_it_looks_like(self, pattern: str, topic: str, allowed: bool) -> None:
        assert allow([pattern], topic) is allowed

    def test_many_stars_take_no_time(self) -> None:
        assert not allow(["*a" * 127], "a" * 126 + "b" * 123)

    @given(st.text(min_size=1, max_size=260))
    def test_a_topics_recipient_is_no_users_and_what_the_table_takes(self, name: str) -> None:
        topic = topic_of("/topic/" + name)
        if topic is not None:
            assert topic == name
            recipient = recipient_of(topic)
            assert recipient.count(":") == 1
            assert len(recipient) <= 255
            assert not set(recipient) & set("/*#\n\0")

    def test_other_destinations_are_no_topics(self) -> None:
        assert [topic_of(each) for each in ("topic", "/topic", "/topics/x", "/user/queue/unread", "x/topic/x")] == [
            None
        ] * 5

    @pytest.mark.parametrize("value", ["a,,b", "a/b", "topic:a", "a#", "#.a", "a.#.b", "x" * 256, "a\tb"])
    def test_a_public_list_that_means_nothing_is_refused_at_the_start(self, value: str) -> None:
        with pytest.raises(SettingsError, match="ROWBELL_PUBLIC_TOPICS is wrong"):
            Settings.from_env({"ROWBELL_PUBLIC_TOPICS": value})

    def test_a_public_list_may_have_spaces_and_patterns(self) -> None:
        setting = Settings.from_env({"ROWBELL_PUBLIC_TOPICS": "status, news.#,*.x,#"}).public_topics
        assert patterns(setting) == ("status", "news.#", "*.x", "#")
        assert patterns(None) == ()

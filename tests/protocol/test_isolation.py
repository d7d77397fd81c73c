"""Nobody gets, acknowledges, marks or counts the rows of somebody else, whatever they write and wherever."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from tests.integration.rows import delivered, insert, unread
from tests.integration.systems import PostgresOnly
from tests.protocol.two import Two, said
from tests.protocol.wire import NOTIFICATIONS, READ, UNREAD, VERSIONS, Frame, Wire, frame

Names = Callable[[str], str]

every_version = pytest.mark.parametrize("version", VERSIONS)


class TestDestinations:
    @pytest.mark.parametrize(
        "destination",
        [
            "/user/{bob}/queue/notifications",
            "/user/{bob}/queue/unread",
            "/user/queue/notifications/{bob}",
            "/user/queue/notifications-{bob}",
            "/user/queue/notifications?user={bob}",
            "/user/queue/notifications#{bob}",
            "/user/queue/notifications;{bob}",
            "/user/queue/notifications,/user/{bob}/queue/notifications",
            "/user/queue/../{bob}/queue/notifications",
            "/user/../user/{bob}/queue/notifications",
            "/user//{bob}/queue/notifications",
            "/user/%2e%2e/{bob}/queue/notifications",
            "/user/{bob}%2fqueue%2fnotifications",
            "/user/queue/notifications%00{bob}",
            "/user/*/queue/notifications",
            "/user/#",
            "/user/queue/notifications ",
            "/user/queue/notificatiоns",  # with a Cyrillic o
            "／user／{bob}／queue／notifications",
            "/user/queue/notifications\u200b",
            "/queue/{bob}",
            "/queue/notifications",
            "/queue/notifications-{bob}",
            "/exchange/notifications/{bob}",
            "/topic/{bob}",
            "/topic/user/{bob}",
            "/topic/user.{bob}",
            "/topic/user\\c{bob}",
            "/topic/topic\\c{bob}",
            "/topic/../user/{bob}/queue/notifications",
            "{bob}",
        ],
    )
    async def test_no_destination_but_ones_own_is_let_in(self, two: Two, alice: Wire, destination: str) -> None:
        await alice.send(frame("SUBSCRIBE", "id:other", f"destination:{destination.format(bob=two.bob)}"))
        await insert(two.database, two.bob)
        frames, code = await alice.rest()
        assert ([each.command for each in frames], code in (1002, 1008)) == (["ERROR"], True)
        await two.assert_untouched()

    @pytest.mark.parametrize(
        ("version", "destination"),
        [
            ("1.0", r"/user\c{bob}/queue/notifications"),
            ("1.1", r"/user\c{bob}/queue/notifications"),
            ("1.2", r"/user/queue/notifications\r"),
            ("1.2", r"/user/queue/notifications\n"),
            ("1.1", r"/user/queue/notifications\\"),
            ("1.0", r"/user/queue/notifications\n"),
            ("1.0", r"/topic/topic\c{bob}"),
            ("1.0", "/topic/topic:{bob}"),
            ("1.1", "/topic/topic:{bob}"),
            ("1.2", "/topic/topic:{bob}"),
            ("1.2", r"/topic/\n{bob}"),
        ],
    )
    async def test_escapes_lead_nowhere_else(self, two: Two, version: str, destination: str) -> None:
        async with two.site.connected(two.alice, version) as wire:
            await wire.send(frame("SUBSCRIBE", "id:1", f"destination:{destination.format(bob=two.bob)}"))
            assert (await wire.refused())[1] in (1002, 1008)
        await two.assert_untouched()

    @every_version
    async def test_of_two_destinations_the_first_is_checked_and_used(self, two: Two, version: str) -> None:
        own, other = f"destination:{NOTIFICATIONS}", f"destination:/user/{two.bob}/queue/notifications"
        async with two.site.connected(two.alice, version) as wire:
            await wire.send(frame("SUBSCRIBE", "id:1", own, other))
            await two.nothing_of_bobs_comes(wire)
            await wire.send(frame("SUBSCRIBE", "id:2", other, own))
            assert (await wire.refused())[1] == 1002
        await two.assert_untouched()

    @every_version
    @pytest.mark.parametrize("destination", [NOTIFICATIONS, UNREAD])
    async def test_headers_beside_the_destination_name_nobody(self, two: Two, version: str, destination: str) -> None:
        bob = two.bob
        names = ("recipient", "recipient-id", "user", "user-name", "user-id", "login", "sub", "x-user", "simpUser")
        lines = (
            *(f"{name}:{bob}" for name in names),
            f"selector:recipient_id = '{bob}' OR 1=1",
            f"Authorization:Bearer {two.site.token(bob)}",
            f"session:{bob}",
        )
        async with two.site.connected(two.alice, version) as wire:
            came = await wire.subscribe("1", destination, *lines)
            if destination == UNREAD:
                assert [each.body for each in came] == ['{"unread":1}']
                await wire.subscribe("2")
            two.assert_without_bob(came)
            await two.nothing_of_bobs_comes(wire)
        await two.assert_untouched()


class TestTopics:
    @pytest.mark.parametrize(
        "name",
        [
            "secret",
            "news",
            "news*",
            "news.*",
            "news.#",
            "#",
            "*",
            "news.today.secret",
            ".news.today",
            "News.today",
            "news%2Etoday",
            "news．today",  # with a full stop of full width
            "nеws.today",  # with a Cyrillic e
            "news\u200b.today",
            "news .today",
            "topic\\cnews.today",
            "news.today/secret",
        ],
    )
    async def test_a_topic_that_no_pattern_allows_is_refused(self, two: Two, name: str) -> None:
        async with two.site.connected(two.alice, topics=["news.*", "sport"]) as wire:
            await wire.subscribe("0", "/topic/news.today")
            await wire.send(frame("SUBSCRIBE", "id:1", f"destination:/topic/{name}"))
            assert (await wire.refused())[1] in (1002, 1008)

    async def test_a_token_without_topics_has_none(self, two: Two, user: Names) -> None:
        topic = user("topic")
        await insert(two.database, f"topic:{topic}")
        async with two.site.connected(two.alice) as wire:
            await wire.send(frame("SUBSCRIBE", "id:1", f"destination:/topic/{topic}", f"topics:{topic}"))
            assert (await wire.refused())[1] == 1008

    async def test_who_may_have_every_topic_has_no_ones_notifications(self, two: Two) -> None:
        async with two.site.connected(two.alice, topics=["#"]) as wire:
            await wire.subscribe("own")
            assert await wire.subscribe("topic", f"/topic/{two.bob}") == []
            assert [each.headers["subscription"] for each in await two.nothing_of_bobs_comes(wire)] == ["own"]
            of_topic = await insert(two.database, f"topic:{two.bob}")
            message = await wire.message(of_topic)
        assert json.loads(message.body)["recipientId"] == f"topic:{two.bob}"
        await two.assert_untouched()

    async def test_a_topic_marks_and_counts_nothing(self, two: Two, user: Names) -> None:
        topic = user("topic")
        async with two.site.connected(two.alice, topics=[topic]) as wire:
            await wire.subscribe("1", f"/topic/{topic}", "ack:client")
            id = await insert(two.database, f"topic:{topic}")
            message = await wire.message(id)
            await wire.send(frame("ACK", f"id:{message.headers['ack']}", "receipt:a"))
            await wire.until("RECEIPT", receipt_id="a")
            await wire.send(frame("SEND", f"destination:{READ}", "receipt:r", body=f'{{"ids":[{id}]}}'))
            await wire.until("RECEIPT", receipt_id="r")
            assert [each.body for each in await wire.subscribe("2", UNREAD)] == ['{"unread":1}']
            await wire.barrier()
        assert await delivered(two.database, two.alice) == set()
        cursor = await two.database.execute("SELECT read_at FROM notification WHERE id = %s", [id])
        assert await cursor.fetchone() == (None,)


class TestAcknowledging:
    @pytest.fixture
    async def bobs(self, two: Two) -> AsyncIterator[tuple[Wire, Frame]]:
        """Bob's session, and the message in it that waits for his ACK."""
        async with two.site.connected(two.bob) as wire:
            (message,) = await wire.subscribe("bobs", NOTIFICATIONS, "ack:client-individual")
            yield wire, message

    async def assert_still_bobs(self, two: Two, bobs: tuple[Wire, Frame]) -> None:
        """It still waits: his ACK for it counts."""
        await two.assert_untouched()
        wire, message = bobs
        await wire.send(frame("ACK", f"id:{message.headers['ack']}", "receipt:his"))
        await wire.until("RECEIPT", receipt_id="his")
        assert await delivered(two.database, two.bob) == {two.bobs}
        assert two.bobs not in await delivered(two.database, two.alice)

    @every_version
    @pytest.mark.parametrize("command", ["ACK", "NACK"])
    @pytest.mark.parametrize("in_transaction", [False, True])
    async def test_the_id_of_a_message_of_another_session_is_an_error(
        self, two: Two, bobs: tuple[Wire, Frame], version: str, command: str, in_transaction: bool
    ) -> None:
        id = bobs[1].headers["ack"]
        async with two.site.connected(two.alice, version) as wire:
            await wire.subscribe("bobs", NOTIFICATIONS, "ack:client")
            await wire.send(frame("BEGIN", "transaction:t"))
            lines = (f"id:{id}", f"message-id:{id}", "subscription:bobs", *(["transaction:t"] * in_transaction))
            await wire.send(frame(command, *lines) + frame("COMMIT", "transaction:t", "receipt:c"))
            assert (await wire.refused())[1] == 1002
        assert await delivered(two.database, two.alice) == set()
        await self.assert_still_bobs(two, bobs)

    @every_version
    async def test_while_nothing_is_acknowledged_it_is_ignored(
        self, two: Two, bobs: tuple[Wire, Frame], version: str
    ) -> None:
        id = bobs[1].headers["ack"]
        async with two.site.connected(two.alice, version) as wire:
            for command in ("ACK", "NACK"):
                await wire.send(frame(command, f"id:{id}", f"message-id:{id}", f"receipt:{command}"))
                await wire.until("RECEIPT", receipt_id=command)
        await self.assert_still_bobs(two, bobs)

    async def test_nor_does_another_session_of_the_same_user(self, two: Two, bobs: tuple[Wire, Frame]) -> None:
        async with two.site.connected(two.bob) as wire:
            await wire.subscribe("bobs", NOTIFICATIONS, "ack:client")
            await wire.send(frame("ACK", f"id:{bobs[1].headers['ack']}"))
            assert (await wire.refused())[1] == 1002
        await self.assert_still_bobs(two, bobs)

    async def test_the_subscription_of_another_session_cannot_be_ended(
        self, two: Two, bobs: tuple[Wire, Frame], alice: Wire
    ) -> None:
        await alice.send(frame("UNSUBSCRIBE", "id:bobs", f"session:{bobs[1].headers['ack'][:-2]}"))
        assert await alice.barrier() == []
        await bobs[0].message(await insert(two.database, two.bob))

    async def test_the_transaction_of_another_session_cannot_be_ended(
        self, two: Two, bobs: tuple[Wire, Frame], alice: Wire
    ) -> None:
        await bobs[0].send(frame("BEGIN", "transaction:t", "receipt:b"))
        await bobs[0].until("RECEIPT", receipt_id="b")
        await alice.send(frame("ABORT", "transaction:t"))
        assert (await alice.refused())[1] == 1002
        await bobs[0].send(frame("ACK", f"id:{bobs[1].headers['ack']}", "transaction:t"))
        await bobs[0].send(frame("COMMIT", "transaction:t", "receipt:c"))
        await bobs[0].until("RECEIPT", receipt_id="c")
        assert await delivered(two.database, two.bob) == {two.bobs}


class TestMarkingAsRead:
    @every_version
    async def test_anothers_row_is_answered_as_one_that_does_not_exist_and_stays_unread(
        self, two: Two, version: str
    ) -> None:
        async with two.site.connected(two.alice, version) as wire, two.site.connected(two.bob, version) as bob:
            await wire.subscribe("1")
            await bob.subscribe("1")
            answers = []
            for id in (two.bobs, 2**53 - 1):
                await wire.send(frame("SEND", f"destination:{READ}", "receipt:r", body=f'{{"ids":[{id}]}}'))
                answers.append(await wire.until("RECEIPT", receipt_id="r"))
            assert answers[0] == answers[1]
            own = await insert(two.database, two.bob)
            assert [each.headers["event"] for each in await bob.until("MESSAGE", notification_id=str(own))] == [
                "created"
            ]
        cursor = await two.database.execute("SELECT read_at, version FROM notification WHERE id = %s", [two.bobs])
        assert await cursor.fetchone() == (None, 1)

    async def test_beside_ones_own_it_is_passed_over(self, two: Two, alice: Wire) -> None:
        body = json.dumps({"ids": [two.bobs, two.alices]})
        await alice.send(frame("SEND", f"destination:{READ}", "receipt:r", body=body))
        await alice.until("RECEIPT", receipt_id="r")
        assert await unread(two.database, two.alice) == []
        await two.assert_untouched()

    async def test_that_anothers_row_is_locked_is_not_to_be_seen(
        self, two: Two, alice: Wire, postgres_only: PostgresOnly
    ) -> None:
        async with await psycopg.AsyncConnection.connect(postgres_only.database_url) as locking:
            await locking.execute("SELECT FROM notification WHERE id = %s FOR UPDATE", [two.bobs])
            await alice.send(frame("SEND", f"destination:{READ}", "receipt:r", body=f'{{"ids":[{two.bobs}]}}'))
            assert [each.headers for each in await alice.until("RECEIPT")] == [{"receipt-id": "r"}]
        await two.assert_untouched()

    @pytest.mark.parametrize("mode", ["auto", "client"])
    async def test_all_is_ones_own(self, two: Two, mode: str) -> None:
        async with two.site.connected(two.alice) as wire:
            (message,) = await wire.subscribe("1", NOTIFICATIONS, f"ack:{mode}")
            await wire.send(frame("ACK", f"id:{message.headers['message-id']}"))
            lines = (f"destination:{READ}", f"user:{two.bob}", f"recipient:{two.bob}", "receipt:r")
            await wire.send(frame("SEND", *lines, body='{"all":true}'))
            await wire.until("RECEIPT", receipt_id="r")
        assert await unread(two.database, two.alice) == []
        await two.assert_untouched()

    @pytest.mark.parametrize("member", ["user", "recipient", "recipientId", "recipient_id", "sub"])
    async def test_a_member_that_names_somebody_is_refused(self, two: Two, alice: Wire, member: str) -> None:
        body = json.dumps({"ids": [two.alices, two.bobs], member: two.bob})
        await alice.send(frame("SEND", f"destination:{READ}", body=body))
        assert (await alice.refused())[1] == 1002
        assert await unread(two.database, two.alice) == [two.alices]
        await two.assert_untouched()


class TestTheNumber:
    async def test_it_counts_ones_own(self, two: Two) -> None:
        for _ in range(3):
            await insert(two.database, two.bob)
        async with two.site.connected(two.alice) as wire:
            assert [each.body for each in await wire.subscribe("1", UNREAD)] == ['{"unread":1}']
            await insert(two.database, two.bob)
            await insert(two.database, two.alice)
            numbers = [(await wire.next()).body]
            while numbers[-1] != '{"unread":2}':
                numbers.append((await wire.next()).body)
        assert set(numbers) <= {'{"unread":1}', '{"unread":2}'}


class TestPlainJson:
    @asynccontextmanager
    async def session(self, two: Two, query: str = "") -> AsyncIterator[Wire]:
        async with two.site.open(f"/ws?token={two.site.token(two.alice)}{query}") as wire:
            await said(wire, {"type": "LIVE"}, two.alice)
            yield wire

    async def obeyed(self, two: Two, wire: Wire, **command: Any) -> list[dict[str, Any]]:
        await wire.send(json.dumps(command | {"receipt": "r"}))
        return await said(wire, {"type": "RECEIPT", "receipt": "r"}, two.alice)

    @pytest.mark.parametrize("query", ["", "&ack=client"])
    async def test_anothers_row_is_not_acknowledged(self, two: Two, query: str) -> None:
        async with self.session(two, query) as wire:
            answers = [(await self.obeyed(two, wire, type="ack", id=id))[-1] for id in (two.bobs, 2**53 - 1)]
        assert answers[0] == answers[1]
        assert await delivered(two.database, two.alice) <= {two.alices}
        await two.assert_untouched()

    async def test_nor_marked_as_read(self, two: Two) -> None:
        async with self.session(two) as wire:
            answers = [(await self.obeyed(two, wire, type="read", ids=[id]))[-1] for id in (two.bobs, 2**53 - 1)]
            await self.obeyed(two, wire, type="read", all=True)
        assert answers[0] == answers[1]
        assert await unread(two.database, two.alice) == []
        await two.assert_untouched()

    async def test_nor_seen_nor_counted(self, two: Two) -> None:
        async with self.session(two) as wire:
            await insert(two.database, two.bob)
            own = await insert(two.database, two.alice)
            came = await said(wire, {"event": "created", "id": own}, two.alice)
            if not any(each.get("unread") == 2 for each in came):
                came += await said(wire, {"type": "UNREAD", "unread": 2}, two.alice)
        assert {each["unread"] for each in came if "unread" in each} <= {1, 2}

    async def test_another_users_token_ends_the_session(self, two: Two) -> None:
        async with self.session(two) as wire:
            await wire.send(json.dumps({"type": "token", "token": two.site.token(two.bob), "receipt": "r"}))
            await said(wire, {"type": "ERROR"}, two.alice)
            assert await wire.rest() == ([], 1008)

    @pytest.mark.parametrize(
        "command",
        [
            {"type": "read", "ids": ["{alices}", "{bobs}"], "user": "{bob}"},
            {"type": "read", "ids": ["{alices}"], "recipientId": "{bob}"},
            {"type": "read", "all": True, "user": "{bob}"},
            {"type": "ack", "id": "{bobs}", "user": "{bob}"},
            {"type": "ack", "ids": ["{bobs}"]},
            {"type": "ping", "user": "{bob}"},
            {"type": "subscribe", "destination": "/user/{bob}/queue/notifications"},
            {"type": "subscribe", "user": "{bob}"},
            {"type": "CONNECTED", "user": "{bob}"},
            {"event": "updated", "id": "{bobs}", "readAt": 1},
        ],
        ids=lambda command: json.dumps(command)[:40],
    )
    async def test_a_command_with_more_to_it_is_refused_and_nothing_of_it_done(
        self, two: Two, command: dict[str, Any]
    ) -> None:
        text = json.dumps(command).replace("{bob}", two.bob)
        text = text.replace('"{alices}"', str(two.alices)).replace('"{bobs}"', str(two.bobs))
        async with self.session(two) as wire:
            await wire.send(text)
            await said(wire, {"type": "ERROR"}, two.alice)
            assert await wire.rest() == ([], 1002)
        assert await unread(two.database, two.alice) == [two.alices]
        await two.assert_untouched()

"""What Rowbell is for: a row is committed, and whoever it is for has it, on every device and when they come back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import aio_pika
import pytest
import redis

from rowbell.bus.rabbitmq import EXCHANGE, EXCHANGE_TO_ALL
from tests.integration.processes import eventually
from tests.integration.rows import Database, delivered, insert, unread
from tests.integration.subscriber import Subscriber, assert_nothing_twice
from tests.integration.systems import Pipeline, System

Names = Callable[[str], str]


async def test_a_row_for_nobody_costs_no_message_and_is_found_on_coming_back(
    pipeline: Pipeline, database: Database, user: Names
) -> None:
    alice, bob = user("alice"), user("bob")
    async with pipeline.subscriber(bob, 0), pipeline.subscriber(bob, 1):
        gateways = await _gateways_of(pipeline, bob)
        assert len(gateways) == 2
        nobody = pipeline.dispatcher.metric("rowbell_dispatched_total", outcome="nobody")
        async with Spy(pipeline, gateways) as spy:
            id = await insert(database, alice)
            await eventually(
                "the dispatcher found nobody",
                lambda: pipeline.dispatcher.metric("rowbell_dispatched_total", outcome="nobody") > nobody,
            )
            assert await unread(database, alice) == [id]
            marker = await insert(database, bob)
            await eventually("the spy sees what bob gets", lambda: len(spy.seen) >= 2)
            assert all(str(marker).encode() in body for body in spy.seen)
            assert not any(alice.encode() in body for body in spy.seen)

    async with pipeline.subscriber(alice, ack="client-individual") as client:
        assert [(m.headers["notification-id"], m.headers["replayed"]) for m in client.messages] == [(str(id), "true")]

        async def acknowledged() -> bool:
            return await delivered(database, alice) == {id}

        await eventually("the ACK is recorded", acknowledged)
        assert await unread(database, alice) == [id]

        async with pipeline.subscriber(alice, 1) as other_device:
            await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [id])
            for device in (client, other_device):
                await device.until(lambda d=device: len(d.messages) == 2, "the reading is seen")  # type: ignore[misc]
                update = json.loads(device.messages[1].body)
                assert (update["event"], update["version"]) == ("updated", 2)
                assert abs(update["readAt"] - time.time() * 1000) < 60_000
        assert await unread(database, alice) == []
    async with pipeline.subscriber(alice) as later:
        assert later.messages == []


async def test_every_device_and_tab_gets_each_row_once(system: System, database: Database, user: Names) -> None:
    alice = user("alice")
    async with (
        system.subscriber(alice, 0) as tab,
        system.subscriber(alice, 0) as other_tab,
        system.subscriber(alice, 1) as phone,
    ):
        created = [await insert(database, alice, f"row {n}") for n in range(20)]
        for device in (tab, other_tab, phone):
            await device.until(lambda d=device: len(d.seen) == 20, "twenty rows")  # type: ignore[misc]
            assert device.subscriptions[0].ids() == created
            assert all(m.headers["event"] == "created" and "replayed" not in m.headers for m in device.messages)
        bodies = [[m.body for m in device.messages] for device in (tab, other_tab, phone)]
        assert bodies[0] == bodies[1] == bodies[2]


async def test_created_updated_and_deleted_arrive_in_this_order(
    system: System, database: Database, user: Names
) -> None:
    alice = user("alice")
    async with system.subscriber(alice) as client:
        id = await insert(database, alice, body="b", data='{"postId": "p-100"}', type="COMMENT", actor_id="user-123")
        await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [id])
        await database.execute("DELETE FROM notification WHERE id = %s", [id])
        await client.until(lambda: len(client.messages) == 3, "three events")
        created, updated, deleted = (json.loads(m.body) for m in client.messages)
        assert (created["event"], updated["event"], deleted["event"]) == ("created", "updated", "deleted")
        assert (created["data"], created["type"], created["actorId"]) == ({"postId": "p-100"}, "COMMENT", "user-123")
        assert deleted == {"event": "deleted", "id": id, "recipientId": alice}


async def test_what_is_read_on_one_device_is_read_on_all_and_the_badge_follows(
    system: System, database: Database, user: Names
) -> None:
    alice = user("alice")
    async with (
        system.subscriber(alice, 0, badge=True) as phone,
        system.subscriber(alice, 1, "client-individual", badge=True) as tablet,
    ):
        ids = [await insert(database, alice) for _ in range(5)]
        for device in (phone, tablet):
            await device.until_unread(5)
        await phone.read(ids[0])
        await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [ids[1]])
        await database.execute("DELETE FROM notification WHERE id = %s", [ids[2]])
        for device in (phone, tablet):
            await device.until_unread(2)
            await device.until(lambda d=device: len(d.messages) == 8, "two updates and a deletion")  # type: ignore[misc]
        await tablet.read()
        assert await unread(database, alice) == []
        for device in (phone, tablet):
            await device.until_unread(0)
            assert sorted(device.subscriptions[0].ids("updated")) == [ids[0], ids[1], ids[3], ids[4]]
            assert_nothing_twice(device)


async def test_a_row_that_expires_leaves_the_badge(system: System, database: Database, user: Names) -> None:
    alice = user("alice")
    async with system.subscriber(alice, badge=True) as client:
        await database.execute(
            "INSERT INTO notification (recipient_id, title, expires_at) VALUES (%s, 'Soon', now() + interval '2 s')",
            [alice],
        )
        await client.until_unread(1)
        await client.until_unread(0)


async def test_a_row_too_large_for_replication_to_repeat_is_read_whole_from_sql(
    system: System, database: Database, user: Names
) -> None:
    """An UPDATE leaves a TOASTed column alone, and Debezium cannot say what is in it."""
    alice = user("alice")
    body = "".join(chr(0x4E00 + n % 5000) for n in range(5000))
    async with system.subscriber(alice) as client:
        id = await insert(database, alice, body=body)
        await database.execute("UPDATE notification SET read_at = now() WHERE id = %s", [id])
        await client.until(lambda: len(client.messages) == 2, "both versions")
        assert [json.loads(m.body)["body"] == body for m in client.messages] == [True, True]
        assert [m.headers["event"] for m in client.messages] == ["created", "updated"]


async def test_a_replayed_row_is_byte_identical_to_the_live_one(
    system: System, database: Database, user: Names
) -> None:
    alice = user("alice")
    async with system.subscriber(alice) as live:
        await insert(
            database, alice, 'quo"te\\ \n é 👋', data='{"z": 1.50, "a": [1, {"b": null}]}', expires_at="2999-01-01"
        )
        await live.until(lambda: live.messages, "the live row")
        async with system.subscriber(alice) as replayed:
            assert replayed.messages[0].body == live.messages[0].body


async def test_thousands_of_unread_rows_are_replayed_in_order_before_the_receipt(
    system: System, database: Database, user: Names
) -> None:
    alice = user("alice")
    await database.execute(
        "INSERT INTO notification (recipient_id, title) SELECT %s, 'n' || n FROM generate_series(1, 2500) n", [alice]
    )
    async with system.subscriber(alice) as client:
        ids = client.subscriptions[0].ids()
        assert ids == await unread(database, alice)
        assert_nothing_twice(client)


async def test_a_row_whose_channel_leaves_in_app_is_deleted_for_clients(
    system: System, database: Database, user: Names
) -> None:
    alice = user("alice")
    async with system.subscriber(alice) as client:
        await insert(database, alice, channel="EMAIL")
        id = await insert(database, alice)
        await client.until(lambda: client.messages, "the one that is shown")
        await database.execute("UPDATE notification SET channel = 'EMAIL' WHERE id = %s", [id])
        await client.until(lambda: len(client.messages) == 2, "shown, then hidden")
        assert [(m.headers["event"], m.headers["notification-id"]) for m in client.messages] == [
            ("created", str(id)),
            ("deleted", str(id)),
        ]


class Spy:
    """A queue of our own that gets a copy of whatever is published to these gateways, or to all."""

    def __init__(self, pipeline: Pipeline, gateways: set[str]) -> None:
        self._url = pipeline.stack.settings_env["ROWBELL_RABBITMQ_URL"]
        self._gateways = gateways
        self.seen: list[bytes] = []

    async def __aenter__(self) -> Spy:
        self._connection = await aio_pika.connect(self._url)
        channel = await self._connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for gateway in self._gateways:
            await queue.bind(EXCHANGE, gateway)
        await queue.bind(EXCHANGE_TO_ALL, "")

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            self.seen.append(message.body)

        await queue.consume(keep, no_ack=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def _gateways_of(pipeline: Pipeline, user: str) -> set[str]:
    with redis.Redis.from_url(pipeline.stack.settings_env["ROWBELL_REDIS_URL"], decode_responses=True) as client:
        entries = client.smembers(f"presence:{user}")
        return set(entries)  # type: ignore[arg-type]


def test_the_oracle_sees_what_is_sent_twice() -> None:
    subscriber = Subscriber("ws://nowhere", "token")
    from tests.integration.subscriber import Frame, Subscription

    frame = Frame("MESSAGE", {"notification-id": "1", "version": "1", "event": "created"}, "{}")
    subscriber.subscriptions = [Subscription([frame, frame])]
    with pytest.raises(AssertionError, match="in one subscription"):
        assert_nothing_twice(subscriber)
    subscriber.subscriptions = [Subscription([frame]), Subscription([frame])]
    with pytest.raises(AssertionError, match="unmarked"):
        assert_nothing_twice(subscriber)

"""A topic across gateways: a row is written once, and whoever is subscribed anywhere is sent it."""

from __future__ import annotations

from collections.abc import Callable

from rowbell.auth import Tokens
from tests.integration.rows import Database, insert
from tests.integration.subscriber import Subscriber, assert_nothing_twice
from tests.integration.systems import System

Names = Callable[[str], str]


async def test_subscribers_on_two_gateways_get_each_change_of_a_topic_once(
    two_gateways: System, database: Database, user: Names
) -> None:
    # Given a subscriber on each
    topic = user("news")
    alice, bob = (follower(two_gateways, number, user(name)) for number, name in enumerate(("alice", "bob")))
    await insert(database, f"topic:{topic}", "Before")
    async with alice, bob:
        await follow(alice, topic)
        await follow(bob, topic)
        # When
        ids = [await insert(database, f"topic:{topic}") for _ in range(50)]
        await database.execute("UPDATE notification SET title = 'Other' WHERE id = ANY(%s)", [ids[:10]])
        await database.execute("DELETE FROM notification WHERE id = ANY(%s)", [ids[10:20]])
        ids.append(await insert(database, f"topic:{topic}"))
        # Then
        for client in (alice, bob):
            await all_came(client, ids, deleted=ids[10:20])
            assert {(id, 2) for id in ids[:10]} <= set(client.subscriptions[0].versions())
            assert_nothing_twice(client)


def follower(system: System, gateway: int, user: str) -> Subscriber:
    token = Tokens(system.env["ROWBELL_JWT_SECRET"]).issue(user, 3600, topics=["news-*"])
    return Subscriber(system.gateway(gateway).url, token, reconnect=False)


async def follow(client: Subscriber, topic: str) -> None:
    await client.send("SUBSCRIBE", id="t", destination=f"/topic/{topic}", receipt="following")
    await client.until(lambda: "following" in client.subscriptions[0].receipts, "the receipt of SUBSCRIBE")


async def all_came(client: Subscriber, ids: list[int], deleted: list[int]) -> None:
    came = client.subscriptions[0]
    await client.until(lambda: set(came.ids()) >= set(ids), "all rows")
    await client.until(lambda: set(came.ids("deleted")) == set(deleted), "the deletions")
    await client.until(lambda: len([v for _, v in came.versions() if v == 2]) >= 10, "the updates")
    assert set(came.ids()) == set(ids)

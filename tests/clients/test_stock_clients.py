"""Every stock client, unchanged: rows, acknowledgements, receipts, tokens, and both ways to lose a connection."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.clients.stock import KINDS, NOTIFICATIONS, RECONNECT, Kind, Settings, Start
from tests.clients.tap import Tap
from tests.integration.processes import eventually
from tests.integration.rows import Database, delivered, insert, unread
from tests.integration.subscriber import Frame, assert_nothing_twice
from tests.integration.systems import PostgresOnly

pytestmark = pytest.mark.asyncio(loop_scope="package")

Names = Callable[[str], str]

TITLE = 'Grüße: "50 %" \\n \\c 漢字 👋🏽'
BODY = "first line\nsecond: line\r\n\n\ttab \\ end\u2028\u00a0"
DATA = {"a:b": "c\nd", "emoji 🎉": ["\\u0000 is four digits", {"n": None, "x": 1.5}], "": "🇪🇺"}
"""Everything that a parser of frames trips over, if any does."""

every_client = pytest.mark.parametrize("kind", KINDS, ids=str)


async def is_delivered(owner: Database, user: str, *ids: int) -> None:
    async def exactly_these() -> bool:
        return await delivered(owner, user) == set(ids)

    await eventually(f"{ids} are delivered", exactly_these)


def content(message: Frame) -> tuple[object, ...]:
    row = json.loads(message.body)
    return row["event"], row["title"], row["body"], row["data"]


@every_client
async def test_rows_are_replayed_come_live_change_and_go(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given an unread row that is hard to read
    alice = user("alice")
    columns = {"body": BODY, "data": json.dumps(DATA)}
    old = await insert(owner, alice, TITLE, **columns)
    # When
    client = await start(kind, Settings(f"{tap.url}/ws", postgres_only.token(alice)))
    await client.until("the replay", lambda: client.replayed)
    # Then
    assert client.connected[0]["version"] == kind.version
    [replayed] = client.now.messages
    assert replayed.headers["replayed"] == "true"
    assert content(replayed) == ("created", TITLE, BODY, DATA)
    await client.unread(1)
    # When
    id = await insert(owner, alice, TITLE, **columns)
    await owner.execute("UPDATE notification SET title = 'Changed: 👋' WHERE id = %s", [old])
    # Then
    live, changed = await client.message(id, "created"), await client.message(old, "updated")
    assert "replayed" not in live.headers
    assert content(live) == ("created", TITLE, BODY, DATA)
    assert content(changed) == ("updated", "Changed: 👋", BODY, DATA)
    await client.unread(2)
    # When
    await owner.execute("DELETE FROM notification WHERE id = %s", [id])
    # Then
    deleted = await client.message(id, "deleted")
    assert json.loads(deleted.body) == {"event": "deleted", "id": id, "recipientId": alice}
    await client.unread(1)
    assert_nothing_twice(client)
    assert (client.errors, client.closed) == ([], 0)


@every_client
async def test_a_token_in_the_url_is_as_good_as_one_in_connect(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    alice = user("alice")
    id = await insert(owner, alice)
    client = await start(kind, Settings(f"{tap.url}/stomp?token={postgres_only.token(alice)}"))
    await client.until("the replay", lambda: client.replayed)
    assert client.now.ids() == [id]
    assert client.connected[0]["user-name"] == alice


@every_client
async def test_what_is_acknowledged_is_delivered_and_what_is_refused_or_left_is_not(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    settings = Settings(f"{tap.url}/ws", postgres_only.token(alice), {NOTIFICATIONS: "client-individual"})
    client = await start(kind, settings)
    await client.until("the replay", lambda: client.replayed)
    _left, refused, acknowledged, last = [await insert(owner, alice) for _ in range(4)]
    # When
    await client.refuse(await client.message(refused, "created"))
    await client.acknowledge(await client.message(acknowledged, "created"))
    await client.acknowledge(await client.message(last, "created"))
    # Then
    await is_delivered(owner, alice, acknowledged, last)
    said = [command for command in tap.sockets[0].client.commands() if command in ("ACK", "NACK")]
    assert said == ["NACK", "ACK", "ACK"]
    assert len(await unread(owner, alice)) == 4, "delivered is not read"
    # When whatever has been sent has been looked at
    await client.read(last)
    # Then
    assert await delivered(owner, alice) == {acknowledged, last}
    assert client.errors == []


@every_client
async def test_one_ack_stands_for_those_before_it_in_mode_client(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    settings = Settings(f"{tap.url}/ws", postgres_only.token(alice), {NOTIFICATIONS: "client"})
    ids = [await insert(owner, alice) for _ in range(3)]
    client = await start(kind, settings)
    await client.message(ids[2], "created")
    # When
    await client.acknowledge(await client.message(ids[1], "created"))
    # Then
    await is_delivered(owner, alice, *ids[:2])
    await client.read(ids[2])
    assert await delivered(owner, alice) == set(ids[:2])


@every_client
async def test_an_ack_that_nobody_asked_for_harms_nothing(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    id = await insert(owner, alice)
    client = await start(kind, Settings(f"{tap.url}/ws", postgres_only.token(alice)))
    # When
    await client.acknowledge(await client.message(id, "created"))
    # Then
    await client.read(id)
    acks = [frame for frame in tap.sockets[0].client.frames if frame.startswith("ACK\n")]
    assert ("id:undefined\n" in "".join(acks)) is (kind.name in ("stompjs-5", "stompjs-6")), "what these do write"
    assert client.errors == []


@every_client
async def test_the_receipt_of_marking_as_read_comes_when_it_is_done(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    ids = [await insert(owner, alice) for _ in range(3)]
    client = await start(kind, Settings(f"{tap.url}/ws", postgres_only.token(alice)))
    await client.unread(3)
    for id in ids:
        await client.message(id, "created")  # a row that is read before it is shown is not shown
    # When
    await client.read(*ids[:2])
    # Then
    assert await unread(owner, alice) == ids[2:]
    for id in ids[:2]:
        assert json.loads((await client.message(id, "updated")).body)["readAt"] is not None
    await client.unread(1)


@every_client
async def test_disconnect_ends_without_an_error(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, user: Names
) -> None:
    # Given
    client = await start(kind, Settings(f"{tap.url}/ws", postgres_only.token(user("alice"))))
    await client.until("the replay", lambda: client.replayed)
    # When
    await client.disconnect()
    # Then
    [link] = tap.sockets
    if kind.waits_for_the_close:
        await client.until("both have closed", lambda: link.gateway.closed is not None)
    if kind.waits_for_the_receipt_of_disconnect:
        await client.until("it knows", lambda: client.closed)
        assert link.gateway.frames[-1].startswith("RECEIPT\nreceipt-id:bye\n")
        assert link.gateway.closed in ((1000,) if kind.waits_for_the_close else (1000, None))
    else:
        assert link.gateway.closed in (1000, link.client.closed)
    assert link.client.commands()[-1] == "DISCONNECT"
    assert "ERROR" not in link.gateway.commands()


@pytest.mark.parametrize("kind", RECONNECT, ids=str)
async def test_a_cut_connection_is_made_again_and_what_was_committed_meanwhile_comes(
    kind: Kind, start: Start, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    client = await start(kind, Settings(f"{tap.url}/ws", postgres_only.token(alice)))
    await client.until("the replay", lambda: client.replayed)
    before = await insert(owner, alice)
    await client.message(before, "created")
    # When
    tap.shut = True
    tap.cut()
    await client.until("it has noticed", lambda: client.closed)
    meanwhile = await insert(owner, alice)
    tap.shut = False
    # Then
    await client.until("it is back", lambda: len(client.subscriptions) == 2 and client.replayed)
    assert client.now.ids() == [before, meanwhile]
    assert all(message.headers["replayed"] == "true" for message in client.now.messages)
    after = await insert(owner, alice)
    assert "replayed" not in (await client.message(after, "created")).headers
    await client.unread(3)
    assert_nothing_twice(client)
    assert client.errors == []


@every_client
async def test_a_wrong_token_in_connect_is_an_error_that_the_client_shows(
    kind: Kind, start: Start, tap: Tap, user: Names
) -> None:
    client = await start(kind, Settings(f"{tap.url}/ws", "no.token.atall"))
    await client.until("the ERROR", lambda: client.errors)
    assert client.errors[0].headers["message"].startswith("the token is refused")
    await client.until("the close", lambda: tap.sockets[0].gateway.closed == 1008)
    assert client.connected == []


@pytest.mark.parametrize("kind", RECONNECT, ids=str)
async def test_a_wrong_token_in_the_url_is_a_handshake_that_the_client_says_failed(
    kind: Kind, start: Start, tap: Tap
) -> None:
    client = await start(kind, Settings(f"{tap.url}/stomp?token=no.token.atall"))
    await client.until("it says so", lambda: client.closed)
    assert tap.sockets[0].gateway.head.startswith("HTTP/1.1 401 ")
    assert (client.connected, client.errors) == ([], [])

"""What may come when, where a client may send and subscribe, and how much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.integration.rows import Database, insert, unread
from tests.protocol.wire import CLOSE, NOTIFICATIONS, READ, TOKEN, UNREAD, VERSIONS, Raw, Site, frame

Names = Callable[[str], str]

KIB = 1024

every_version = pytest.mark.parametrize("version", VERSIONS)


def filled(command: str, size: int, *lines: str) -> str:
    """A frame of so many octets, by headers of no meaning, none of which is long."""
    bare = len(frame(command, *lines))
    padding: list[str] = []
    while (missing := size - bare - sum(len(line) + 1 for line in padding)) > 4000:
        padding.append(f"x{len(padding)}:".ljust(1999, "x"))
    padding.append("x:".ljust(missing - 1, "x"))
    whole = frame(command, *lines, *padding)
    assert len(whole) == size
    return whole


class TestRule14Order:
    @pytest.mark.parametrize(
        "command",
        ["SUBSCRIBE", "UNSUBSCRIBE", "SEND", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT", "CONNECTED"],
    )
    @pytest.mark.parametrize("path", ["/stomp", "/stomp?token={}"], ids=["nobody", "somebody"])
    async def test_before_connect_only_connect_is_obeyed(
        self, site: Site, database: Database, user: Names, command: str, path: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.open(path.format(site.token(alice))) as wire:
            lines = ("id:1", f"destination:{READ if command == 'SEND' else NOTIFICATIONS}", "transaction:t")
            body = f'{{"ids":[{id}]}}' if command == "SEND" else ""
            await wire.send(frame(command, *lines, "receipt:r", body=body) + frame("CONNECT", "accept-version:1.2"))
            error, code = await wire.refused()
        assert (error.headers["message"], error.headers["receipt-id"]) == ("The first frame must be CONNECT", "r")
        assert code == 1002
        assert await unread(database, alice) == [id]

    @every_version
    @pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
    async def test_a_second_connect_is_an_error(self, site: Site, version: str, command: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame(command, "accept-version:1.2", f"Authorization:Bearer {site.token('alice')}"))
            assert (await wire.refused())[1] == 1002

    async def test_the_first_frame_has_16_kib_and_no_more(self, site: Site) -> None:
        connect = ("CONNECT", "accept-version:1.2", f"Authorization:Bearer {site.token('alice')}")
        async with site.open() as wire:
            await wire.send(filled(connect[0], 16 * KIB, *connect[1:]))
            assert (await wire.next()).command == "CONNECTED"
        async with site.open() as wire:
            await wire.send(filled(connect[0], 16 * KIB + 1, *connect[1:]))
            assert (await wire.refused())[1] == 1002

    async def test_a_first_frame_without_end_is_refused_at_16_kib(self, site: Site) -> None:
        async with site.open() as wire:
            await wire.send("CONNECT\n")
            for _ in range(16):
                await wire.send("x:" + "x" * (KIB - 3) + "\n")
            assert (await wire.refused())[1] == 1002

    async def test_a_later_frame_has_64_kib_and_no_more(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            for size in (64 * KIB, 64 * KIB + 1):
                whole = filled("UNSUBSCRIBE", size, "id:x", "receipt:r")
                await wire.send(whole[: 40 * KIB], whole[40 * KIB :])  # no message is too large
                if size == 64 * KIB:
                    assert (await wire.next()).headers == {"receipt-id": "r"}
            assert (await wire.refused())[1] == 1002

    @every_version
    async def test_an_id_in_use_is_an_error_until_it_is_unsubscribed(
        self, site: Site, user: Names, version: str
    ) -> None:
        async with site.connected(user("alice"), version) as wire:
            await wire.subscribe("1")
            await wire.send(frame("UNSUBSCRIBE", "id:1"))
            await wire.subscribe("1", UNREAD)
            await wire.send(frame("SUBSCRIBE", "id:1", f"destination:{NOTIFICATIONS}", "receipt:r"))
            error, code = await wire.refused()
        assert (error.headers["message"], error.headers["receipt-id"]) == ("The subscription id is in use", "r")
        assert code == 1002

    @pytest.mark.parametrize("version", ["1.1", "1.2"])
    @pytest.mark.parametrize("lines", [(), ("id:",)], ids=["none", "empty"])
    async def test_subscribe_and_unsubscribe_without_an_id_are_errors_on_1_1_and_1_2(
        self, site: Site, version: str, lines: tuple[str, ...]
    ) -> None:
        for command in ("SUBSCRIBE", "UNSUBSCRIBE"):
            async with site.connected("alice", version) as wire:
                await wire.send(frame(command, f"destination:{NOTIFICATIONS}", *lines))
                assert (await wire.refused())[1] == 1002

    async def test_on_1_0_there_may_be_one_for_each_destination(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        async with site.connected(alice, "1.0") as wire:
            for destination in (NOTIFICATIONS, UNREAD):
                await wire.send(frame("SUBSCRIBE", f"destination:{destination}", f"receipt:{destination}"))
                await wire.until("RECEIPT", receipt_id=destination)
            await wire.send(frame("UNSUBSCRIBE", f"destination:{NOTIFICATIONS}"))
            await insert(database, alice)
            assert {each.headers["destination"] for each in await wire.until("MESSAGE")} == {UNREAD}
            await wire.send(frame("SUBSCRIBE", f"destination:{UNREAD}"))
            assert (await wire.refused())[1] == 1002

    @every_version
    async def test_unsubscribe_of_an_unknown_id_is_ignored(self, site: Site, user: Names, version: str) -> None:
        async with site.connected(user("alice"), version) as wire:
            await wire.subscribe("1")
            await wire.send(frame("UNSUBSCRIBE", "id:2"), frame("UNSUBSCRIBE", "id:2"))
            assert await wire.barrier() == []
            await wire.send(frame("SUBSCRIBE", "id:1", f"destination:{NOTIFICATIONS}"))
            assert (await wire.refused())[0].headers["message"] == "The subscription id is in use"


class TestRule15Destinations:
    async def test_these_three_can_be_subscribed_to(self, site: Site, user: Names) -> None:
        topic = user("topic")
        async with site.connected(user("alice"), topics=[topic]) as wire:
            for number, destination in enumerate((NOTIFICATIONS, UNREAD, f"/topic/{topic}")):
                await wire.subscribe(str(number), destination)

    async def test_these_two_can_be_sent_to(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.send(frame("SEND", f"destination:{READ}", "receipt:1", body='{"ids":[]}'))
            await wire.send(frame("SEND", f"destination:{TOKEN}", "receipt:2", body=site.token("alice")))
            await wire.until("RECEIPT", receipt_id="2")

    @pytest.mark.parametrize(
        "destination",
        [
            "",
            "/",
            "/queue/notifications",
            "/user/queue",
            "/user/queue/",
            "/user/queue/notifications/",
            "/user//queue/notifications",
            "user/queue/notifications",
            "/USER/queue/notifications",
            "/user/bob/queue/notifications",
            "/user/queue/notifications-user1a2b",
            "/user/queue/*",
            "/user/queue/#",
            "/topic",
            "/topic/",
            "/topic/a/b",
            "/topic/a*",
            "/topic/#",
            "/topic/topic:a",
            "/topic/user:bob",
            "/exchange/notifications/bob",
            "/amq/queue/x",
            "/temp-queue/x",
            READ,
            TOKEN,
        ],
    )
    async def test_no_other_one_can_be_subscribed_to(self, site: Site, destination: str) -> None:
        async with site.connected("alice", topics=["#"]) as wire:
            await wire.send(frame("SUBSCRIBE", "id:1", f"destination:{destination.replace(':', chr(92) + 'c')}"))
            assert (await wire.refused())[1] == 1002

    @pytest.mark.parametrize(
        "destination",
        [
            "",
            "/",
            "/app",
            "/app/",
            "/app/other",
            f"{READ}/",
            f"{READ}/1",
            "/app/notifications",
            "/APP/token",
            "/app/bob/notifications/read",
            "/user/bob/queue/notifications",
            NOTIFICATIONS,
            UNREAD,
            "/topic/news",
        ],
    )
    async def test_no_other_one_can_be_sent_to(
        self, site: Site, database: Database, user: Names, destination: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, topics=["#"]) as wire:
            await wire.send(frame("SEND", f"destination:{destination}", body=f'{{"ids":[{id}]}}'))
            assert (await wire.refused())[1] == 1002
        assert await unread(database, alice) == [id]

    @every_version
    async def test_a_topic_that_the_token_does_not_allow_is_an_error(self, site: Site, version: str) -> None:
        async with site.connected("alice", version, topics=["news.*", "sport"]) as wire:
            await wire.subscribe("1", "/topic/news.today")
            await wire.send(frame("SUBSCRIBE", "id:2", "destination:/topic/weather"))
            assert (await wire.refused())[1] == 1008


class TestRule20LimitsOfTheSocket:
    async def test_a_message_of_64_kib_is_taken_and_a_larger_one_closes_with_1009(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.send("\n" * (64 * KIB))
            assert await wire.barrier() == []
            await wire.send("\n" * (64 * KIB + 1))
            assert await wire.rest() == ([], 1009)

    async def test_so_does_one_that_comes_in_fragments(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await wire.opened.send(["\n" * (32 * KIB)] * 2)
            assert await wire.barrier() == []
            await wire.opened.send(["\n" * (32 * KIB)] * 2 + ["\n"])
            assert await wire.rest() == ([], 1009)

    async def test_a_stranger_gets_1009_too(self, site: Site) -> None:
        async with site.open() as wire:
            await wire.send(b"\n" * (64 * KIB + 1))
            assert await wire.rest() == ([], 1009)

    @pytest.mark.parametrize(
        "offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame"]
    )
    async def test_no_compression_is_agreed_on(self, site: Site, offer: str) -> None:
        async with Raw.open(site.port) as raw:
            status, headers = await raw.shake_hands("/ws", f"Sec-WebSocket-Extensions: {offer}")
            assert status == 101
            assert not any(header.lower().startswith("sec-websocket-extensions") for header in headers)
            raw.write(frame("HELLO"))
            first, payload = await raw.read()
        assert (first & 0x70, payload[:6]) == (0, b"ERROR\n")  # no reserved bit, and plain text

    async def test_a_ping_is_answered(self, site: Site) -> None:
        async with site.connected("alice") as wire:
            await asyncio.wait_for(await wire.opened.ping(), 10)

    async def test_a_client_that_does_not_read_holds_up_no_other_and_loses_nothing(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        begin = frame("CONNECT", "accept-version:1.2") + frame("SUBSCRIBE", "id:1", f"destination:{NOTIFICATIONS}")
        async with Raw.open(site.port, limit=1024) as slow, site.connected(alice) as quick:
            assert (await slow.shake_hands(f"/stomp?token={site.token(alice)}"))[0] == 101
            slow.write(begin)
            await quick.subscribe("1")
            lagging = site.gateway.metric("rowbell_lagging_total")
            # More than what the kernel and the gateway keep for one socket, and all of it to both.
            await database.execute(
                "INSERT INTO notification (recipient_id, title, body) SELECT %s, 'Large', repeat('x', 10000)"
                " FROM generate_series(1, 1500)",
                [alice],
            )
            last = await insert(database, alice, "The last one")
            await quick.until("MESSAGE", notification_id=str(last))
            assert site.gateway.metric("rowbell_lagging_total") > lagging  # it had not read
            ids = await unread(database, alice)
            seen: set[int] = set()
            while len(seen) < len(ids):
                first, payload = await slow.read()
                assert first & 0x0F != CLOSE
                if payload.startswith(b"MESSAGE"):
                    seen.add(int(payload.partition(b"notification-id:")[2].partition(b"\n")[0]))
        assert seen == set(ids)

"""What is answered, when, and how a session ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable

import pytest

from tests.integration.processes import eventually
from tests.integration.rows import Database, delivered, insert, unread
from tests.protocol.wire import NOTIFICATIONS, READ, TOKEN, UNREAD, VERSIONS, Site, Wire, frame

Names = Callable[[str], str]

every_version = pytest.mark.parametrize("version", VERSIONS)

REFUSED = {
    "an unknown command": (("HELLO",), "", 1002),
    "a second CONNECT": (("CONNECT", "accept-version:1.2"), "", 1002),
    "SUBSCRIBE elsewhere": (("SUBSCRIBE", "id:9", "destination:/queue/x"), "", 1002),
    "SUBSCRIBE nowhere": (("SUBSCRIBE", "id:9"), "", 1002),
    "an unknown ack mode": (("SUBSCRIBE", "id:9", f"destination:{NOTIFICATIONS}", "ack:never"), "", 1002),
    "an id in use": (("SUBSCRIBE", "id:c", f"destination:{NOTIFICATIONS}"), "", 1002),
    "a topic that is not allowed": (("SUBSCRIBE", "id:9", "destination:/topic/secret"), "", 1008),
    "ACK of nothing": (("ACK", "id:unknown", "message-id:unknown"), "", 1002),
    "NACK of nothing": (("NACK", "id:unknown", "message-id:unknown"), "", 1002),
    "SEND elsewhere": (("SEND", "destination:/app/x"), "{}", 1002),
    "SEND nowhere": (("SEND",), "{}", 1002),
    "a body that is no JSON": (("SEND", f"destination:{READ}"), "{", 1002),
    "a body that says nothing": (("SEND", f"destination:{READ}"), "{}", 1002),
    "a wrong token": (("SEND", f"destination:{TOKEN}"), "nonsense", 1008),
    "COMMIT of nothing": (("COMMIT", "transaction:t"), "", 1002),
    "ABORT of nothing": (("ABORT", "transaction:t"), "", 1002),
    "BEGIN without a name": (("BEGIN",), "", 1002),
    "SEND in no transaction": (("SEND", f"destination:{READ}", "transaction:t"), '{"ids":[1]}', 1002),
    "a malformed header": (("UNSUBSCRIBE", "id"), "", 1002),
    "a malformed length": (("UNSUBSCRIBE", "id:x", "content-length:x"), "", 1002),
}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


class TestRule10Error:
    @pytest.mark.parametrize("name", REFUSED.keys())
    async def test_it_says_what_was_wrong_and_with_which_frame_and_closes_with_a_code(
        self, site: Site, user: Names, name: str
    ) -> None:
        await self.is_refused(site, user("alice"), "1.2", name)

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize("name", ["SUBSCRIBE elsewhere", "a malformed header", "a topic that is not allowed"])
    async def test_it_does_so_on_older_versions(self, site: Site, user: Names, version: str, name: str) -> None:
        await self.is_refused(site, user("alice"), version, name)

    async def is_refused(self, site: Site, alice: str, version: str, name: str) -> None:
        lines, body, code = REFUSED[name]
        async with site.connected(alice, version) as wire:
            await wire.subscribe("c", UNREAD, "ack:client-individual")
            await wire.send(frame(*lines, "receipt:my-receipt", body=body))
            error, closed = await wire.refused()
        assert closed == code
        assert error.headers["receipt-id"] == "my-receipt"
        assert error.headers["content-type"] == "text/plain"
        says, explains = words(error.headers["message"]), words(error.body)
        assert len(explains) > len(says) or explains == says, "the body has the whole, where there is no more to say"

    @pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED.keys())
    async def test_a_frame_that_asked_for_no_receipt_is_not_named(
        self, site: Site, user: Names, refused: tuple[tuple[str, ...], str, int]
    ) -> None:
        lines, body, _ = refused
        async with site.connected(user("alice")) as wire:
            await wire.subscribe("c", UNREAD, "ack:client-individual")
            await wire.send(frame(*lines, body=body))
            assert "receipt-id" not in (await wire.refused())[0].names

    @pytest.mark.parametrize(
        "lines", [("accept-version:3.0",), ("accept-version:1.2", "heart-beat:x")], ids=["version", "heart-beat"]
    )
    async def test_a_connect_that_is_refused_is_named_too(self, site: Site, lines: tuple[str, ...]) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            await wire.send(frame("CONNECT", *lines, "receipt:my-receipt"))
            assert (await wire.refused())[0].headers["receipt-id"] == "my-receipt"

    @pytest.mark.parametrize("lines", [(), ("Authorization:Bearer nonsense",)], ids=["none", "wrong"])
    async def test_so_is_one_whose_token_is_refused(self, site: Site, lines: tuple[str, ...]) -> None:
        async with site.open() as wire:
            await wire.send(frame("CONNECT", "accept-version:1.2", "receipt:my-receipt", *lines))
            assert (await wire.refused())[0].headers["receipt-id"] == "my-receipt"

    @every_version
    async def test_what_was_queued_before_comes_before_it_and_nothing_after(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(20)]
        good = "".join(frame("UNSUBSCRIBE", "id:x", f"receipt:{number}") for number in range(20))
        bad = frame("SUBSCRIBE", "id:2", "destination:/queue/x", "receipt:bad")
        late = frame("SEND", f"destination:{READ}", "receipt:late", body=json.dumps({"ids": ids}))
        async with site.connected(alice, version) as wire:
            await wire.subscribe("1")
            await wire.send(good + bad + late + bad)
            frames, code = await wire.rest()
        assert [each.headers.get("receipt-id") for each in frames] == [*map(str, range(20)), "bad"]
        assert [each.command for each in frames] == ["RECEIPT"] * 20 + ["ERROR"]
        assert code == 1002
        assert await unread(database, alice) == ids

    async def test_no_message_follows_it(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        async with site.connected(alice) as wire, site.connected(alice) as witness:
            await wire.subscribe("1")
            await witness.subscribe("1")
            await wire.send("HELLO\n\n\0")
            await witness.message(await insert(database, alice))
            frames, _ = await wire.rest()
        assert [each.command for each in frames if each.command != "MESSAGE"] == ["ERROR"]
        assert frames[-1].command == "ERROR"


class TestRule11TheEnd:
    @every_version
    async def test_disconnect_with_a_receipt_is_answered_then_closed_with_1000(
        self, site: Site, user: Names, version: str
    ) -> None:
        async with site.connected(user("alice"), version) as wire:
            await wire.subscribe("1")
            await wire.send(frame("DISCONNECT", "receipt:bye"))
            frames, code = await wire.rest()
        assert [(each.command, each.headers) for each in frames] == [("RECEIPT", {"receipt-id": "bye"})]
        assert code == 1000

    @every_version
    async def test_disconnect_without_one_is_closed_with_1000(self, site: Site, version: str) -> None:
        async with site.connected("alice", version) as wire:
            await wire.send(frame("DISCONNECT"))
            assert await wire.rest() == ([], 1000)

    async def test_what_comes_after_disconnect_is_not_looked_at(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        late = frame("SEND", f"destination:{READ}", "receipt:late", body=f'{{"ids":[{id}]}}')
        async with site.connected(alice) as wire:
            await wire.send(frame("DISCONNECT", "receipt:bye") + late + "nonsense\0")
            frames, code = await wire.rest()
        assert ([each.headers for each in frames], code) == ([{"receipt-id": "bye"}], 1000)
        assert await unread(database, alice) == [id]

    async def test_a_client_that_just_goes_away_is_no_error(self, site: Site, user: Names) -> None:
        before = site.gateway.metric("rowbell_sessions"), len(site.gateway.log.read_text())
        async with contextlib.AsyncExitStack() as wires:

            async def come_in() -> Wire:
                wire = await wires.enter_async_context(site.connected(user("alice")))
                await wire.subscribe("1")
                return wire

            for code in (1000, 1001, 3000, 4999):
                await (await come_in()).opened.close(code)
            (await come_in()).opened.transport.abort()
            half = await come_in()
            await half.send("SEND\ndestination:")
            half.opened.transport.abort()
            await eventually("all are gone", lambda: site.gateway.metric("rowbell_sessions") == before[0])
        logged = [json.loads(line) for line in site.gateway.log.read_text()[before[1] :].splitlines()]
        assert [line for line in logged if line["level"] not in ("debug", "info")] == []


class TestRule16Receipts:
    @every_version
    async def test_that_of_subscribe_comes_after_all_that_was_there(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(5)]
        async with site.connected(alice, version) as wire:
            replayed = await wire.subscribe("1")
            assert [int(each.headers["notification-id"]) for each in replayed] == ids
            assert [each.body for each in await wire.subscribe("2", UNREAD)] == ['{"unread":5}']

    @every_version
    @pytest.mark.parametrize("of_topic", [False, True], ids=["notifications", "topic"])
    async def test_after_that_of_subscribe_no_committed_row_is_missed(
        self, site: Site, database: Database, user: Names, version: str, of_topic: bool
    ) -> None:
        name, committed = user("name"), []
        destination, recipient = (f"/topic/{name}", f"topic:{name}") if of_topic else (NOTIFICATIONS, name)

        async def write() -> None:
            while True:
                committed.append(await insert(database, recipient))

        async with site.connected(name, version, topics=[name]) as wire:
            writing = asyncio.create_task(write())
            try:
                await eventually("rows are written", lambda: len(committed) > 5)
                seen = {each.headers["notification-id"] for each in await wire.subscribe("1", destination)}
                since = len(committed)
                await eventually("more are", lambda: len(committed) > since + 5)
            finally:
                writing.cancel()
                await asyncio.gather(writing, return_exceptions=True)
            due = set(map(str, committed[since:] if of_topic else committed))
            while not due <= seen:
                seen.add((await wire.until("MESSAGE"))[-1].headers["notification-id"])

    async def test_after_that_of_unsubscribe_nothing_comes(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        async with site.connected(alice) as wire:
            await wire.subscribe("1")
            await wire.subscribe("2")
            await wire.send(frame("UNSUBSCRIBE", "id:1", "receipt:r"))
            assert (await wire.next()).headers == {"receipt-id": "r"}
            await insert(database, alice)
            last = await insert(database, alice)
            frames = await wire.until("MESSAGE", notification_id=str(last))
        assert {each.headers["subscription"] for each in frames} == {"2"}

    @every_version
    async def test_that_of_ack_comes_when_the_delivery_is_in_the_table(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, version) as wire:
            message, *_ = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            assert await delivered(database, alice) == set()
            await wire.send(frame("ACK", f"id:{message.headers['message-id']}", "receipt:r"))
            assert (await wire.next()).headers == {"receipt-id": "r"}
            assert await delivered(database, alice) == {id}

    async def test_that_of_nack_comes_and_there_is_no_delivery(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        refused, taken = await insert(database, alice), await insert(database, alice)
        async with site.connected(alice) as wire:
            first, second = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await wire.send(frame("NACK", f"id:{first.headers['ack']}", "receipt:n"))
            assert (await wire.next()).headers == {"receipt-id": "n"}
            await wire.send(frame("ACK", f"id:{second.headers['ack']}", "receipt:a"))
            assert (await wire.next()).headers == {"receipt-id": "a"}
        assert await delivered(database, alice) == {taken}
        assert refused in await unread(database, alice)

    @every_version
    async def test_that_of_send_comes_when_the_rows_are_read(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        id, other = await insert(database, alice), await insert(database, alice)
        async with site.connected(alice, version) as wire:
            await wire.send(frame("SEND", f"destination:{READ}", "receipt:r", body=f'{{"ids":[{id}]}}'))
            assert (await wire.next()).headers == {"receipt-id": "r"}
            assert await unread(database, alice) == [other]

    async def test_that_of_a_newer_token_comes_when_it_counts(self, site: Site, user: Names) -> None:
        topic = user("topic")
        async with site.connected("alice") as wire:
            newer = site.token("alice", topics=[topic])
            await wire.send(frame("SEND", f"destination:{TOKEN}", "receipt:r", body=newer))
            assert (await wire.next()).headers == {"receipt-id": "r"}
            assert await wire.subscribe("1", f"/topic/{topic}") == []

    @every_version
    async def test_those_of_a_transaction_come_when_it_is_open_done_or_forgotten(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, version) as wire:
            await wire.send(frame("BEGIN", "transaction:t", "receipt:b"))
            assert (await wire.next()).headers == {"receipt-id": "b"}
            await wire.send(frame("ABORT", "transaction:t", "receipt:a"))
            assert (await wire.next()).headers == {"receipt-id": "a"}
            await wire.send(frame("BEGIN", "transaction:t"))
            await wire.send(frame("SEND", f"destination:{READ}", "transaction:t", body=f'{{"ids":[{id}]}}'))
            assert await wire.barrier() == []
            assert await unread(database, alice) == [id]
            await wire.send(frame("COMMIT", "transaction:t", "receipt:c"))
            assert (await wire.next()).headers == {"receipt-id": "c"}
            assert await unread(database, alice) == []

    async def test_that_of_disconnect_comes_when_all_before_it_stands(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice) as wire:
            message, *_ = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            ack = frame("ACK", f"id:{message.headers['ack']}")
            read = frame("SEND", f"destination:{READ}", body=f'{{"ids":[{id}]}}')
            await wire.send(ack + read + frame("DISCONNECT", "receipt:bye"))
            await wire.until("RECEIPT", receipt_id="bye")
            assert await delivered(database, alice) == {id}
            assert await unread(database, alice) == []

    @every_version
    async def test_connect_has_none_and_an_empty_one_asks_for_nothing(self, site: Site, version: str) -> None:
        async with site.connected("alice", version, "receipt:of-connect") as wire:
            await wire.send(frame("UNSUBSCRIBE", "id:x", "receipt:"))
            assert await wire.barrier() == []

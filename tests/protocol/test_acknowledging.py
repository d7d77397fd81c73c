"""ACK and NACK: how they name a message, for which messages they are, and what is ignored."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.rows import Database, delivered, insert, unread
from tests.protocol.wire import NOTIFICATIONS, READ, UNREAD, VERSIONS, Site, Wire, frame

Names = Callable[[str], str]

every_version = pytest.mark.parametrize("version", VERSIONS)
either = pytest.mark.parametrize("command", ["ACK", "NACK"])


async def answered(wire: Wire, command: str, *lines: str) -> None:
    """Say it, and wait for its receipt, after which its effect stands."""
    await wire.send(frame(command, *lines, "receipt:answered"))
    await wire.until("RECEIPT", receipt_id="answered")


class TestRule12AckAndNack:
    @every_version
    @either
    async def test_without_a_subscription_that_acknowledges_it_is_ignored(
        self, site: Site, user: Names, version: str, command: str
    ) -> None:
        async def say_nonsense() -> None:
            for lines in (("id:undefined",), ("message-id:undefined",), ("id:",), (), ("id:a-1",)):
                await answered(wire, command, *lines)

        async with site.connected(user("alice"), version) as wire:
            await say_nonsense()
            await wire.subscribe("1")
            await wire.subscribe("2", UNREAD, "ack:auto")
            await say_nonsense()
            await wire.subscribe("3", UNREAD, "ack:client")
            await wire.send(frame("UNSUBSCRIBE", "id:3"))
            await say_nonsense()

    @every_version
    @pytest.mark.parametrize(("command", "mode"), [("ACK", "client"), ("NACK", "client-individual")])
    @pytest.mark.parametrize("id", ["undefined", "", "{}-9999", "{}-0", "{}--1", "{}-٢", "other-1"])
    async def test_with_one_an_unknown_id_is_an_error(
        self, site: Site, database: Database, user: Names, version: str, command: str, mode: str, id: str
    ) -> None:
        alice = user("alice")
        await insert(database, alice)
        async with site.connected(alice, version) as wire:
            message, *_ = await wire.subscribe("1", NOTIFICATIONS, f"ack:{mode}")
            session = message.headers["message-id"].removesuffix("-1")
            named = f"{'id' if version == '1.2' else 'message-id'}:{id.format(session)}"
            await wire.send(frame(command, named, "receipt:r"))
            error, code = await wire.refused()
        assert (error.headers["receipt-id"], code) == ("r", 1002)
        assert await delivered(database, alice) == set()

    @pytest.mark.parametrize(
        ("version", "lines"),
        [
            ("1.0", ("message-id:{message-id}",)),
            ("1.0", ("id:{message-id}",)),
            ("1.0", ("message-id:{message-id}", "subscription:1")),
            ("1.1", ("message-id:{message-id}", "subscription:1")),
            ("1.1", ("message-id:{message-id}",)),
            ("1.1", ("id:{ack}",)),
            ("1.1", ("subscription:1", "id:{message-id}")),
            ("1.2", ("id:{ack}",)),
            ("1.2", ("id:{message-id}",)),
            ("1.2", ("message-id:{message-id}", "subscription:1")),
            ("1.2", ("id:{ack}", "message-id:something-else")),
            ("1.0", ("id:something-else", "message-id:{message-id}")),
        ],
        ids=str,
    )
    async def test_it_names_its_message_as_its_version_or_another_one_says(
        self, site: Site, database: Database, user: Names, version: str, lines: tuple[str, ...]
    ) -> None:
        alice = user("alice")
        id, other = await insert(database, alice), await insert(database, alice)
        async with site.connected(alice, version) as wire:
            first, _ = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await answered(wire, "ACK", *(line.format_map(first.headers) for line in lines))
            assert await delivered(database, alice) == {id}
        assert await unread(database, alice) == [id, other]

    async def test_on_1_0_a_subscription_without_an_id_is_acknowledged_too(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, "1.0") as wire:
            await wire.send(frame("SUBSCRIBE", f"destination:{NOTIFICATIONS}", "ack:client"))
            message = await wire.message(id)
            await answered(wire, "ACK", f"message-id:{message.headers['message-id']}")
            assert await delivered(database, alice) == {id}

    @every_version
    async def test_a_message_that_needs_none_has_no_header_ack(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        await insert(database, alice)
        async with site.connected(alice, version) as wire:
            messages = [
                (await wire.subscribe(mode, NOTIFICATIONS, *([f"ack:{mode}"] if mode else [])))[0]
                for mode in ("auto", "client", "client-individual")
            ]
            await wire.send(frame("SUBSCRIBE", "id:default", f"destination:{NOTIFICATIONS}"))
            messages.append(await wire.next())
        assert ["ack" in message.names for message in messages] == [False, True, True, False]

    @every_version
    async def test_client_is_cumulative(self, site: Site, database: Database, user: Names, version: str) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(4)]
        async with site.connected(alice, version) as wire:
            messages = await wire.subscribe("1", NOTIFICATIONS, "ack:client")
            await answered(wire, "ACK", f"id:{messages[2].headers['ack']}")
            assert await delivered(database, alice) == set(ids[:3])

    @every_version
    async def test_client_is_cumulative_within_its_subscription_alone(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        await insert(database, alice)
        async with site.connected(alice, version) as wire:
            (message,) = await wire.subscribe("1", NOTIFICATIONS, "ack:client")
            (number,) = await wire.subscribe("2", UNREAD, "ack:client")
            await answered(wire, "ACK", f"id:{number.headers['ack']}")
            assert await delivered(database, alice) == set()
            await answered(wire, "ACK", f"id:{message.headers['ack']}")
            assert len(await delivered(database, alice)) == 1

    @every_version
    async def test_client_individual_is_not_cumulative(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(3)]
        async with site.connected(alice, version) as wire:
            messages = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await answered(wire, "ACK", f"id:{messages[2].headers['ack']}")
            assert await delivered(database, alice) == {ids[2]}
            await answered(wire, "ACK", f"id:{messages[0].headers['ack']}")
            assert await delivered(database, alice) == {ids[0], ids[2]}

    async def test_nack_is_cumulative_where_ack_is(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(4)]
        async with site.connected(alice) as wire:
            messages = await wire.subscribe("1", NOTIFICATIONS, "ack:client")
            await answered(wire, "NACK", f"id:{messages[1].headers['ack']}")
            await answered(wire, "ACK", f"id:{messages[2].headers['ack']}")
            assert await delivered(database, alice) == {ids[2]}

    @every_version
    @either
    async def test_what_does_not_wait_any_more_is_passed_over(
        self, site: Site, database: Database, user: Names, version: str, command: str
    ) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(2)]
        async with site.connected(alice, version) as wire:
            first, second = await wire.subscribe("1", NOTIFICATIONS, "ack:client")
            auto, _ = await wire.subscribe("2")
            await answered(wire, "ACK", f"id:{second.headers['ack']}")
            for acknowledged in (first, second, auto):
                await answered(wire, command, f"id:{acknowledged.headers['message-id']}")
            third, _ = await wire.subscribe("3", NOTIFICATIONS, "ack:client")
            await answered(wire, "UNSUBSCRIBE", "id:3")
            await answered(wire, command, f"id:{third.headers['ack']}")
        assert await delivered(database, alice) == set(ids)


class TestRule14Transactions:
    @every_version
    async def test_an_ack_counts_when_its_transaction_is_committed(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        held, free = await insert(database, alice), await insert(database, alice)
        async with site.connected(alice, version) as wire:
            first, second = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await wire.send(frame("BEGIN", "transaction:t"))
            await wire.send(frame("ACK", f"id:{first.headers['ack']}", "transaction:t", "receipt:held"))
            await answered(wire, "ACK", f"id:{second.headers['ack']}")
            assert await delivered(database, alice) == {free}
            await wire.send(frame("COMMIT", "transaction:t", "receipt:c"))
            receipts = await wire.until("RECEIPT", receipt_id="c")
            assert await delivered(database, alice) == {held, free}
        assert [each.headers["receipt-id"] for each in receipts] == ["held", "c"]

    @every_version
    @pytest.mark.parametrize("end", ["ABORT", "DISCONNECT", "close", "abort"])
    async def test_what_is_not_committed_never_happens(
        self, site: Site, database: Database, user: Names, version: str, end: str
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice, version) as wire:
            (message,) = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await wire.send(frame("BEGIN", "transaction:t"))
            await wire.send(frame("ACK", f"id:{message.headers['ack']}", "transaction:t", "receipt:1"))
            await wire.send(frame("NACK", f"id:{message.headers['ack']}", "transaction:t", "receipt:2"))
            read = frame("SEND", f"destination:{READ}", "transaction:t", "receipt:3", body=f'{{"ids":[{id}]}}')
            await wire.send(read)
            if end == "abort":
                await wire.barrier()
                wire.opened.transport.abort()
            elif end == "close":
                await wire.barrier()
                await wire.opened.close()
            else:
                await wire.send(frame(end, "transaction:t", "receipt:end"))
                assert [each.headers for each in await wire.until("RECEIPT")] == [{"receipt-id": "end"}]
        other = await insert(database, alice)
        async with site.connected(alice, version) as wire:  # whose ACK and SEND come after those of the first
            *_, message = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await answered(wire, "ACK", f"id:{message.headers['ack']}")
            await wire.send(frame("SEND", f"destination:{READ}", "receipt:r", body=f'{{"ids":[{other}]}}'))
            await wire.until("RECEIPT", receipt_id="r")
        assert await delivered(database, alice) == {other}
        assert await unread(database, alice) == [id]

    async def test_after_an_abort_the_message_can_still_be_acknowledged(
        self, site: Site, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice) as wire:
            (message,) = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            ack = f"id:{message.headers['ack']}"
            await wire.send(frame("BEGIN", "transaction:t"), frame("NACK", ack, "transaction:t"))
            await wire.send(frame("ABORT", "transaction:t"))
            await answered(wire, "ACK", ack)
            assert await delivered(database, alice) == {id}

    async def test_a_nack_counts_at_its_commit(self, site: Site, database: Database, user: Names) -> None:
        alice = user("alice")
        await insert(database, alice)
        async with site.connected(alice) as wire:
            (message,) = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            ack = f"id:{message.headers['ack']}"
            await wire.send(frame("BEGIN", "transaction:t"), frame("NACK", ack, "transaction:t"))
            await answered(wire, "COMMIT", "transaction:t")
            await answered(wire, "ACK", ack)  # for what does not wait any more
            assert await delivered(database, alice) == set()

    @every_version
    async def test_two_transactions_are_independent(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        ids = [await insert(database, alice) for _ in range(2)]
        async with site.connected(alice, version) as wire:
            for name, id in zip("ab", ids, strict=True):
                await wire.send(frame("BEGIN", f"transaction:{name}"))
                body = f'{{"ids":[{id}]}}'
                await wire.send(frame("SEND", f"destination:{READ}", f"transaction:{name}", body=body))
            await answered(wire, "ABORT", "transaction:a")
            await answered(wire, "COMMIT", "transaction:b")
        assert await unread(database, alice) == [ids[0]]

    @pytest.mark.parametrize(
        "lines",
        [
            ("COMMIT", "transaction:unknown"),
            ("ABORT", "transaction:unknown"),
            ("COMMIT",),
            ("ABORT",),
            ("BEGIN",),
            ("BEGIN", "transaction:"),
            ("BEGIN", "transaction:open"),
            ("COMMIT", "transaction:over"),
            ("SEND", f"destination:{READ}", "transaction:unknown"),
            ("SEND", f"destination:{READ}", "transaction:"),
            ("SEND", f"destination:{READ}", "transaction:over"),
            ("ACK", "id:{}", "transaction:unknown"),
            ("NACK", "id:{}", "transaction:unknown"),
        ],
        ids=str,
    )
    async def test_a_transaction_that_is_not_open_or_is_already_is_a_clear_error(
        self, site: Site, database: Database, user: Names, lines: tuple[str, ...]
    ) -> None:
        alice = user("alice")
        id = await insert(database, alice)
        async with site.connected(alice) as wire:
            (message,) = await wire.subscribe("1", NOTIFICATIONS, "ack:client-individual")
            await wire.send(*(frame("BEGIN", f"transaction:{name}") for name in ("open", "over")))
            await wire.send(frame("COMMIT", "transaction:over"))
            body = f'{{"ids":[{id}]}}' if lines[0] == "SEND" else ""
            await wire.send(frame(*(each.format(message.headers["ack"]) for each in lines), "receipt:r", body=body))
            error, code = await wire.refused()
        assert (error.headers["receipt-id"], code) == ("r", 1002)
        assert "transaction" in error.headers["message"]
        assert await unread(database, alice) == [id]
        assert await delivered(database, alice) == set()

"""What happens within a session: its token ends or is renewed, and its transactions."""

from __future__ import annotations

import asyncio
import json
import time

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from rowbell.config import Settings
from rowbell.errors import KeysUnavailable
from rowbell.gateway.session import PROMISES
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.test_gateway import close_code, next_frame, say_hello, socket
from tests.integration.processes import eventually
from tests.integration.rows import delivered, insert, unread
from tests.integration.subscriber import READ

Database = psycopg.AsyncConnection[tuple[object, ...]]
LEEWAY = TOKENS.leeway


def almost_over(user: str, seconds: float = 1.0) -> str:
    """A token that ends, leeway included, in so many seconds."""
    return TOKENS.issue(user, 60, issued_at=int(time.time() + seconds) - 60 - LEEWAY + 1)


class TestTokens:
    async def test_a_session_ends_with_its_token_and_says_so(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, Authorization=f"Bearer {almost_over('short')}")
            error = await next_frame(opened)
            assert (error.command, error.headers["message"]) == ("ERROR", "token expired")
            assert await close_code(opened) == 1008

    async def test_a_newer_token_extends_the_session(self, running_gateway: Running, database: Database) -> None:
        async with socket(running_gateway, f"/ws?token={almost_over('renews', 2)}", "v12.stomp") as opened:
            await opened.send("CONNECT\naccept-version:1.2\n\n\0")
            assert (await next_frame(opened)).command == "CONNECTED"
            await opened.send("SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nreceipt:live\n\n\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "live"
            ends = time.time() + 4
            await opened.send(f"SEND\ndestination:/app/token\nreceipt:renewed\n\n{TOKENS.issue('renews', 60)}\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "renewed"
            await eventually("the first token is over", lambda: time.time() > ends)
            await insert(database, "renews")
            assert json.loads((await next_frame(opened)).body)["recipientId"] == "renews"

    @pytest.mark.parametrize(
        ("token", "reason"),
        [
            ("nonsense", "malformed"),
            ("", "missing"),
            (TOKENS.issue("mallory", 3600), "a different user"),
            (TOKENS.issue("steady", 60, issued_at=int(time.time()) - 3600), "expired"),
        ],
        ids=["malformed", "empty", "another user's", "expired"],
    )
    async def test_a_token_that_is_no_better_ends_the_session(
        self, running_gateway: Running, token: str, reason: str
    ) -> None:
        async with socket(running_gateway) as opened:
            assert (await say_hello(opened, "steady")).command == "CONNECTED"
            await opened.send(f"SEND\ndestination:/app/token\nreceipt:r\n\n{token}\0")
            error = await next_frame(opened)
            assert (error.command, error.headers["receipt-id"]) == ("ERROR", "r")
            assert reason in error.headers["message"]
            assert await close_code(opened) == 1008

    async def test_an_empty_token_is_a_wrong_one(self, running_gateway: Running) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(running_gateway, "/ws?token="):
                pass
        assert refused.value.response.status_code == 401

    async def test_keys_that_are_not_known_yet_are_no_fault_of_the_client(
        self, running_gateway: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def unavailable(token: str) -> None:
            raise KeysUnavailable("the issuer's keys are not known here yet: try again in a few seconds")

        monkeypatch.setattr(TOKENS, "identify", unavailable)
        with pytest.raises(InvalidStatus) as refused:
            async with socket(running_gateway, "/ws?token=any"):
                pass
        assert refused.value.response.status_code == 503
        async with socket(running_gateway) as opened:
            assert "try again" in (await say_hello(opened)).headers["message"]
            assert await close_code(opened) == 1013


class TestTransactions:
    async def test_what_is_in_a_transaction_is_done_at_commit_and_the_receipt_comes_after_it(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "commits") for _ in range(3)]
        client = running_gateway.subscriber("commits", "client-individual")
        client.acknowledge = False
        async with client:
            receipts = client.subscriptions[0].receipts
            await client.send("BEGIN", transaction="t", receipt="begun")
            await client.send("ACK", id=client.messages[0].headers["ack"], transaction="t", receipt="acked")
            await client.send("SEND", json.dumps({"ids": ids[:2]}), destination=READ, transaction="t")
            await client.send("UNSUBSCRIBE", id="none", receipt="all-taken")
            await client.until(lambda: "all-taken" in receipts, "what came before is taken")
            assert "acked" not in receipts
            assert await unread(database, "commits") == ids
            await client.send("COMMIT", transaction="t", receipt="committed")
            await client.until(lambda: "committed" in receipts, "the receipt of COMMIT")
            assert receipts.index("begun") < receipts.index("acked") < receipts.index("committed")
            assert await unread(database, "commits") == ids[2:]
            assert await delivered(database, "commits") == {ids[0]}

    async def test_what_is_aborted_is_not_done(self, running_gateway: Running, database: Database) -> None:
        id = await insert(database, "aborts")
        client = running_gateway.subscriber("aborts", "client-individual")
        client.acknowledge = False
        async with client:
            await client.send("BEGIN", transaction="t")
            await client.send("ACK", id=client.messages[0].headers["ack"], transaction="t")
            await client.send("SEND", json.dumps({"ids": [id]}), destination=READ, transaction="t")
            await client.send("ABORT", transaction="t", receipt="aborted")
            await client.until(lambda: "aborted" in client.subscriptions[0].receipts, "the receipt of ABORT")
            await client.send("DISCONNECT", receipt="bye")
            await client.until(lambda: client.subscriptions[0].closed, "the close, after all was written")
        assert await unread(database, "aborts") == [id]
        assert await delivered(database, "aborts") == set()

    async def test_a_commit_whose_rows_the_database_refuses_has_no_receipt(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "refused")
        await database.execute("""
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'legal hold'; END $$;
            CREATE TRIGGER hold BEFORE UPDATE ON notification FOR EACH ROW WHEN (OLD.recipient_id = 'refused')
            EXECUTE FUNCTION hold()
        """)
        try:
            async with running_gateway.subscriber("refused") as client:
                await client.send("BEGIN", transaction="t")
                await client.send("SEND", json.dumps({"ids": [id]}), destination=READ, transaction="t")
                await client.send("COMMIT", transaction="t", receipt="never")
                async with asyncio.timeout(10):
                    await client.until(lambda: client.subscriptions[0].closed, "the close")
                assert "never" not in client.subscriptions[0].receipts
        finally:
            await database.execute("DROP TRIGGER hold ON notification; DROP FUNCTION hold()")


class TestReceipts:
    @pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=0)], indirect=True)
    @pytest.mark.parametrize(
        "frames",
        ["ACK\nid:{ack}\nreceipt:r\n\n\0", "BEGIN\ntransaction:t\n\n\0COMMIT\ntransaction:t\nreceipt:r\n\n\0"],
        ids=["ACK", "COMMIT"],
    )
    async def test_those_that_wait_for_postgresql_are_bounded(
        self, running_gateway: Running, database: Database, monkeypatch: pytest.MonkeyPatch, frames: str
    ) -> None:
        await insert(database, "promises")
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        monkeypatch.setattr(running_gateway.gateway.acknowledgements, "written", lambda: never)
        client = running_gateway.subscriber("promises", "client-individual")
        client.acknowledge = False
        async with client:
            asked = frames.format(ack=client.messages[0].headers["ack"]) * (PROMISES + 1)
            for begin in range(0, len(asked), 60_000):
                await client.send_text(asked[begin : begin + 60_000])
            await client.until(lambda: client.errors, "the refusal")
            assert "receipts already wait for PostgreSQL" in client.errors[0].headers["message"]
        never.set_result(None)

"""What one session may do: each limit is a setting, is refused in words, and is counted by its reason."""

from __future__ import annotations

import json

import psycopg
import pytest
from prometheus_client import REGISTRY
from websockets.asyncio.client import ClientConnection

from rowbell.config import Settings
from rowbell.gateway.rate import BURST
from rowbell.gateway.session import RENEWALS_A_SECOND
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.test_gateway import close_code, next_frame, said_before_the_close, say_hello, socket
from tests.integration.processes import eventually
from tests.integration.rows import insert
from tests.integration.subscriber import Frame

Database = psycopg.AsyncConnection[tuple[object, ...]]

SMALL = Settings(
    max_frame=2048,
    max_headers=8,
    max_header_line=1024,
    max_body=256,
    max_subscriptions=2,
    connect_timeout=1,
)
SUBSCRIBE = "SUBSCRIBE\nid:{}\ndestination:/user/queue/notifications\n\n\0"


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def refused(reason: str) -> float:
    return counted("rowbell_refused_total", reason=reason)


async def receipts_and_what_follows(opened: ClientConnection) -> tuple[int, Frame]:
    """How many receipts come, and the frame after them."""
    receipts = 0
    while (frame := await next_frame(opened)).command == "RECEIPT":
        receipts += 1
    return receipts, frame


@pytest.mark.parametrize("running_gateway", [SMALL], indirect=True)
class TestFrames:
    @pytest.mark.parametrize(
        ("reason", "frame", "message"),
        [
            ("frame", "SEND\n" + "".join(f"h{n}:{'x' * 1000}\n" for n in range(3)) + "\n\0", "2048 octets"),
            ("headers", "SEND\n" + "a:b\n" * 9 + "\n\0", "8 headers"),
            ("header_line", f"SEND\na:{'x' * 1024}\n\n\0", "1024 characters"),
            ("body", f"SEND\ndestination:/app/token\n\n{'x' * 257}\0", "256 octets"),
            ("body", "SEND\ndestination:/app/token\ncontent-length:257\n\n", "256 octets"),
            ("subscriptions", "".join(map(SUBSCRIBE.format, range(3))), "2 subscriptions"),
        ],
        ids=["frame", "headers", "header line", "body", "announced body", "subscriptions"],
    )
    async def test_beyond_a_limit_is_an_error_that_names_it(
        self, running_gateway: Running, reason: str, frame: str, message: str
    ) -> None:
        before = refused(reason)
        async with socket(running_gateway) as opened:
            await say_hello(opened, "large")
            half = len(frame) // 2
            for part in frame[:half], frame[half:]:  # the WebSocket message has the same limit as the frame
                await opened.send(part)
            while (error := await next_frame(opened)).command != "ERROR":
                pass
            assert message in error.headers["message"]
            assert f"ROWBELL_MAX_{reason.upper()}." in error.body
            assert await close_code(opened) == 1002
        assert refused(reason) == before + 1

    async def test_a_message_larger_than_a_frame_is_refused_by_the_websocket(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, "larger")
            await opened.send("\n" * 2049)
            assert await close_code(opened) == 1009

    async def test_who_does_not_connect_in_time_is_told_so(self, running_gateway: Running) -> None:
        before = refused("connect_timeout")
        async with socket(running_gateway) as opened:
            error = await next_frame(opened)
            assert error.headers["message"] == "no CONNECT within 1 seconds"
            assert "?token=" in error.body
            assert await close_code(opened) == 1008
        assert refused("connect_timeout") == before + 1


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=10)], indirect=True)
class TestFrameRate:
    async def test_who_sends_too_many_frames_is_told_so(self, running_gateway: Running) -> None:
        """Two seconds' worth may come at once; CONNECT is the first of them."""
        before = refused("frame_rate")
        async with socket(running_gateway) as opened:
            await say_hello(opened, "fast")
            for n in range(100):
                await opened.send(f"UNSUBSCRIBE\nid:none\nreceipt:{n}\n\n\0")
            receipts, frame = await receipts_and_what_follows(opened)
            assert frame.headers["message"] == "more than 10 frames a second"
            assert "ROWBELL_MAX_FRAME_RATE." in frame.body
            assert 10 * BURST - 2 <= receipts < 50
            assert await close_code(opened) == 1008
        assert refused("frame_rate") == before + 1

    async def test_a_token_counts_as_the_frames_that_it_costs(self, running_gateway: Running) -> None:
        running_gateway.gateway.settings = Settings(max_frame_rate=500)
        async with socket(running_gateway) as opened:
            await say_hello(opened, "renews")
            token = TOKENS.issue("renews", 60)
            for n in range(30):
                await opened.send(f"SEND\ndestination:/app/token\nreceipt:{n}\n\n{token}\0")
            receipts, frame = await receipts_and_what_follows(opened)
            assert frame.headers["message"] == "more than 500 frames a second"
            assert RENEWALS_A_SECOND * BURST - 2 <= receipts < 29

    async def test_what_is_held_in_a_transaction_counts(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, "held")
            held = "SEND\ndestination:/app/token\ntransaction:t\n\n\0" * 50
            await opened.send(f"BEGIN\ntransaction:t\n\n\0{held}ABORT\ntransaction:t\nreceipt:done\n\n\0")
            assert (await next_frame(opened)).headers["message"] == "more than 10 frames a second"

    @pytest.mark.parametrize("mode", ["auto", "client-individual"])
    async def test_an_ack_for_each_message_does_not_count(
        self, running_gateway: Running, database: Database, mode: str
    ) -> None:
        """Also of one who need not acknowledge, as stompjs does: `id:undefined`."""
        user = f"acks-{mode}"
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT %s, 'n' FROM generate_series(1, 300)", [user]
        )
        async with socket(running_gateway) as opened:
            await say_hello(opened, user)
            await opened.send(f"SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nack:{mode}\n\n\0")
            for _ in range(300):
                message = await next_frame(opened)
                await opened.send(f"ACK\nid:{message.headers.get('ack', 'undefined')}\n\n\0")
            await opened.send("UNSUBSCRIBE\nid:1\nreceipt:still here\n\n\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "still here"

    async def test_nor_does_one_that_comes_after_unsubscribe(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'leaver', 'n' FROM generate_series(1, 300)"
        )
        async with socket(running_gateway) as opened:
            await say_hello(opened, "leaver")
            await opened.send("SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nack:client-individual\n\n\0")
            acks = [(await next_frame(opened)).headers["ack"] for _ in range(300)]
            await opened.send("UNSUBSCRIBE\nid:1\n\n\0")
            for ack in acks:
                await opened.send(f"ACK\nid:{ack}\n\n\0")
            await opened.send("UNSUBSCRIBE\nid:1\nreceipt:still here\n\n\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "still here"

    async def test_an_ack_that_nobody_asked_for_counts(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, "unasked")
            await opened.send("ACK\nid:undefined\n\n\0" * 50)
            assert (await next_frame(opened)).headers["message"] == "more than 10 frames a second"

    async def test_plain_json_has_the_same_limit(self, running_gateway: Running, database: Database) -> None:
        id = await insert(database, "json-fast")
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('json-fast', 60)}&ack=client") as opened:
            await opened.send(json.dumps({"type": "ack", "id": id}))
            for _ in range(40):
                await opened.send('{"type":"ping"}')
            assert "more than 10 frames a second" in (await said_before_the_close(opened))[-1]
            assert opened.close_code == 1008


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=0)], indirect=True)
async def test_without_a_limit_frames_may_come_at_any_rate(running_gateway: Running) -> None:
    async with socket(running_gateway) as opened:
        await say_hello(opened, "unlimited")
        for _ in range(20):
            await opened.send("UNSUBSCRIBE\nid:none\n\n\0" * 200)
        await opened.send("UNSUBSCRIBE\nid:none\nreceipt:done\n\n\0")
        assert (await next_frame(opened)).headers["receipt-id"] == "done"


@pytest.mark.parametrize("running_gateway", [Settings(max_unacknowledged=5)], indirect=True)
async def test_a_subscription_that_waits_for_acks_is_counted_once(running_gateway: Running, database: Database) -> None:
    before = counted("rowbell_lagging_total", reason="unacknowledged")
    client = running_gateway.subscriber("mute", "client-individual")
    client.acknowledge = False
    async with client:
        ids = [await insert(database, "mute") for _ in range(5)]
        await client.until(lambda: len(client.messages) == 5, "as many as may wait")
        ids += [await insert(database, "mute") for _ in range(20)]
        await eventually("it waits", lambda: counted("rowbell_lagging_total", reason="unacknowledged") == before + 1)
        assert len(client.messages) == 5
        client.acknowledge = True
        for message in list(client.messages):
            await client.send("ACK", id=message.headers["ack"])
        await client.until(lambda: set(ids) <= client.seen, "the rest")
        assert counted("rowbell_lagging_total", reason="unacknowledged") <= before + 2

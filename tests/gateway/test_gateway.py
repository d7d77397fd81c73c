"""The gateway on the wire: who may come in, what is refused and how, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, cast

import jwt
import psycopg
import pytest
import requests
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rowbell.bus import Bundle
from rowbell.config import MAX_SUBSCRIPTIONS, MAX_UNACKNOWLEDGED, Settings
from rowbell.gateway import badge
from rowbell.gateway.session import ANSWER_CHARACTERS
from rowbell.gateway.web import PATHS
from rowbell.notification import Change
from tests.gateway.conftest import TOKENS, Running
from tests.integration.processes import eventually
from tests.integration.rows import delivered, insert, unread
from tests.integration.subscriber import Frame
from tests.integration.wire import masked, upgrade

Database = psycopg.AsyncConnection[tuple[object, ...]]
NOTIFICATIONS = "/user/queue/notifications"
UNREAD = "/user/queue/unread"


@asynccontextmanager
async def socket(running: Running, path: str = "/ws", *protocols: str) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{running.port}{path}"
    async with connect(url, subprotocols=list(protocols) or None) as opened:  # type: ignore[arg-type]
        yield opened


async def next_frame(opened: ClientConnection) -> Frame:
    async with asyncio.timeout(10):
        while (text := await opened.recv()) == "\n":
            pass
    assert isinstance(text, str)
    return Frame.parse(text)


async def say_hello(opened: ClientConnection, user: str = "alice", **headers: str) -> Frame:
    lines = {"accept-version": "1.2", "Authorization": f"Bearer {TOKENS.issue(user, 60)}", **headers}
    await opened.send("CONNECT\n" + "".join(f"{k}:{v}\n" for k, v in lines.items()) + "\n\0")
    return await next_frame(opened)


async def close_code(opened: ClientConnection) -> int | None:
    async with asyncio.timeout(10):
        try:
            while True:
                await opened.recv()
        except ConnectionClosed:
            return opened.close_code


async def said_before_the_close(opened: ClientConnection) -> list[str]:
    """All that comes until the gateway closes."""
    said = []
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionClosed):
            while True:
                said.append(str(await opened.recv()))
    return said


class TestComingIn:
    @pytest.mark.parametrize("name", ["token", "access_token"])
    async def test_a_token_in_the_query_names_the_user(self, running_gateway: Running, name: str) -> None:
        async with socket(running_gateway, f"/ws?{name}={TOKENS.issue('alice', 60)}", "v12.stomp") as opened:
            await opened.send("CONNECT\naccept-version:1.2\n\n\0")
            connected = await next_frame(opened)
            assert (connected.command, connected.headers["user-name"]) == ("CONNECTED", "alice")

    async def test_a_token_in_connect_names_the_user(self, running_gateway: Running) -> None:
        async with socket(running_gateway, "/stomp") as opened:
            assert (await say_hello(opened, "bob")).headers["user-name"] == "bob"

    @pytest.mark.parametrize(
        ("token", "reason"),
        [
            ("nonsense", "malformed"),
            (TOKENS.issue("alice", 60, issued_at=int(time.time()) - 3600), "expired"),
            (
                jwt.encode({"sub": "alice", "exp": 2**31}, "another key that has thirty-two bytes", "HS256"),
                "another key",
            ),
            (jwt.encode({"sub": "alice", "exp": 2**31}, None, "none"), "HS256"),
        ],
    )
    async def test_a_wrong_token_is_refused_at_the_handshake_with_401(
        self, running_gateway: Running, token: str, reason: str
    ) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(running_gateway, f"/ws?token={token}", "v12.stomp"):
                pass
        assert refused.value.response.status_code == 401
        assert reason in refused.value.response.body.decode()

    async def test_neither_a_refusal_nor_a_token_is_logged(
        self, running_gateway: Running, caplog: pytest.LogCaptureFixture
    ) -> None:
        token = TOKENS.issue("alice", 60)
        with caplog.at_level("DEBUG", logger=""):
            async with socket(running_gateway, f"/ws?token={token}"):
                pass
            with pytest.raises(InvalidStatus):
                async with socket(running_gateway, f"/ws?token={token}x"):
                    pass
        ours = [record for record in caplog.records if record.name.startswith("uvicorn")]
        assert [record.getMessage() for record in ours] == []

    async def test_a_wrong_token_in_connect_is_an_error_and_a_close(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            error = await say_hello(opened, Authorization="Bearer nonsense")
            assert error.command == "ERROR"
            assert "malformed" in error.headers["message"]
            assert await close_code(opened) == 1008

    async def test_no_token_at_all_is_an_error_that_says_how_to_give_one(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await opened.send("CONNECT\naccept-version:1.2\n\n\0")
            error = await next_frame(opened)
            assert error.command == "ERROR"
            assert "?token=" in error.body
            assert await close_code(opened) == 1008

    async def test_connect_cannot_name_another_user_than_the_handshake(self, running_gateway: Running) -> None:
        async with socket(running_gateway, f"/stomp?token={TOKENS.issue('alice', 60)}") as opened:
            assert (await say_hello(opened, "bob")).command == "ERROR"

    async def test_the_highest_subprotocol_offered_is_chosen(self, running_gateway: Running) -> None:
        async with socket(running_gateway, "/ws", "v10.stomp", "v12.stomp", "v11.stomp") as opened:
            assert opened.subprotocol == "v12.stomp"
        async with socket(running_gateway) as opened:
            assert opened.subprotocol is None

    async def test_an_unknown_path_is_404_with_advice(self, running_gateway: Running) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with socket(running_gateway, "/nowhere"):
                pass
        assert refused.value.response.status_code == 404
        assert b"/ws" in refused.value.response.body

    @pytest.mark.parametrize("path", sorted(PATHS))
    async def test_a_request_whose_upgrade_a_proxy_has_dropped_is_told_so(
        self, running_gateway: Running, path: str
    ) -> None:
        url = f"http://127.0.0.1:{running_gateway.port}{path}?token=x"
        answer = await asyncio.to_thread(requests.get, url, timeout=5)
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")
        assert "proxy" in answer.text

    async def test_who_speaks_something_else_is_told_what_there_is(self, running_gateway: Running) -> None:
        async with socket(running_gateway, "/ws") as opened:
            await opened.send('{"type":"ping"}')
            error = await next_frame(opened)
        assert "ping" in error.body
        assert "?token=" in error.body

    async def test_sockjs_is_told_how_to_connect_instead(self, running_gateway: Running) -> None:
        url = f"http://127.0.0.1:{running_gateway.port}/ws/info"
        answer = await asyncio.to_thread(requests.get, url, timeout=5)
        assert answer.status_code == 404
        assert "SockJS is not supported" in answer.text
        async with socket(running_gateway, "/ws/websocket") as opened:
            assert (await say_hello(opened)).command == "CONNECTED"


class TestRefusals:
    @pytest.mark.parametrize(
        "destination", ["/topics/x", "/user/bob/queue/notifications", "/user/queue/other", "notifications"]
    )
    async def test_an_unknown_destination_is_an_error_that_names_the_known_one(
        self, running_gateway: Running, destination: str
    ) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send(f"SUBSCRIBE\nid:1\ndestination:{destination}\nreceipt:r\n\n\0")
            error = await next_frame(opened)
            assert (error.command, error.headers["receipt-id"]) == ("ERROR", "r")
            assert NOTIFICATIONS in error.body
            assert await close_code(opened) == 1002

    @pytest.mark.parametrize(
        "frame", ["SEND\ndestination:/app/x\n\n\0", "COMMIT\ntransaction:t\n\n\0", "NONSENSE\n\n\0"]
    )
    async def test_what_is_not_obeyed_is_an_error(self, running_gateway: Running, frame: str) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send(frame)
            assert (await next_frame(opened)).command == "ERROR"
            assert await close_code(opened) == 1002

    async def test_garbage_is_an_error_and_never_a_1011(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await opened.send(b"\x00\xff\xfe\x00")
            assert await close_code(opened) == 1002


class TestSession:
    async def test_a_receipt_of_an_ack_comes_when_the_delivery_is_recorded(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "ack")
        subscriber = running_gateway.subscriber("ack", "client-individual")
        subscriber.acknowledge = False
        async with subscriber as client:
            assert await delivered(database, "ack") == set()
            await client.send("ACK", id=client.messages[0].headers["ack"], receipt="acked")
            client.subscriptions[0].receipt = False
            await client.until(lambda: client.subscriptions[0].receipt, "the receipt of ACK")
            assert await delivered(database, "ack") == {id}

    async def test_a_nack_records_nothing(self, running_gateway: Running, database: Database) -> None:
        id = await insert(database, "nack")
        subscriber = running_gateway.subscriber("nack", "client-individual")
        subscriber.acknowledge = False
        async with subscriber as client:
            client.subscriptions[0].receipt = False
            await client.send("NACK", id=client.messages[0].headers["ack"], receipt="nacked")
            await client.until(lambda: client.subscriptions[0].receipt, "the receipt of NACK")
            await client.send("DISCONNECT", receipt="bye")
            await client.until(lambda: client.subscriptions[0].closed, "the close, after all was written")
        assert await delivered(database, "nack") == set()
        assert await unread(database, "nack") == [id]

    async def test_client_mode_acknowledges_all_before(self, running_gateway: Running, database: Database) -> None:
        ids = [await insert(database, "cumulative") for _ in range(5)]
        async with running_gateway.subscriber("cumulative", "client") as client:
            await client.until(lambda: len(client.messages) == 5, "five rows")

            async def recorded() -> bool:
                return await delivered(database, "cumulative") == set(ids)

            await eventually("all five are recorded", recorded)

    async def test_after_unsubscribe_nothing_comes_and_presence_forgets(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with running_gateway.subscriber("leaver") as client:
            assert await running_gateway.presence.gateways_of(["leaver"]) != {}
            client.subscriptions[0].receipt = False
            await client.send("UNSUBSCRIBE", id="s1", receipt="gone")
            await client.until(lambda: client.subscriptions[0].receipt, "the receipt of UNSUBSCRIBE")

            async def forgotten() -> bool:
                return await running_gateway.presence.gateways_of(["leaver"]) == {}

            await eventually("presence forgets", forgotten)
            await insert(database, "leaver")
            await client.send("SUBSCRIBE", id="s2", destination=NOTIFICATIONS, receipt="again")
            await client.until(lambda: client.messages, "the row, replayed")
            assert client.messages[0].headers["subscription"] == "s2"

    async def test_disconnect_is_answered_then_closed_with_1000(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send("DISCONNECT\nreceipt:bye\n\n\0")
            receipt = await next_frame(opened)
            assert (receipt.command, receipt.headers["receipt-id"]) == ("RECEIPT", "bye")
            assert await close_code(opened) == 1000

    async def test_without_a_bus_rows_come_by_the_sweep(self, running_gateway: Running, database: Database) -> None:
        async with running_gateway.subscriber("swept") as client:
            id = await insert(database, "swept")
            await client.until(lambda: client.messages, "the row")
            await database.execute("UPDATE notification SET title = 'Other' WHERE id = %s", [id])
            await database.execute("DELETE FROM notification WHERE id = %s", [await insert(database, "swept")])
            await client.until(lambda: len(client.messages) == 3, "the update and the deletion")
            assert [m.headers["event"] for m in client.messages[:2]] == ["created", "updated"]
            assert client.messages[2].headers["event"] == "deleted"
            assert not any("replayed" in m.headers for m in client.messages)

    async def test_a_user_whom_presence_forgot_is_written_again_when_a_pass_brings_the_rows(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with running_gateway.subscriber("forgotten") as client:
            for gateway in (await running_gateway.presence.gateways_of(["forgotten"]))["forgotten"]:
                await running_gateway.presence.remove(gateway, ["forgotten"])
            await database.execute(
                "INSERT INTO notification (recipient_id, title) SELECT 'forgotten', 'n' FROM generate_series(1, 300)"
            )
            await client.until(lambda: len(client.messages) == 300, "more rows than a sweep gives")

            async def known() -> bool:
                return await running_gateway.presence.gateways_of(["forgotten"]) != {}

            await eventually("presence knows again", known)

    async def test_a_deletion_with_a_32_bit_transaction_id_is_not_repeated_by_the_sweep(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with running_gateway.subscriber("deleted") as client:
            id = await insert(database, "deleted")
            await client.until(lambda: client.messages, "the row")
            await database.execute("DELETE FROM notification WHERE id = %s", [id])
            cursor = await database.execute("SELECT deleted_tx FROM notification_deleted WHERE id = %s", [id])
            row = await cursor.fetchone()
            assert row is not None
            change = Change(id, "deleted", 2**63 - 1, 0, int(str(row[0])) & 0xFFFFFFFF)
            gateways = await running_gateway.presence.gateways_of(["deleted"])
            await running_gateway.bus.publish([Bundle(g, [change, change]) for g in gateways["deleted"]])
            last = await insert(database, "deleted")
            await client.until(lambda: last in client.seen, "the next row")
            assert client.subscriptions[0].ids("deleted") == [id]

    async def test_a_session_has_a_bounded_number_of_subscriptions(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            for n in range(MAX_SUBSCRIPTIONS):
                await opened.send(f"SUBSCRIBE\nid:{n}\ndestination:{NOTIFICATIONS}\nreceipt:{n}\n\n\0")
                assert (await next_frame(opened)).headers["receipt-id"] == str(n)
            await opened.send(f"SUBSCRIBE\nid:more\ndestination:{NOTIFICATIONS}\nreceipt:r\n\n\0")
            error = await next_frame(opened)
            assert (error.command, error.headers["receipt-id"]) == ("ERROR", "r")
            assert str(MAX_SUBSCRIPTIONS) in error.headers["message"]

    async def test_a_subscription_that_ends_before_it_is_live_is_answered(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            await opened.send(
                f"SUBSCRIBE\nid:1\ndestination:{NOTIFICATIONS}\nreceipt:one\n\n\0UNSUBSCRIBE\nid:1\nreceipt:two\n\n\0"
            )
            assert [(await next_frame(opened)).headers["receipt-id"] for _ in range(2)] == ["one", "two"]

    @pytest.mark.parametrize("last", ["DISCONNECT\nreceipt:bye\n\n\0", "NONSENSE\n\n\0"])
    async def test_the_last_frame_and_the_close_are_sent_in_one_go(
        self, running_gateway: Running, monkeypatch: pytest.MonkeyPatch, last: str
    ) -> None:
        """Between them a client that has read the first would close by itself, and hide the gateway's close."""
        sent: list[tuple[str, object]] = []

        async with socket(running_gateway) as opened:
            await say_hello(opened)
            [session] = running_gateway.gateway._sessions
            send = session._send

            async def keep(message: MutableMapping[str, Any]) -> None:
                sent.append((message["type"], asyncio.current_task()))
                await send(message)

            monkeypatch.setattr(session, "_send", keep)
            await opened.send(last)
            await next_frame(opened)
            await close_code(opened)
        (first, writer), (second, closer) = sent
        assert (first, second, writer) == ("websocket.send", "websocket.close", closer)

    @pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=0)], indirect=True)
    async def test_who_asks_for_receipts_and_does_not_read_them_is_closed(self, running_gateway: Running) -> None:
        async with raw_socket(running_gateway, "deaf") as (_, writer):
            demand = masked(f"UNSUBSCRIBE\nid:none\nreceipt:{'r' * 8000}\n\n\0".encode())
            assert ANSWER_CHARACTERS < await most_owed(running_gateway, writer, demand) < 80_000

    async def test_a_number_that_waited_comes_when_others_are_refused(
        self, running_gateway: Running, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(badge, "UNACKNOWLEDGED", 2)
        async with socket(running_gateway) as opened:
            await say_hello(opened, "refuses")
            await opened.send(f"SUBSCRIBE\nid:1\ndestination:{UNREAD}\nack:client-individual\n\n\0")
            none = await next_frame(opened)
            await insert(database, "refuses")
            one = await next_frame(opened)
            await insert(database, "refuses")
            [session] = running_gateway.gateway._sessions
            [waits] = cast(list[badge.Badge], list(session._subscriptions.values()))
            await eventually("it is counted", lambda: waits._counted == 2)
            await eventually("nothing has expired", lambda: running_gateway.gateway._unread._looked_at is not None)
            await opened.send("".join(f"NACK\nid:{each.headers['ack']}\n\n\0" for each in (none, one)))
            assert (await next_frame(opened)).body == '{"unread":2}'

    async def test_a_client_that_does_not_acknowledge_is_sent_no_more_until_it_does(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'mute', 'n' || n FROM generate_series(1, 6000) n"
        )
        mute = running_gateway.subscriber("mute", "client")
        mute.acknowledge = False
        mute.start()
        try:
            await mute.until(lambda: len(mute.messages) >= MAX_UNACKNOWLEDGED, "as many as may wait")
            assert len(mute.messages) < MAX_UNACKNOWLEDGED + 200
            assert not mute.subscriptions[0].receipt
            await mute.send("ACK", id=mute.messages[-1].headers["ack"])
            await mute.until(lambda: mute.subscriptions[0].receipt, "the rest, and the receipt")
            assert len(mute.subscriptions[0].ids()) == len(set(mute.subscriptions[0].ids())) == 6000
            await mute.send("ACK", id=mute.messages[-1].headers["ack"])

            async def recorded() -> bool:
                return len(await delivered(database, "mute")) == 6000

            await eventually("all of them are recorded", recorded)
        finally:
            await mute.stop()

    async def test_a_row_that_was_hidden_first_is_recorded_when_it_is_shown(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "late", channel="EMAIL")
        async with running_gateway.subscriber("late") as client:
            assert client.messages == []
            await database.execute("UPDATE notification SET channel = 'IN_APP' WHERE id = %s", [id])
            await client.until(lambda: client.messages, "the row")

            async def recorded() -> bool:
                return await delivered(database, "late") == {id}

            await eventually("it is recorded", recorded)


@asynccontextmanager
async def raw_socket(running: Running, user: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connected client of STOMP that reads only what it is told to."""
    async with upgraded(running, "/stomp") as (reader, writer):
        connect = f"CONNECT\naccept-version:1.2\nAuthorization:Bearer {TOKENS.issue(user, 60)}\n\n\0"
        writer.write(masked(connect.encode()))
        yield reader, writer


@asynccontextmanager
async def upgraded(running: Running, path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """After the handshake nothing is read that the test does not read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
    try:
        writer.write(upgrade(path, "x"))
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()


async def most_owed(running: Running, writer: asyncio.StreamWriter, demand: bytes) -> int:
    """The most characters of answers that wait for one who asks again and again and does not read, until it is cut."""

    async def ask() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(demand)
                await writer.drain()
                await asyncio.sleep(0)

    asking = asyncio.create_task(ask())
    owed = 0
    try:
        async with asyncio.timeout(20):
            while running.gateway._sessions:
                owed = max(owed, *(session._owed for session in running.gateway._sessions))
                await asyncio.sleep(0)
    finally:
        asking.cancel()
    return owed


class TestTime:
    """The one timer of all sessions, with its hands moved."""

    @staticmethod
    def later(running: Running, seconds: float) -> None:
        for session in tuple(running.gateway._sessions):
            session.beat(asyncio.get_running_loop().time() + seconds)

    async def test_who_does_not_connect_in_ten_seconds_is_closed(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await opened.send("CONNECT\n")
            self.later(running_gateway, 9)
            assert opened.close_code is None
            self.later(running_gateway, 11)
            assert "CONNECT" in (await next_frame(opened)).headers["message"]
            assert await close_code(opened) == 1008

    async def test_a_silent_session_is_sent_a_heart_beat(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            assert (await say_hello(opened, **{"heart-beat": "0,4000"})).headers["heart-beat"] == "10000,10000"
            self.later(running_gateway, 9)
            async with asyncio.timeout(5):
                assert await opened.recv() == "\n"

    async def test_a_client_that_promised_heart_beats_and_vanished_is_closed(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened, **{"heart-beat": "4000,0"})
            self.later(running_gateway, 15)
            assert opened.close_code is None
            self.later(running_gateway, 26)
            self.later(running_gateway, 27)
            assert "heart-beat" in (await next_frame(opened)).headers["message"]
            assert await close_code(opened) == 1002

    async def test_a_client_that_promised_none_may_be_silent(self, running_gateway: Running) -> None:
        async with socket(running_gateway) as opened:
            await say_hello(opened)
            self.later(running_gateway, 3600)
            await opened.send("DISCONNECT\nreceipt:still-here\n\n\0")
            assert (await next_frame(opened)).headers["receipt-id"] == "still-here"


class TestEnding:
    async def test_sigterm_closes_sessions_with_1012_and_refuses_others(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "stopped")
        async with running_gateway.subscriber("stopped") as client, socket(running_gateway) as other:
            await say_hello(other)
            await running_gateway.stop()
            await client.until(lambda: client.subscriptions[0].closed, "the close")
            assert client.subscriptions[0].closed == 1012
            assert await close_code(other) == 1012
        assert await running_gateway.presence.gateways_of(["stopped"]) == {}
        assert await delivered(database, "stopped") == {id}, "acknowledgements were flushed"
        with pytest.raises(OSError, match="Connect call failed"):
            async with socket(running_gateway):
                pass

    async def test_a_client_that_does_not_read_does_not_hold_up_the_end(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title, body) "
            "SELECT 'unreading', 'n', repeat('x', 16000) FROM generate_series(1, 2000)"
        )
        async with raw_socket(running_gateway, "unreading") as (_, writer):
            writer.write(masked(f"SUBSCRIBE\nid:1\ndestination:{NOTIFICATIONS}\n\n\0".encode()))
            looks: list[int] = []

            def it_stands_still() -> bool:
                looks.extend(session._queued for session in running_gateway.gateway._sessions)
                return len(looks) >= 10 and looks[-1] > 0 and len(set(looks[-10:])) == 1

            await eventually("what waits for it", it_stands_still)
            async with asyncio.timeout(6):
                await running_gateway.stop()

    async def test_a_terminal_that_is_closed_stops_the_gateway_as_an_administrator_does(
        self, running_gateway: Running
    ) -> None:
        async with running_gateway.subscriber("terminal") as client:
            os.kill(os.getpid(), signal.SIGHUP)
            await client.until(lambda: client.subscriptions[0].closed, "the close")
            assert client.subscriptions[0].closed == 1012
            await running_gateway.serving

    async def test_a_gateway_that_does_not_sweep_is_not_ready(self, running_gateway: Running) -> None:
        running_gateway.gateway._sweeper.swept_at -= 60
        assert "not been swept for 6" in str(await running_gateway.gateway.ready())

    async def test_live_and_ready_tell_the_truth(self, running_gateway: Running, database: Database) -> None:
        base = f"http://127.0.0.1:{running_gateway.port}"

        def probe(path: str) -> tuple[int, str]:
            answer = requests.get(base + path, timeout=5)
            return answer.status_code, answer.text

        async def ready() -> bool:
            return (await asyncio.to_thread(probe, "/ready"))[0] == 200

        await eventually("ready", ready)
        assert await asyncio.to_thread(probe, "/live") == (200, "live\n")
        running_gateway.bus.disconnect()
        status, text = await asyncio.to_thread(probe, "/ready")
        assert (status, json.loads(text)["reason"]) in {(503, "the bus is not connected"), (200, None)}
        await eventually("ready again", ready)


async def test_an_unread_row_stays_unread_until_it_is_read(running_gateway: Running, database: Database) -> None:
    id = await insert(database, "reader")
    async with running_gateway.subscriber("reader"):
        assert await unread(database, "reader") == [id]

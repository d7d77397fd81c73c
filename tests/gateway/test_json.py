"""The plain JSON protocol: a WebSocket and a token, without STOMP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection

from rowbell.config import Settings
from rowbell.gateway.commands import RECEIPT_CHARACTERS, parse_command
from rowbell.gateway.json_session import PING_AFTER, Unacknowledged
from rowbell.gateway.session import ANSWER_CHARACTERS, NO_DELIVERY
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.test_gateway import close_code, most_owed, next_frame, socket, upgraded
from tests.gateway.test_sessions import almost_over
from tests.integration.processes import eventually
from tests.integration.rows import delivered, insert, unread
from tests.integration.wire import PING, TEXT, frames, masked

Database = psycopg.AsyncConnection[tuple[object, ...]]


class Client:
    """Keeps all that it is sent."""

    def __init__(self, opened: ClientConnection) -> None:
        self._opened = opened
        self.texts: list[str] = []

    @property
    def all(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [each for each in self.all if "event" in each]

    def of(self, type: str) -> list[dict[str, Any]]:
        """What is no notification, and of this type."""
        return [each for each in self.all if "event" not in each and each["type"] == type]

    async def take(self) -> dict[str, Any]:
        async with asyncio.timeout(10):
            text = await self._opened.recv()
        assert isinstance(text, str)
        self.texts.append(text)
        taken: dict[str, Any] = json.loads(text)
        return taken

    async def until(self, type: str, **members: Any) -> dict[str, Any]:
        """The next of this type with these members."""
        while "event" in (each := await self.take()) or each["type"] != type or not members.items() <= each.items():
            pass
        return each

    async def row(self) -> dict[str, Any]:
        """The next change."""
        while "event" not in (each := await self.take()):
            pass
        return each

    async def say(self, type: str, **members: Any) -> None:
        await self._opened.send(json.dumps({"type": type, **members}))

    async def ask(self, type: str, **members: Any) -> None:
        """Say it, and wait until it has taken effect."""
        await self.say(type, receipt="r", **members)
        await self.until("RECEIPT", receipt="r")


@asynccontextmanager
async def client(running: Running, user: str, query: str = "") -> AsyncIterator[Client]:
    """Connected, and live."""
    async with socket(running, f"/ws?token={TOKENS.issue(user, 60)}{query}") as opened:
        client = Client(opened)
        await client.until("LIVE")
        yield client


class TestWhatComes:
    async def test_first_who_it_is_then_the_unread_rows_marked_then_live(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "jane") for _ in range(3)]
        async with client(running_gateway, "jane") as jane:
            assert jane.all[0] == {"type": "CONNECTED", "user": "jane"}
            assert [(row["id"], row["event"], row["replayed"]) for row in jane.rows] == [
                (id, "created", True) for id in ids
            ]
            assert jane.all.index(jane.rows[-1]) < jane.all.index({"type": "LIVE"})
            last = await insert(database, "jane")
            row = await jane.row()
            assert (row["id"], row["event"], "replayed" in row) == (last, "created", False)

    async def test_a_change_is_letter_for_letter_what_a_stomp_message_says(
        self, running_gateway: Running, database: Database
    ) -> None:
        await insert(database, "twin")
        async with client(running_gateway, "twin") as plain, running_gateway.subscriber("twin") as stomp:
            id = await insert(database, "twin")
            await database.execute(
                """UPDATE notification SET title = 'Grüße "☃"', data = '{"a": 1e3}' WHERE id = %s""", [id]
            )
            await database.execute("DELETE FROM notification WHERE id = %s", [id])
            await stomp.until(lambda: stomp.subscriptions[0].ids("deleted") == [id], "the deletion")
            while (await plain.row())["event"] != "deleted":
                pass
        texts = [text for text in plain.texts if '"event"' in text]
        bodies = [message.body for message in stomp.messages]
        assert texts[-1] == bodies[-1]
        assert texts[0] == '{"replayed":true,' + bodies[0][1:]

    async def test_the_number_of_unread_rows_comes_by_itself(
        self, running_gateway: Running, database: Database
    ) -> None:
        await insert(database, "counts")
        async with client(running_gateway, "counts") as counts:
            if not counts.of("UNREAD"):
                await counts.until("UNREAD")
            assert counts.of("UNREAD") == [{"type": "UNREAD", "unread": 1}]
            await insert(database, "counts")
            await counts.until("UNREAD", unread=2)

    async def test_a_row_whose_type_is_that_of_a_message_has_an_event_all_the_same(
        self, running_gateway: Running, database: Database
    ) -> None:
        async with client(running_gateway, "typed") as typed:
            await database.execute(
                "INSERT INTO notification (recipient_id, title, type) VALUES ('typed', 'n', 'ERROR')"
            )
            assert (await typed.row())["type"] == "ERROR"
            assert typed.of("ERROR") == []

    async def test_a_replay_of_many_pages_comes_once_and_live_after_it(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title, body) "
            "SELECT 'pages', 'n', repeat('x', 1000) FROM generate_series(1, 3000)"
        )
        async with client(running_gateway, "pages") as pages:
            ids = [row["id"] for row in pages.rows]
            assert len(ids) == len(set(ids)) == 3000

    async def test_whoever_stops_the_gateway_the_close_says_come_again(self, running_gateway: Running) -> None:
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('stop', 60)}") as opened:
            await Client(opened).until("LIVE")
            await running_gateway.stop()
            assert await close_code(opened) == 1012


class TestWhoSpeaksIt:
    @pytest.mark.parametrize("name", ["token", "access_token"])
    async def test_a_token_in_the_query_and_no_subprotocol_is_plain_json(
        self, running_gateway: Running, name: str
    ) -> None:
        async with socket(running_gateway, f"/ws?{name}={TOKENS.issue('Jürgen', 60)}") as opened:
            assert await Client(opened).take() == {"type": "CONNECTED", "user": "Jürgen"}

    @pytest.mark.parametrize(
        ("path", "protocols"),
        [("/ws?token=", ["v12.stomp"]), ("/stomp?token=", []), ("/ws/websocket?token=", []), ("/ws?x=", [])],
    )
    async def test_everything_else_is_stomp(self, running_gateway: Running, path: str, protocols: list[str]) -> None:
        token = TOKENS.issue("stomp", 60)
        async with socket(running_gateway, path + token, *protocols) as opened:
            await opened.send(f"CONNECT\naccept-version:1.2\nAuthorization:Bearer {token}\n\n\0")
            assert (await next_frame(opened)).command == "CONNECTED"


class TestAcknowledgements:
    async def test_a_client_that_never_acknowledges_has_got_what_was_written(
        self, running_gateway: Running, database: Database
    ) -> None:
        id = await insert(database, "silent")
        async with client(running_gateway, "silent") as silent:

            async def recorded() -> bool:
                return await delivered(database, "silent") == {id}

            await eventually("the delivery is recorded", recorded)
            await silent.ask("ack", id=id)  # right, and does nothing

    async def test_with_ack_client_delivered_is_what_the_client_says(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "acks") for _ in range(2)]
        async with client(running_gateway, "acks", "&ack=client") as acks:
            await acks.ask("ack", id=ids[1])
            await acks.ask("ack", id=ids[1])
            await acks.ask("ack", id=2**53 - 1)
            assert await delivered(database, "acks") == {ids[1]}

    @pytest.mark.parametrize("running_gateway", [Settings(max_unacknowledged=300)], indirect=True)
    async def test_who_acknowledges_nothing_is_sent_no_more_until_it_does(
        self, running_gateway: Running, database: Database
    ) -> None:
        await database.execute(
            "INSERT INTO notification (recipient_id, title) SELECT 'bounded', 'n' FROM generate_series(1, 1000)"
        )
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('bounded', 60)}&ack=client") as opened:
            bounded = Client(opened)
            while len(bounded.rows) < 400:
                await bounded.row()
            await bounded.say("ping")
            await bounded.until("pong")
            assert len(bounded.rows) == 400
            for row in bounded.rows:
                await bounded.say("ack", id=row["id"])
            while len(bounded.rows) < 800:
                await bounded.row()

    def test_an_acknowledgement_is_of_the_oldest_message_about_a_notification(self) -> None:
        waiting = Unacknowledged()
        waiting.add(7, 7)
        waiting.add(7, NO_DELIVERY)
        waiting.add(8, 8)
        assert (list(waiting), len(waiting), 8 in waiting, 9 in waiting) == ([7, NO_DELIVERY, 8], 3, True, False)
        assert [waiting.settle(7) for _ in range(3)] == [[7], [], []]
        assert (list(waiting), len(waiting)) == ([8], 1)


class TestMarking:
    async def test_ids_are_marked_and_the_receipt_says_so(self, running_gateway: Running, database: Database) -> None:
        ids = [await insert(database, "reads") for _ in range(3)]
        async with client(running_gateway, "reads") as reads:
            await reads.ask("read", ids=ids[:2])
            assert await unread(database, "reads") == ids[2:]
            if not reads.of("UNREAD") or reads.of("UNREAD")[-1]["unread"] != 1:
                await reads.until("UNREAD", unread=1)

    async def test_all_is_what_was_written(self, running_gateway: Running, database: Database) -> None:
        for _ in range(3):
            await insert(database, "all")
        async with client(running_gateway, "all") as everything:
            await everything.ask("read", all=True)
            assert await unread(database, "all") == []

    async def test_all_is_what_was_acknowledged_in_the_version_that_was(
        self, running_gateway: Running, database: Database
    ) -> None:
        ids = [await insert(database, "seen") for _ in range(3)]
        async with client(running_gateway, "seen", "&ack=client") as seen:
            await database.execute("UPDATE notification SET title = 'Other' WHERE id = %s", [ids[1]])
            assert (await seen.row())["event"] == "updated"
            await seen.say("ack", id=ids[0])
            await seen.say("ack", id=ids[1])  # of its first version: the second is on its way
            await seen.ask("read", all=True)
            assert await unread(database, "seen") == ids[1:]


class TestTokens:
    async def test_a_newer_token_extends_the_session(self, running_gateway: Running, database: Database) -> None:
        async with socket(running_gateway, f"/ws?token={almost_over('longer', 2)}") as opened:
            longer = Client(opened)
            await longer.until("LIVE")
            ends = time.time() + 4
            await longer.ask("token", token=TOKENS.issue("longer", 60))
            await eventually("the first token is over", lambda: time.time() > ends)
            await insert(database, "longer")
            assert (await longer.row())["recipientId"] == "longer"

    async def test_a_session_ends_with_its_token_and_says_how_to_stay(self, running_gateway: Running) -> None:
        async with socket(running_gateway, f"/ws?token={almost_over('ends')}") as opened:
            error = await Client(opened).until("ERROR")
            assert (error["message"], '"type":"token"' in error["detail"]) == ("token expired", True)
            assert await close_code(opened) == 1008

    async def test_another_users_token_ends_it(self, running_gateway: Running) -> None:
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('me', 60)}") as opened:
            me = Client(opened)
            await me.say("token", token=TOKENS.issue("mallory", 60), receipt="t")
            error = await me.until("ERROR")
            assert (error["receipt"], "a different user" in error["message"]) == ("t", True)
            assert await close_code(opened) == 1008


class TestMessages:
    async def test_a_ping_is_answered(self, running_gateway: Running) -> None:
        async with client(running_gateway, "pings") as pings:
            await pings.say("ping")
            assert await pings.until("pong") == {"type": "pong"}
            await pings.ask("ping")

    @pytest.mark.parametrize(
        "message",
        [
            "",
            "CONNECT\naccept-version:1.2\n\n\0",
            "[]",
            "{}",
            '{"type":"nonsense"}',
            '{"type":"ack"}',
            '{"type":"ack","id":"42"}',
            '{"type":"ack","id":0}',
            '{"type":"ack","id":9007199254740992}',
            '{"type":"ping","id":1}',
            '{"type":"ping","receipt":""}',
            '{"type":"ping","receipt":"\\ud800"}',
            json.dumps({"type": "ping", "receipt": "r" * (RECEIPT_CHARACTERS + 1)}),
            '{"type":"read"}',
            '{"type":"read","ids":[1],"all":true}',
            '{"type":"read","ids":[true]}',
            json.dumps({"type": "read", "ids": list(range(1, 1002))}),
            json.dumps({"type": "x" * 60_000}),
            '{"x":' + "[" * 30_000,
            b"\xff\xfe",
        ],
        ids=lambda message: repr(message)[:40],
    )
    async def test_what_cannot_be_obeyed_is_an_error_that_says_what_can_and_never_a_1011(
        self, running_gateway: Running, message: str | bytes
    ) -> None:
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('errs', 60)}") as opened:
            await opened.send(message)
            errs = Client(opened)
            error = await errs.until("ERROR")
            assert '{"type":"ack","id":42}' in error["detail"]
            assert len(errs.texts[-1]) < 2000
            assert await close_code(opened) == 1002

    async def test_an_unknown_mode_of_acknowledgement_is_an_error(self, running_gateway: Running) -> None:
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('errs', 60)}&ack=always") as opened:
            assert "?ack=" in (await Client(opened).take())["message"]
            assert await close_code(opened) == 1002

    async def test_json_may_come_as_a_binary_message(self, running_gateway: Running) -> None:
        async with socket(running_gateway, f"/ws?token={TOKENS.issue('bytes', 60)}") as opened:
            await opened.send(b'{"type":"ping"}')
            await Client(opened).until("pong")

    @pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=0)], indirect=True)
    async def test_who_pings_and_does_not_read_is_closed(self, running_gateway: Running) -> None:
        async with upgraded(running_gateway, f"/ws?token={TOKENS.issue('deaf', 60)}") as (_, writer):
            demand = masked(json.dumps({"type": "ping", "receipt": "r" * RECEIPT_CHARACTERS}).encode()) * 100
            assert ANSWER_CHARACTERS < await most_owed(running_gateway, writer, demand) < 80_000

    def test_a_receipt_may_hold_any_character(self) -> None:
        assert parse_command('{"type":"ping","receipt":"☃\\n\\u0000"}').receipt == "☃\n\0"


async def test_a_session_in_which_nothing_is_said_is_pinged_so_that_proxies_keep_it(running_gateway: Running) -> None:
    async with upgraded(running_gateway, f"/ws?token={TOKENS.issue('silent', 60)}") as (reader, _):
        buffer = bytearray()

        async def until(kind: int, text: bytes) -> None:
            async with asyncio.timeout(10):
                while (kind, text) not in [(each, payload) for each, payload in frames(buffer)]:
                    buffer.extend(await reader.read(65536))

        await until(TEXT, b'{"type":"LIVE"}')
        [session] = running_gateway.gateway._sessions
        now = asyncio.get_running_loop().time()
        session.beat(now + PING_AFTER - 1)
        session.beat(now + PING_AFTER + 1)
        session.beat(now + PING_AFTER + 2)
        session.send_receipt("said")
        got: list[tuple[int, bytes]] = []
        async with asyncio.timeout(10):
            while (TEXT, b'{"type":"RECEIPT","receipt":"said"}') not in got:
                buffer.extend(await reader.read(65536))
                got += frames(buffer)
        assert [kind for kind, _ in got] == [PING, TEXT]

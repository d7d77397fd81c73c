"""Frames that are no messages, and messages that come in thousands: counted, and never a reason for a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import NamedTuple

import psycopg
import pytest

from rowbell.auth import Identity
from rowbell.config import Settings
from rowbell.gateway.rate import BURST
from rowbell.gateway.websocket import WebSocketProtocol
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.test_gateway import next_frame, raw_socket, say_hello, socket
from tests.gateway.test_limits import refused
from tests.integration.processes import eventually
from tests.integration.rows import delivered
from tests.integration.wire import CLOSE, PING, TEXT, frames, masked, upgrade

Database = psycopg.AsyncConnection[tuple[object, ...]]

PONG, FIRST, MIDDLE = 0x8A, 0x01, 0x00
"""A pong in one piece; a text message that goes on; a piece of it."""
RATE = 50
MUCH = 4 << 20
"""Octets: more than a gateway reads at a time, and than sockets hold."""
PONGS = masked(bytes(125), PONG) * (MUCH // 131)
"""So large that those that are parsed together are not too many."""


async def close_code(reader: asyncio.StreamReader) -> tuple[int | None, list[bytes]]:
    """That of the close frame, None if there is none, and the text frames before it."""
    buffer, texts = bytearray(), []
    async with asyncio.timeout(20):
        while data := await reader.read(65536):
            buffer += data
            for kind, payload in frames(buffer):
                if kind == CLOSE:
                    return int.from_bytes(payload[:2], "big"), texts
                if kind == TEXT:
                    texts.append(payload)
    return None, texts


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=RATE)], indirect=True)
@pytest.mark.parametrize(
    "flood",
    [
        masked(b"", PING) * 5000,
        masked(b"", PONG) * 5000,
        masked(b"", FIRST) + masked(b"", MIDDLE) * 5000,
        masked(b"\n") * 5000,
        masked(b"") * 5000,
        masked(b"S") * 5000,
    ],
    ids=["pings", "pongs", "fragments", "line feeds", "empty messages", "pieces of a frame"],
)
async def test_a_flood_of_the_smallest_frames_ends_with_a_reason(running_gateway: Running, flood: bytes) -> None:
    before = refused("frame_rate")
    async with raw_socket(running_gateway, "flood") as (reader, writer):
        writer.write(flood)
        code, texts = await close_code(reader)
        assert code == 1008
        assert len(texts) <= 2  # CONNECTED, and ERROR where it was about messages
    assert refused("frame_rate") == before + 1


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=RATE)], indirect=True)
@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\xff" + MUCH.to_bytes(8, "big") + bytes(MUCH), 1009),
        (b"\xff\xff" + bytes(MUCH), 1002),
        (masked(b"\xff") + PONGS, 1007),
        (PONGS, 1008),
    ],
    ids=["a large frame", "junk", "text", "pongs"],
)
async def test_who_goes_on_sending_sees_nevertheless_why_it_is_ended(
    running_gateway: Running, sent: bytes, code: int
) -> None:
    async with raw_socket(running_gateway, "goes-on") as (reader, writer):
        writer.write(sent)
        assert (await close_code(reader))[0] == code
        async with asyncio.timeout(20):
            assert await reader.read() == b"", "the end, and no reset"


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=RATE)], indirect=True)
async def test_what_is_sent_after_the_end_does_not_reset_the_connection(running_gateway: Running) -> None:
    async with raw_socket(running_gateway, "goes-on") as (reader, writer):
        writer.write(masked(b"NONSENSE\n\n\0"))
        assert (await close_code(reader))[0] == 1002
        writer.write(PONGS)
        async with asyncio.timeout(20):
            assert await reader.read() == b""


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=RATE)], indirect=True)
async def test_as_many_as_may_come_at_once_are_answered(running_gateway: Running) -> None:
    pings = int(RATE * BURST) - 1
    async with raw_socket(running_gateway, "pings") as (reader, writer):
        buffer, pongs = bytearray(), 0
        for _ in range(pings):
            writer.write(masked(b"?", PING))
            await writer.drain()
        async with asyncio.timeout(20):
            while pongs < pings:
                buffer += await reader.read(65536)
                pongs += sum(kind == PONG for kind, _ in frames(buffer))


@pytest.mark.parametrize("running_gateway", [Settings(max_frame_rate=0)], indirect=True)
async def test_without_a_limit_as_many_as_they_like(running_gateway: Running) -> None:
    async with raw_socket(running_gateway, "unlimited") as (reader, writer):
        writer.write(masked(b"", PONG) * 20_000 + masked(b"\n") * 20_000)
        writer.write(masked(b"DISCONNECT\nreceipt:done\n\n\0"))
        code, texts = await close_code(reader)
        assert code == 1000
        assert b"receipt-id:done" in texts[-1]


async def test_text_that_is_not_utf8_is_the_clients_mistake(
    running_gateway: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for flood in masked(b"\xff"), masked(b"\xc3", FIRST) + masked(b"", 0x80):
            async with raw_socket(running_gateway, "binary") as (reader, writer):
                writer.write(flood)
                assert (await close_code(reader))[0] == 1007
    assert caplog.records == []


async def test_a_character_may_be_cut_by_a_fragment(running_gateway: Running) -> None:
    async with raw_socket(running_gateway, "cut") as (reader, writer):
        frame = "UNSUBSCRIBE\nid:\N{BELL}\nreceipt:r\n\n\0".encode()
        at = frame.index("\N{BELL}".encode()) + 1
        writer.write(masked(frame[:at], FIRST) + masked(frame[at:], 0x80) + masked(b"DISCONNECT\n\n\0"))
        code, texts = await close_code(reader)
        assert code == 1000
        assert b"receipt-id:r" in texts[-1]


async def test_what_was_said_before_the_end_is_heard(running_gateway: Running, database: Database) -> None:
    """A client acknowledges what it has got, and is gone: all of it may come with the end of the connection."""
    await database.execute(
        "INSERT INTO notification (recipient_id, title) SELECT 'leaves', 'n' FROM generate_series(1, 500)"
    )
    async with socket(running_gateway) as opened:
        await say_hello(opened, "leaves")
        await opened.send("SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nack:client-individual\n\n\0")
        acks = [(await next_frame(opened)).headers["ack"] for _ in range(500)]
        # When: in one segment, and the end behind it
        opened.transport.write(b"".join(masked(f"ACK\nid:{ack}\n\n\0".encode()) for ack in acks))
        opened.transport.close()

    async def all_recorded() -> bool:
        return len(await delivered(database, "leaves")) == 500

    await eventually("all deliveries", all_recorded)


async def test_a_client_that_closes_and_does_not_read_does_not_keep_the_gateway_from_stopping(
    running_gateway: Running, database: Database
) -> None:
    await database.execute(
        "INSERT INTO notification (recipient_id, title, body) "
        "SELECT 'deaf', 'n', repeat('x', 8000) FROM generate_series(1, 3000)"
    )
    async with raw_socket(running_gateway, "deaf") as (_, writer):
        writer.write(masked(b"SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\n\n\0"))
        looks: list[int] = []

        def it_stands_still() -> bool:
            looks.append(waiting(running_gateway))
            return looks[-1] > 0 and looks[-10:] == [looks[-1]] * 10

        await eventually("it is sent more than it reads", it_stands_still)
        writer.write(masked(b"\x03\xe8", CLOSE))
        await eventually("the session has ended", lambda: waiting(running_gateway) == 0)
        await running_gateway.stop()


def waiting(running: Running) -> int:
    """Octets for sockets, in all sessions."""
    return sum(session._queued for session in running.gateway._sessions)


class Keys(NamedTuple):
    """Those of the token's issuer, which are waited for."""

    wanted: asyncio.Event
    here: asyncio.Event


@pytest.fixture
def keys(running_gateway: Running, monkeypatch: pytest.MonkeyPatch) -> Keys:
    keys = Keys(asyncio.Event(), asyncio.Event())
    identify = running_gateway.gateway.identify

    async def late(known: Identity | None, token: str | None) -> Identity:
        keys.wanted.set()
        await keys.here.wait()
        return await identify(known, token)

    monkeypatch.setattr(running_gateway.gateway, "identify", late)
    return keys


@pytest.mark.parametrize(
    "flood", [masked(b"\xff"), masked(b"", PING) * 5000, b"\xff\xff"], ids=["text", "pings", "junk"]
)
async def test_who_does_not_wait_for_the_answer_to_the_handshake_leaves_no_traceback(
    running_gateway: Running, caplog: pytest.LogCaptureFixture, keys: Keys, flood: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running_gateway.port)
    with caplog.at_level(logging.WARNING):
        writer.write(upgrade("/stomp?token=x", "x"))
        async with asyncio.timeout(20):
            await keys.wanted.wait()
            writer.write(flood)
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
        keys.here.set()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        await running_gateway.stop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_nothing_comes_before_the_answer_to_the_handshake(
    running_gateway: Running, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = asyncio.Event()
    handle_ping = WebSocketProtocol.handle_ping

    def hear(protocol: WebSocketProtocol) -> None:
        handle_ping(protocol)
        heard.set()

    monkeypatch.setattr(WebSocketProtocol, "handle_ping", hear)
    reader, writer = await asyncio.open_connection("127.0.0.1", running_gateway.port)
    writer.write(upgrade(f"/stomp?token={TOKENS.issue('early', 60)}", "x"))
    async with asyncio.timeout(20):
        await keys.wanted.wait()
        writer.write(masked(b"early", PING) + masked(b"CONNECT\naccept-version:1.2\n\n\0"))
        await heard.wait()
        keys.here.set()
        assert b" 101 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(7) == b"\x8a\x05early"
        assert b"CONNECTED" in await reader.read(65536)
    writer.transport.abort()


async def test_garbage_instead_of_http_is_no_event(running_gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for garbage in b"\0\xff\r\n\r\n", b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n":
            reader, writer = await asyncio.open_connection("127.0.0.1", running_gateway.port)
            writer.write(garbage)
            async with asyncio.timeout(20):
                assert b"HTTP/1.1 4" in await reader.read(65536)
            writer.close()
            await writer.wait_closed()
    assert caplog.records == []

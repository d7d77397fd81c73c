"""What time does: heart-beats in both directions, and how long a connection may say nothing.

It all runs at once, for as long as the longest takes; each test looks at what became of one client.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from tests.protocol.wire import Frame, Raw, Site, frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

PERIOD = 10.0
"""Seconds between the gateway's heart-beats, and those that it asks for."""
LONGEST = 3 * PERIOD + 1
"""Seconds after which a client that has promised beats and is silent must have been cut."""
CONNECT_WITHIN = 10.0
LATE = 4.0
"""Seconds that a busy machine, and a look at all sessions once a second, may add."""


@dataclass
class Seen:
    """What one client saw, with the seconds since its CONNECTED, or its handshake if it never was."""

    beats: list[float] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    code: int | None = None
    """Of the close; None if the connection stood to the end."""
    ended: float | None = None


async def watch(
    site: Site, version: str | None, beats: str | None, talk: str | None = None, every: float = 8.0
) -> Seen:
    """A client with this heart-beat header that says `talk`, or sends a ping, so often; without version no CONNECT."""
    seen = Seen()
    async with site.open(f"/stomp?token={site.token('alice')}") as wire:
        if version is not None:
            lines = () if beats is None else (f"heart-beat:{beats}",)
            assert (await wire.connect(None, version, *lines)).command == "CONNECTED"
        begun = time.monotonic()

        async def speak() -> None:
            while talk is not None:
                await (wire.opened.ping() if talk == "ping" else wire.send(talk))
                await asyncio.sleep(every)

        speaking = asyncio.create_task(speak())
        try:
            async with asyncio.timeout(LONGEST):
                while True:
                    message = await wire.opened.recv()
                    if message == "\n":
                        seen.beats.append(time.monotonic() - begun)
                    else:
                        seen.frames.append(Frame.parse(message))
        except TimeoutError:
            pass
        except ConnectionClosed:
            seen.code, seen.ended = wire.opened.close_code, time.monotonic() - begun
        finally:
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
    return seen


async def watch_request(site: Site, request: str) -> float | None:
    """A TCP connection that says no more than this; after how many seconds it was cut, None if it stood."""
    async with Raw.open(site.port) as raw:
        begun = time.monotonic()
        raw.writer.write(request.encode())
        try:
            async with asyncio.timeout(LONGEST):
                await raw.reader.read()
        except ConnectionError:
            pass
        except TimeoutError:
            return None
        return time.monotonic() - begun


UPGRADE = (
    "GET /ws{} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{}\r\n"
)

SOCKETS: dict[str, tuple[str | None, str | None, str | None, float]] = {
    "wants beats on 1.1": ("1.1", "0,10000", None, 0),
    "wants beats on 1.2": ("1.2", "0,10000", None, 0),
    "wants them faster": ("1.2", "0,1", None, 0),
    "wants them more slowly": ("1.2", "0,60000", None, 0),
    "wants beats and is answered": ("1.2", "0,10000", frame("UNSUBSCRIBE", "id:x", "receipt:r"), 4),
    "without the header": ("1.2", None, None, 0),
    "zeros": ("1.1", "0,0", None, 0),
    "1.0": ("1.0", "1,1", None, 0),
    "promises and vanishes on 1.1": ("1.1", "10000,0", None, 0),
    "promises and vanishes on 1.2": ("1.2", "10000,0", None, 0),
    "promises faster and vanishes": ("1.2", "100,0", None, 0),
    "promises more slowly": ("1.2", "20000,0", None, 0),
    "is late": ("1.2", "10000,0", "\n", 18),
    "beats": ("1.2", "10000,0", "\n", 8),
    "beats in CRLF": ("1.2", "10000,0", "\r\n", 8),
    "sends frames": ("1.2", "10000,0", frame("UNSUBSCRIBE", "id:x"), 8),
    "sends half a frame": ("1.2", "10000,0", "UNSUBSCRIBE\nid:x\nx:", 40),
    "sends pings": ("1.2", "10000,0", "ping", 5),
    "says nothing": (None, None, None, 0),
    "says line feeds": (None, None, "\n", 1),
    "says half a CONNECT": (None, None, "CONNECT\naccept-version:1.2\nx:y", 60),
    "adds to its CONNECT": (None, None, "C", 1),
}

REQUESTS = {
    "says nothing": "",
    "half a request": "GET /ws HTTP/1.1\r\nHost: x\r\n",
    "half a handshake": UPGRADE.format("", "")[:-2],
    "too long a line": UPGRADE.format("?token=" + "x" * 9000, ""),
    "too long a header": UPGRADE.format("", f"Authorization: Bearer {'x' * 9000}\r\n"),
    "too many headers": UPGRADE.format("", "".join(f"X-{n}: 1\r\n" for n in range(200))),
    "a body": UPGRADE.format("", "Content-Length: 5\r\n") + "hello",
}


@dataclass
class Watched:
    sockets: dict[str, Seen]
    requests: dict[str, float | None]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(site: Site) -> AsyncIterator[Watched]:
    """All of them, watched to the end."""
    sockets = [asyncio.create_task(watch(site, *client)) for client in SOCKETS.values()]
    requests = [asyncio.create_task(watch_request(site, request)) for request in REQUESTS.values()]
    seen = await asyncio.gather(*sockets)
    cut = await asyncio.gather(*requests)
    yield Watched(dict(zip(SOCKETS, seen, strict=True)), dict(zip(REQUESTS, cut, strict=True)))


class TestRule02AHeartBeatOfTheGateway:
    @pytest.mark.parametrize("client", ["wants beats on 1.1", "wants beats on 1.2"])
    async def test_it_is_one_line_feed_as_a_message_of_its_own(self, watched: Watched, client: str) -> None:
        # What is not exactly that is parsed as a frame, and is none.
        assert len(watched.sockets[client].beats) >= 2
        assert watched.sockets[client].frames == []


class TestRule04HeartBeats:
    @pytest.mark.parametrize("client", ["wants beats on 1.1", "wants beats on 1.2", "wants them faster"])
    async def test_the_gateway_beats_a_little_more_often_than_once_a_period(
        self, watched: Watched, client: str
    ) -> None:
        times = [0.0, *watched.sockets[client].beats]
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(pauses) >= 2
        assert all(0.8 * PERIOD <= pause <= PERIOD + LATE for pause in pauses[1:]), pauses
        assert statistics.median(pauses[1:]) <= 0.93 * PERIOD, pauses  # 0.9, and the way to here

    async def test_the_longer_of_the_two_periods_counts(self, watched: Watched) -> None:
        assert watched.sockets["wants them more slowly"].beats == []
        assert watched.sockets["promises more slowly"].code is None

    async def test_what_it_sends_anyhow_counts_as_a_beat(self, watched: Watched) -> None:
        seen = watched.sockets["wants beats and is answered"]
        assert {each.command for each in seen.frames} == {"RECEIPT"}
        assert seen.beats == []

    @pytest.mark.parametrize("client", ["without the header", "zeros", "1.0"])
    async def test_there_are_none_without_the_header_nor_with_zeros_nor_on_1_0(
        self, watched: Watched, client: str
    ) -> None:
        assert watched.sockets[client] == Seen()

    @pytest.mark.parametrize(
        "client",
        [
            "promises and vanishes on 1.1",
            "promises and vanishes on 1.2",
            "promises faster and vanishes",
            "sends pings",
        ],
    )
    async def test_a_client_that_has_promised_beats_is_cut_after_two_to_three_periods_of_silence(
        self, watched: Watched, client: str
    ) -> None:
        seen = watched.sockets[client]
        assert ([each.command for each in seen.frames], seen.code) == (["ERROR"], 1002)
        assert seen.ended is not None
        assert 2 * PERIOD < seen.ended <= 3 * PERIOD

    @pytest.mark.parametrize("client", ["beats", "beats in CRLF", "sends frames", "is late"])
    async def test_one_that_sends_anything_is_not(self, watched: Watched, client: str) -> None:
        assert watched.sockets[client].code is None

    async def test_silence_begins_after_the_last_octet(self, watched: Watched) -> None:
        seen = watched.sockets["sends half a frame"]
        assert seen.code == 1002
        assert seen.ended is not None
        assert seen.ended > 2 * PERIOD


class TestRule14TheTimeToConnect:
    @pytest.mark.parametrize("client", ["says nothing", "says line feeds", "says half a CONNECT"])
    async def test_who_has_not_connected_within_ten_seconds_is_told_and_closed(
        self, watched: Watched, client: str
    ) -> None:
        seen = watched.sockets[client]
        assert ([each.command for each in seen.frames], seen.code) == (["ERROR"], 1008)
        assert seen.ended is not None
        assert CONNECT_WITHIN - 1 < seen.ended < CONNECT_WITHIN + LATE

    async def test_one_that_adds_to_its_connect_all_the_time_is_too(self, watched: Watched) -> None:
        seen = watched.sockets["adds to its CONNECT"]
        assert seen.code == 1008
        assert seen.ended is not None
        assert seen.ended < CONNECT_WITHIN + LATE

    @pytest.mark.parametrize("request_", ["says nothing", "half a request", "half a handshake"])
    async def test_who_does_not_complete_a_handshake_is_cut(self, watched: Watched, request_: str) -> None:
        cut = watched.requests[request_]
        assert cut is not None
        assert CONNECT_WITHIN - 1 < cut < CONNECT_WITHIN + LATE

    @pytest.mark.parametrize("request_", ["too long a line", "too long a header", "too many headers", "a body"])
    async def test_whose_handshake_is_refused_is_not_kept(self, watched: Watched, request_: str) -> None:
        cut = watched.requests[request_]
        assert cut is not None
        assert cut < CONNECT_WITHIN + LATE

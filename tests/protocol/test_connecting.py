"""How a session begins: the handshake, CONNECT, CONNECTED."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest
import requests

from tests.integration.rows import Database, insert
from tests.protocol.wire import UNREAD, VERSIONS, Raw, Site, frame

Names = Callable[[str], str]

every_version = pytest.mark.parametrize("version", VERSIONS)


class TestRule03Connected:
    @every_version
    @pytest.mark.parametrize("beats", [(), ("heart-beat:0,0",), ("heart-beat:4000,20000",)], ids=["none", "0", "some"])
    async def test_it_always_has_five_headers(self, site: Site, version: str, beats: tuple[str, ...]) -> None:
        async with site.open() as wire:
            connected = await wire.connect(site.token("alice"), version, *beats)
        assert sorted(connected.names) == ["heart-beat", "server", "session", "user-name", "version"]
        assert re.fullmatch(r"[0-9]+,[0-9]+", connected.headers["heart-beat"])
        assert connected.headers["heart-beat"] == ("0,0" if version == "1.0" else "10000,10000")
        assert (connected.headers["version"], connected.headers["user-name"]) == (version, "alice")
        assert connected.headers["server"].startswith("rowbell")
        assert connected.body == ""

    async def test_no_two_sessions_have_one_name(self, site: Site) -> None:
        async with site.open() as one, site.open() as other:
            sessions = {(await wire.connect(site.token("alice"))).headers["session"] for wire in (one, other)}
        assert len(sessions) == 2


class TestRule04TheHeaderHeartBeat:
    @pytest.mark.parametrize("version", ["1.1", "1.2"])
    @pytest.mark.parametrize("beats", ["0,0", "0,10000", "10000,0", "1,1", "9999999999,9999999999", "00,007"])
    async def test_two_numbers_are_taken(self, site: Site, version: str, beats: str) -> None:
        async with site.open() as wire:
            connected = await wire.connect(site.token("alice"), version, f"heart-beat:{beats}")
            assert connected.headers["heart-beat"] == "10000,10000"

    @pytest.mark.parametrize("version", ["1.1", "1.2"])
    @pytest.mark.parametrize(
        "beats",
        [
            "",
            "0",
            "0,",
            ",0",
            "0,0,0",
            "0, 0",
            " 0,0",
            "0,0 ",
            "-1,0",
            "+1,0",
            "1.5,0",
            "a,b",
            "٥,٥",
            "1_0,0",
            "0;0",
            "0x1,0",
            "NaN,0",
            "9" * 11 + ",0",
        ],
    )
    async def test_anything_else_is_an_error_and_never_a_1011(self, site: Site, version: str, beats: str) -> None:
        async with site.open() as wire:
            error = await wire.connect(site.token("alice"), version, f"heart-beat:{beats}")
            assert (error.command, error.headers["message"]) == ("ERROR", "The heart-beat header is malformed")
            assert await wire.rest() == ([], 1002)

    async def test_1_0_has_no_beats_whatever_its_header_says(self, site: Site) -> None:
        for beats in ("1,1", "nonsense", ""):
            async with site.open() as wire:
                connected = await wire.connect(site.token("alice"), "1.0", f"heart-beat:{beats}")
                assert connected.headers["heart-beat"] == "0,0"


class TestRule05SubprotocolAndVersion:
    @pytest.mark.parametrize(
        "offered",
        [
            *itertools.permutations(["v10.stomp", "v11.stomp", "v12.stomp"]),
            ("v10.stomp", "v11.stomp"),
            ("v11.stomp", "v10.stomp"),
            ("v10.stomp",),
            ("chat", "v11.stomp", "v13.stomp", "stomp"),
        ],
        ids=",".join,
    )
    async def test_the_highest_that_is_offered_is_taken_and_is_the_version(
        self, site: Site, offered: tuple[str, ...]
    ) -> None:
        ours = {"v10.stomp": "1.0", "v11.stomp": "1.1", "v12.stomp": "1.2"}
        best = max(set(offered) & set(ours))
        async with site.open("/ws", *offered) as wire:
            assert wire.opened.subprotocol == best
            connected = await wire.connect(site.token("alice"), "1.0,1.1,1.2")
        assert connected.headers["version"] == ours[best]

    @pytest.mark.parametrize("offered", [(), ("chat",), ("V12.STOMP",), ("v12.stomp2", "v13.stomp")], ids=",".join)
    async def test_none_is_taken_if_none_of_ours_is_offered(self, site: Site, offered: tuple[str, ...]) -> None:
        async with Raw.open(site.port) as raw:
            lines = [f"Sec-WebSocket-Protocol: {', '.join(offered)}"] if offered else []
            status, headers = await raw.shake_hands("/ws", *lines)
        assert status == 101
        assert not any(header.lower().startswith("sec-websocket-protocol") for header in headers)

    @pytest.mark.parametrize(
        "lines",
        [("v10.stomp", "v12.stomp, v11.stomp"), ("v12.stomp", "v10.stomp"), ("chat", "v11.stomp,v12.stomp ,v10.stomp")],
    )
    async def test_the_offer_may_be_spread_over_header_lines(self, site: Site, lines: tuple[str, ...]) -> None:
        async with Raw.open(site.port) as raw:
            status, headers = await raw.shake_hands("/ws", *(f"Sec-WebSocket-Protocol: {line}" for line in lines))
        taken = [header.split(": ")[1] for header in headers if header.lower().startswith("sec-websocket-protocol")]
        assert (status, taken) == (101, ["v12.stomp"])

    @pytest.mark.parametrize(
        ("accepted", "version"),
        [
            ("1.0", "1.0"),
            ("1.1", "1.1"),
            ("1.2,1.1,1.0", "1.2"),
            ("1.0,1.1,1.2", "1.2"),
            ("1.1,1.0", "1.1"),
            (" 1.1 , 1.0 ", "1.1"),
            ("1.0, 1.2", "1.2"),
            ("2.0,1.1,0.9", "1.1"),
        ],
    )
    async def test_the_highest_accepted_is_taken_in_any_order(self, site: Site, accepted: str, version: str) -> None:
        async with site.open() as wire:
            assert (await wire.connect(site.token("alice"), accepted)).headers["version"] == version

    @pytest.mark.parametrize(("offered", "version"), [((), "1.0"), (("v12.stomp",), "1.2"), (("v11.stomp",), "1.1")])
    async def test_without_accept_version_it_is_the_subprotocols_or_1_0(
        self, site: Site, offered: tuple[str, ...], version: str
    ) -> None:
        async with site.open("/ws", *offered) as wire:
            await wire.send(frame("CONNECT", f"Authorization:Bearer {site.token('alice')}"))
            assert (await wire.next()).headers["version"] == version

    @pytest.mark.parametrize(
        ("offered", "accepted", "spoken"),
        [
            ((), "2.0", "1.2,1.1,1.0"),
            ((), "", "1.2,1.1,1.0"),
            ((), "1.3,1.20", "1.2,1.1,1.0"),
            (("v12.stomp",), "1.1,1.0", "1.2"),
            (("v10.stomp",), "1.2", "1.0"),
        ],
    )
    async def test_nothing_in_common_is_an_error_with_what_there_is(
        self, site: Site, offered: tuple[str, ...], accepted: str, spoken: str
    ) -> None:
        async with site.open("/ws", *offered) as wire:
            error = await wire.connect(site.token("alice"), accepted)
            assert (error.command, error.headers["version"]) == ("ERROR", spoken)
            assert await wire.rest() == ([], 1002)


class TestRule06WhatConnectNeedNotHave:
    @every_version
    @pytest.mark.parametrize("lines", [(), ("host:",), ("host:of.somebody.else",), ("host:a b",)], ids="|".join)
    async def test_host_is_neither_required_nor_looked_at(
        self, site: Site, version: str, lines: tuple[str, ...]
    ) -> None:
        async with site.open() as wire:
            assert (await wire.connect(site.token("alice"), version, *lines)).command == "CONNECTED"

    @every_version
    @pytest.mark.parametrize("lines", [("login:bob", "passcode:secret"), ("login:",), ("passcode:",)], ids="|".join)
    async def test_login_and_passcode_are_ignored(self, site: Site, version: str, lines: tuple[str, ...]) -> None:
        async with site.open() as wire:
            connected = await wire.connect(site.token("alice"), version, *lines)
        assert (connected.command, connected.headers["user-name"]) == ("CONNECTED", "alice")

    async def test_login_and_passcode_are_no_token(self, site: Site) -> None:
        token = site.token("alice")
        async with site.open() as wire:
            error = await wire.connect(None, "1.2", "login:alice", f"passcode:{token}", f"token:{token}")
            assert error.command == "ERROR"
            assert await wire.rest() == ([], 1008)


class TestRule19SockJs:
    @pytest.mark.parametrize("query", ["", "?t=1764000000000"])
    def test_its_first_request_is_answered_with_how_to_connect(self, site: Site, query: str) -> None:
        answer = requests.get(f"http://127.0.0.1:{site.port}/ws/info{query}", timeout=10)
        assert answer.status_code == 404
        assert "SockJS is not supported" in answer.text
        assert "WebSocket to /ws" in answer.text
        assert "v12.stomp" in answer.text

    @pytest.mark.parametrize("path", ["/ws/123/abcdef/xhr", "/ws/123/abcdef/xhr_streaming", "/ws/iframe.html"])
    def test_its_transports_are_not_there(self, site: Site, path: str) -> None:
        assert requests.post(f"http://127.0.0.1:{site.port}{path}", timeout=10).status_code in (404, 405)
        assert requests.get(f"http://127.0.0.1:{site.port}{path}", timeout=10).status_code == 404

    @every_version
    async def test_its_name_for_the_raw_websocket_speaks_stomp(
        self, site: Site, database: Database, user: Names, version: str
    ) -> None:
        alice = user("alice")
        await insert(database, alice)
        for path in ("/ws/websocket", f"/ws/websocket?token={site.token(alice)}"):
            async with site.open(path) as wire:
                assert (await wire.connect(site.token(alice), version)).headers["version"] == version
                assert [each.body for each in await wire.subscribe("1", UNREAD)] == ['{"unread":1}']

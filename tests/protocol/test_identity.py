"""Who somebody is, the token alone says: nothing beside it names another user."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.rows import insert
from tests.protocol.two import Two, said
from tests.protocol.wire import READ, TOKEN, UNREAD, VERSIONS, Wire, frame

every_version = pytest.mark.parametrize("version", VERSIONS)


class TestTokens:
    async def test_another_users_token_ends_the_session(self, two: Two, alice: Wire) -> None:
        await alice.send(frame("SEND", f"destination:{TOKEN}", "receipt:r", body=two.site.token(two.bob)))
        await insert(two.database, two.bob)
        assert (await alice.refused())[1] == 1008
        await two.assert_untouched()

    @every_version
    @pytest.mark.parametrize("in_query", [True, False], ids=["query", "header"])
    async def test_connect_cannot_name_another_user_than_the_handshake(
        self, two: Two, version: str, in_query: bool
    ) -> None:
        token = two.site.token(two.alice)
        path = f"/stomp?token={token}" if in_query else "/stomp"
        headers = [] if in_query else [("Authorization", f"Bearer {token}")]
        async with two.site.open(path, headers=headers) as wire:
            error = await wire.connect(two.site.token(two.bob), version)
            assert error.command == "ERROR"
            assert await wire.rest() == ([], 1008)

    @pytest.mark.parametrize(
        ("query", "header"),
        [
            ("?token={alice}", "{bob}"),
            ("?token={alice}&token={bob}", ""),
            ("?token={alice}&access_token={bob}", ""),
            ("?access_token={bob}&token={alice}", ""),
            ("?user={bobs_name}&token={alice}&sub={bobs_name}&recipient={bobs_name}&login={bobs_name}", ""),
        ],
    )
    @pytest.mark.parametrize("protocols", [("v12.stomp",), ()], ids=["stomp", "json"])
    async def test_of_several_in_the_handshake_one_counts_for_everything(
        self, two: Two, query: str, header: str, protocols: tuple[str, ...]
    ) -> None:
        tokens = {"alice": two.site.token(two.alice), "bob": two.site.token(two.bob), "bobs_name": two.bob}
        headers = [("Authorization", f"Bearer {header.format_map(tokens)}")] if header else []
        async with two.site.open(f"/ws{query.format_map(tokens)}", *protocols, headers=headers) as wire:
            if protocols:
                assert (await wire.connect(None)).headers["user-name"] == two.alice
                two.assert_without_bob(await wire.subscribe("1"))
                await two.nothing_of_bobs_comes(wire)
            else:
                assert await said(wire, until={"type": "LIVE"}, of=two.alice) != []
        await two.assert_untouched()

    async def test_of_two_in_connect_the_first_counts(self, two: Two) -> None:
        async with two.site.open() as wire:
            connected = await wire.connect(
                two.site.token(two.alice), "1.2", f"Authorization:Bearer {two.site.token(two.bob)}"
            )
            assert connected.headers["user-name"] == two.alice
            await wire.subscribe("1")
            await two.nothing_of_bobs_comes(wire)

    @pytest.mark.parametrize(
        "variant",
        ["BOB-{}", "Bob-{}", "bob-{} ", " bob-{}", "bоb-{}", "bob-{}\u200b", "ｂob-{}", "bob_{}", "b%{}", "%"],
    )
    async def test_a_name_that_looks_like_it_is_another_one(self, two: Two, variant: str) -> None:
        name = variant.format(two.bob.removeprefix("bob-"))
        async with two.site.connected(name) as wire:
            assert await wire.subscribe("1") == []
            assert [each.body for each in await wire.subscribe("2", UNREAD)] == ['{"unread":0}']
            await wire.send(frame("SEND", f"destination:{READ}", "receipt:r", body=f'{{"ids":[{two.bobs}]}}'))
            await wire.until("RECEIPT", receipt_id="r")
        await two.assert_untouched()


class TestHandshakes:
    async def test_headers_that_proxies_set_name_nobody(self, two: Two) -> None:
        names = ("X-Forwarded-User", "X-Remote-User", "Remote-User", "X-User", "X-User-Id", "X-Auth-Request-User")
        headers = [(name, two.bob) for name in (*names, "From", "X-WEBAUTH-USER", "X-Forwarded-For", "Forwarded")]
        headers += [("Cookie", f"token={two.site.token(two.bob)}; user={two.bob}")]
        async with two.site.open("/ws", headers=headers) as nobody:
            assert (await nobody.connect(None)).command == "ERROR"
        async with two.site.open("/ws", headers=headers) as wire:
            assert (await wire.connect(two.site.token(two.alice))).headers["user-name"] == two.alice
            await wire.subscribe("1")
            await two.nothing_of_bobs_comes(wire)
        await two.assert_untouched()

    async def test_headers_of_connect_name_nobody(self, two: Two) -> None:
        names = ("login", "user", "user-name", "client-id", "sub", "recipient", "X-Forwarded-User", "session", "host")
        lines = [f"{name}:{two.bob}" for name in names]
        async with two.site.connected(two.alice, "1.2", *lines) as wire:
            await wire.subscribe("1")
            await two.nothing_of_bobs_comes(wire)
        await two.assert_untouched()

    @pytest.mark.parametrize(
        "path",
        [
            "/ws/{bob}",
            "/ws/",
            "/ws/user/{bob}",
            "/ws/websocket/",
            "/ws/websocket/{bob}",
            "/stomp/{bob}",
            "/ws/../ws",
            "/x/../ws",
            "/ws/%2e%2e/ws",
            "/ws%2f{bob}",
            "//ws",
            "/WS",
            "/ws;user={bob}",
            "/ws%00",
            "/user/{bob}/queue/notifications",
        ],
    )
    async def test_paths_with_more_to_them_are_not_there(self, two: Two, path: str) -> None:
        with pytest.raises(InvalidStatus, match="404"):
            async with two.site.open(f"{path.format(bob=two.bob)}?token={two.site.token(two.alice)}"):
                pass

"""Where a token may stand, which tokens are refused and how, and that none is ever logged."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.processes import Gateway, running
from tests.integration.systems import PostgresOnly
from tests.protocol.wire import NOTIFICATIONS, TOKEN, VERSIONS, Site, frame

NOW = int(time.time())
LATER = NOW + 3600

ANOTHER_KEY = "another secret, and one that is long enough"

every_version = pytest.mark.parametrize("version", VERSIONS)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(algorithm: str) -> str:
    return f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part({'sub': 'alice', 'exp': LATER})}."


def changed(token: str) -> str:
    """For somebody else, with the signature that it had."""
    head, _, signature = token.split(".")
    return f"{head}.{part({'sub': 'bob', 'exp': LATER})}.{signature}"


WRONG: dict[str, Callable[[Site], str]] = {
    "malformed": lambda site: "nonsense",
    "of dots": lambda site: "..",
    "cut": lambda site: site.token("alice")[:-1],
    "changed": lambda site: changed(site.token("alice")),
    "expired": lambda site: site.token("alice", exp=NOW - 60),
    "without an end": lambda site: site.token("alice", exp=None),
    "not yet valid": lambda site: site.token("alice", nbf=LATER),
    "issued in future": lambda site: site.token("alice", iat=LATER),
    "alg none": lambda site: unsigned("none"),
    "alg None": lambda site: unsigned("None"),
    "alg NONE": lambda site: unsigned("NONE"),
    "alg empty": lambda site: unsigned(""),
    "of another key": lambda site: jwt.encode({"sub": "alice", "exp": LATER}, ANOTHER_KEY, "HS256"),
    "of another algorithm": lambda site: jwt.encode({"sub": "alice", "exp": LATER}, ANOTHER_KEY * 2, "HS512"),
    "another audience": lambda site: site.token("alice", aud="somebody else"),
    "audiences": lambda site: site.token("alice", aud=["rowbell", "somebody else"]),
    "without a subject": lambda site: site.signed({"exp": LATER}),
    "number as subject": lambda site: site.signed({"sub": 42, "exp": LATER}),
    "list as subject": lambda site: site.signed({"sub": ["alice"], "exp": LATER}),
    "empty subject": lambda site: site.token(""),
    "subject with LF": lambda site: site.token("alice\nbob"),
    "subject with NUL": lambda site: site.token("alice\0"),
    "subject with DEL": lambda site: site.token("alice\x7f"),
    "subject with NEL": lambda site: site.token("alice\x85"),
    "subject with slash": lambda site: site.token("alice/bob"),
    "subject with star": lambda site: site.token("alice*"),
    "subject with hash": lambda site: site.token("#"),
    "subject of a topic": lambda site: site.token("topic:news"),
    "subject topic:": lambda site: site.token("topic:"),
    "too long a subject": lambda site: site.token("a" * 256),
}

every_wrong_token = pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())


async def handshake_refusal(site: Site, path: str, *headers: tuple[str, str]) -> tuple[int, str]:
    """Status and body of the answer to a handshake that is not let in."""
    with pytest.raises(InvalidStatus) as refused:
        async with site.open(path, headers=headers):
            pass
    response = refused.value.response
    return response.status_code, (response.body or b"").decode()


class TestRule17Tokens:
    @pytest.mark.parametrize("path", ["/ws", "/stomp", "/ws/websocket"])
    @pytest.mark.parametrize("name", ["token", "access_token"])
    async def test_the_query_may_have_it(self, site: Site, path: str, name: str) -> None:
        async with site.open(f"{path}?x=1&{name}={site.token('alice')}&y=2", "v12.stomp") as wire:
            assert (await wire.connect(None)).headers["user-name"] == "alice"

    @pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    async def test_the_handshake_may_have_it_in_a_header(self, site: Site, name: str, scheme: str) -> None:
        async with site.open(headers=[(name, f"{scheme} {site.token('alice')}")]) as wire:
            assert (await wire.connect(None)).headers["user-name"] == "alice"

    @every_version
    @pytest.mark.parametrize("name", ["Authorization", "authorization"])
    async def test_connect_may_have_it(self, site: Site, version: str, name: str) -> None:
        async with site.open() as wire:
            await wire.send(frame("CONNECT", f"accept-version:{version}", f"{name}:Bearer {site.token('alice')}"))
            assert (await wire.next()).headers["user-name"] == "alice"

    async def test_both_may_have_one_of_the_same_user(self, site: Site) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            assert (await wire.connect(site.token("alice", exp=LATER + 1))).headers["user-name"] == "alice"

    @every_version
    async def test_none_at_all_is_an_error_that_says_where_to_put_it(self, site: Site, version: str) -> None:
        async with site.open() as wire:
            error = await wire.connect(None, version)
            assert (error.command, "Authorization" in error.body) == ("ERROR", True)
            assert await wire.rest() == ([], 1008)

    @every_wrong_token
    @pytest.mark.parametrize("in_query", [True, False], ids=["query", "header"])
    async def test_a_wrong_one_in_the_handshake_is_answered_with_401_and_the_reason(
        self, site: Site, wrong: Callable[[Site], str], in_query: bool
    ) -> None:
        token = wrong(site)
        if in_query:
            status, reason = await handshake_refusal(site, f"/ws?token={token}")
        else:
            status, reason = await handshake_refusal(site, "/ws", ("Authorization", f"Bearer {token}"))
        assert status == 401
        assert len(reason) > 20
        assert token not in reason

    @pytest.mark.parametrize("path", ["/ws", "/stomp", "/ws/websocket"])
    @pytest.mark.parametrize("query", ["token=", "access_token=", "token", "token=%20", "token=nonsense&token={}"])
    async def test_on_every_path_and_also_if_it_is_empty(self, site: Site, path: str, query: str) -> None:
        url = f"{path}?{query.format(site.token('alice'))}"
        assert (await handshake_refusal(site, url))[0] == 401

    @pytest.mark.parametrize("value", ["Basic {}", "{}", "Bearer", "Bearer ", "Bearer: {}", "Token {}"])
    async def test_another_scheme_is_refused_too(self, site: Site, value: str) -> None:
        value = value.format(site.token("alice"))
        assert (await handshake_refusal(site, "/ws", ("Authorization", value)))[0] == 401
        async with site.open() as wire:
            await wire.send(frame("CONNECT", "accept-version:1.2", f"Authorization:{value}"))
            assert (await wire.refused())[1] == 1008

    @every_wrong_token
    async def test_a_wrong_one_in_connect_is_an_error_and_a_close(
        self, site: Site, wrong: Callable[[Site], str]
    ) -> None:
        token = wrong(site)
        async with site.open() as wire:
            error = await wire.connect(token)
            assert (error.command, token in error.body) == ("ERROR", False)
            assert await wire.rest() == ([], 1008)

    @every_wrong_token
    async def test_a_good_one_in_the_handshake_does_not_make_up_for_it(
        self, site: Site, wrong: Callable[[Site], str]
    ) -> None:
        async with site.open(f"/stomp?token={site.token('alice')}") as wire:
            await wire.send(frame("CONNECT", "accept-version:1.2", f"Authorization:Bearer {wrong(site)}"))
            assert (await wire.refused())[1] == 1008

    @every_wrong_token
    async def test_nor_does_a_session_take_it_later(self, site: Site, wrong: Callable[[Site], str]) -> None:
        async with site.connected("alice") as wire:
            await wire.send(frame("SEND", f"destination:{TOKEN}", "receipt:r", body=wrong(site)))
            error, code = await wire.refused()
        assert (error.headers["receipt-id"], code) == ("r", 1008)


def secrets_of(token: str) -> list[str]:
    """What of a token must not stand in a log: itself, and what makes it good."""
    return [token, token.split(".")[-1] or token, quote(token)]


class TestRule18Logs:
    async def test_no_line_holds_a_token_good_or_bad_however_it_came(
        self, postgres_only: PostgresOnly, tmp_path: Path
    ) -> None:
        gateway = Gateway({**postgres_only.settings, "ROWBELL_LOG_LEVEL": "debug"}, tmp_path / "gateway.log")
        with running(gateway):
            site = Site(gateway, postgres_only.env["ROWBELL_JWT_SECRET"])
            good = [site.token("alice", jti=str(number)) for number in range(9)]
            bad = [wrong(site) for name, wrong in WRONG.items() if name != "of dots"]
            for token in good[:2] + bad:
                await comes_in_everywhere(site, token)
            await says_it_where_it_does_not_belong(site, good[2:])
            async with site.open(f"/ws?token={good[-1]}") as wire:
                await wire.opened.recv()
                assert gateway.stop() == 0
        log = gateway.log.read_text()
        assert "gateway_stopped" in log
        assert [token for token in good + bad for secret in secrets_of(token) if secret in log] == []
        assert "token=" not in log
        assert "Bearer " not in log.replace("Bearer TOKEN", "")


async def comes_in_everywhere(site: Site, token: str) -> None:
    """Each way a token is given, whether it is taken or not."""

    async def attempt(path: str, *headers: tuple[str, str]) -> None:
        try:
            async with site.open(path, headers=headers) as wire:
                await wire.send(frame("CONNECT", "accept-version:1.2"))
                await wire.opened.recv()
        except InvalidStatus:
            pass

    for path in ("/ws", "/stomp", "/ws/websocket", "/nowhere"):
        for name in ("token", "access_token"):
            await attempt(f"{path}?{name}={quote(token)}")
    await attempt("/ws", ("Authorization", f"Bearer {token}"))
    async with site.open() as wire:
        await wire.send(frame("CONNECT", "accept-version:1.2", f"Authorization:Bearer {token}"))
        await wire.next()


async def says_it_where_it_does_not_belong(site: Site, tokens: list[str]) -> None:
    """Frames that are refused, each with a token in another place."""

    async def refused(write: Callable[[str], str | bytes], token: str, text: bool | None = None) -> None:
        async with site.connected("alice") as wire:
            await wire.opened.send(write(token), text=text)
            await wire.rest()

    ways: list[Callable[[str], str | bytes]] = [
        lambda token: frame("SUBSCRIBE", "id:1", f"destination:/topic/{token[:200]}"),
        lambda token: frame("SUBSCRIBE", "id:1", f"destination:/queue/{token}"),
        lambda token: frame("CONNECT", f"Authorization:Bearer {token}"),
        lambda token: frame(f"BEARER {token}", f"destination:{NOTIFICATIONS}"),
        lambda token: frame("SEND", f"destination:{TOKEN}", body=f"{token}\n{token}"),
        lambda token: frame("SEND", f"destination:/app/{token}"),
    ]
    for write, token in zip(ways, tokens, strict=False):
        await refused(write, token)
    await refused(lambda token: f"SEND\ndestination:{TOKEN}\n\n{token}".encode() + b"\xff\0", tokens[-1], text=True)

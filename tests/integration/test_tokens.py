"""Tokens of an issuer, by a gateway that knows no secret; and tokens that are taken back, in every mode."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.auth.issuer import P256, RSA, jwk, serving, token
from tests.integration.processes import Gateway, eventually, running
from tests.integration.rows import Database, insert
from tests.integration.subscriber import Frame, Subscriber
from tests.integration.systems import PostgresOnly, System

Names = Callable[[str], str]


async def test_a_gateway_takes_the_tokens_of_an_issuer_whose_list_of_keys_it_reads(
    postgres_only: PostgresOnly, database: Database, user: Names, tmp_path: Path
) -> None:
    # Given
    alice, key = user("alice"), rsa.generate_private_key(65537, 2048)
    listed = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": "one", "use": "sig"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [listed]}))
    settings = {
        "ROWBELL_DATABASE_URL": postgres_only.settings["ROWBELL_DATABASE_URL"],
        "ROWBELL_JWT_JWKS": str(tmp_path / "jwks.json"),
        "ROWBELL_JWT_ISSUER": "https://login.example.org/",
    }
    claims = {"sub": alice, "exp": int(time.time()) + 60, "iss": "https://login.example.org/"}
    gateway = await asyncio.to_thread(Gateway, settings, tmp_path / "gateway.log")
    with running(gateway):
        # When
        async with Subscriber(gateway.url, jwt.encode(claims, key, "RS256", {"kid": "one"})) as client:
            id = await insert(database, alice)
            await client.until(lambda: id in client.seen, "the row")
        # Then nobody else's is taken
        stranger = Subscriber(gateway.url, postgres_only.token(alice), reconnect=False)
        stranger.start()
        await stranger.until(lambda: stranger.errors, "the refusal")
        assert "not signed with one of RS256" in stranger.errors[0].headers["message"]
        await stranger.stop()


async def test_an_outage_of_the_issuer_ends_no_session_and_a_newer_key_of_it_is_taken_when_it_is_back(
    postgres_only: PostgresOnly, database: Database, user: Names, tmp_path: Path
) -> None:
    alice, bob, log = user("alice"), user("bob"), tmp_path / "gateway.log"
    of_alice, renewed = (token(RSA, "RS256", kid="one", sub=alice, jti=jti) for jti in ("first", "second"))
    of_bob = token(P256, "ES256", kid="two", sub=bob)
    with serving() as issuer:
        issuer.keys = [jwk(RSA, kid="one")]
        settings = {
            "ROWBELL_DATABASE_URL": postgres_only.settings["ROWBELL_DATABASE_URL"],
            "ROWBELL_JWT_JWKS": issuer.url,
        }
        gateway = await asyncio.to_thread(Gateway, settings, log)
        with running(gateway):
            async with Subscriber(gateway.url, of_alice, reconnect=False) as session:
                # Given an issuer that has another key since, and is down before the gateway has heard of it
                issuer.keys, issuer.answer = [jwk(P256, kid="two")], issuer.fail

                # When somebody comes with a token of that key, then they are to come again
                for _ in ("the issuer is asked", "it is known to be down"):
                    assert await refused_at_the_handshake(gateway, of_bob) == (503, "1")
                    error, code = await refused_at_connect(gateway, of_bob)
                    assert "the token's key is not known here yet" in error.headers["message"]
                    assert code == 1013
                    await eventually("the gateway noticed", lambda: "jwks_unavailable" in log.read_text())

                # And the session goes on, as does whatever has a token of the key that is known
                id = await insert(database, alice)
                await session.until(lambda: id in session.seen, "the row")
                await session.send("SEND", renewed, destination="/app/token", receipt="renewed")
                await session.until(lambda: "renewed" in session.subscriptions[0].receipts, "the receipt")
                async with Subscriber(gateway.url, renewed, reconnect=False) as another:
                    assert id in another.seen

                # When it is back, then the newer key is taken
                issuer.answer = issuer.list_keys
                async with Subscriber(gateway.url, of_bob) as newcomer:
                    id = await insert(database, bob)
                    await newcomer.until(lambda: id in newcomer.seen, "the row")

                # And the session goes on, though its key is no longer listed
                id = await insert(database, alice)
                await session.until(lambda: id in session.seen, "the row")
                assert session.errors == []


async def refused_at_the_handshake(gateway: Gateway, token: str) -> tuple[int, str | None]:
    """Status and `Retry-After`."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{gateway.url}?token={token}"):
            pass
    return refused.value.response.status_code, refused.value.response.headers.get("Retry-After")


async def refused_at_connect(gateway: Gateway, token: str) -> tuple[Frame, int | None]:
    """ERROR and the close code."""
    async with asyncio.timeout(20), connect(gateway.url) as opened:
        await opened.send(f"CONNECT\naccept-version:1.2\nAuthorization:Bearer {token}\n\n\0")
        error = Frame.parse(str(await opened.recv()))
        await opened.wait_closed()
        return error, opened.close_code


async def test_revoking_ends_the_sessions_of_a_user_on_every_gateway(
    system: System, database: Database, user: Names
) -> None:
    alice, bob = user("alice"), user("bob")
    ended = [system.subscriber(alice, gateway, reconnect=False) for gateway in range(len(system.gateways))]
    async with system.subscriber(bob, reconnect=False) as stays:
        for session in ended:
            await session.__aenter__()

        # When
        def revoke() -> str:
            command = [sys.executable, "-m", "rowbell", "revoke", alice]
            return subprocess.run(
                command, env={**os.environ, **system.env}, check=True, stdout=subprocess.PIPE
            ).stdout.decode()

        told = await asyncio.to_thread(revoke)

        # Then
        assert told.startswith(f"{alice}: tokens issued before 2")
        for session in ended:
            await session.until(lambda session=session: session.subscriptions[-1].closed, "the close")
            assert session.errors[0].headers["message"] == "token revoked"
            assert session.subscriptions[-1].closed == 1008
        refused = Subscriber(system.gateway(0).url, ended[0].token, reconnect=False)
        refused.start()
        await refused.until(lambda: refused.errors, "the refusal")
        assert "revoked" in refused.errors[0].headers["message"]
        id = await insert(database, bob)
        await stays.until(lambda: id in stays.seen, "the row of somebody else")

        # And a token that is issued later is taken
        revoked_at = int(time.time())
        await eventually("another second", lambda: time.time() >= revoked_at + 1)  # a token is dated in whole seconds
        async with system.subscriber(alice) as back:
            id = await insert(database, alice)
            await back.until(lambda: id in back.seen, "the row")

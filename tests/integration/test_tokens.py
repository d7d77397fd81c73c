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
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.processes import Gateway, eventually, running
from tests.integration.rows import Database, insert
from tests.integration.subscriber import Subscriber
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

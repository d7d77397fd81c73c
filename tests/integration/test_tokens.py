"""A gateway that knows an issuer's public keys, and no secret."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.integration.processes import Gateway, running
from tests.integration.rows import Database, insert
from tests.integration.subscriber import Subscriber
from tests.integration.systems import PostgresOnly

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

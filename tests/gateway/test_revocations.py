"""Tokens that are taken back: their sessions end, and nobody comes in with them any more."""

from __future__ import annotations

import time

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from rowbell.auth import Identity
from rowbell.gateway.revocations import Revocations
from rowbell.gateway.session import Session
from rowbell.inbox import Revocation
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.test_gateway import close_code, next_frame, said_before_the_close, say_hello, socket
from tests.gateway.test_limits import refused
from tests.integration.processes import eventually

Database = psycopg.AsyncConnection[tuple[object, ...]]


def token(user: str, age: int) -> str:
    """Issued so many seconds ago."""
    return TOKENS.issue(user, 3600, issued_at=int(time.time()) - age)


async def revoke(database: Database, user: str, ago: int = 0) -> None:
    await database.execute(
        "INSERT INTO notification_revocation (user_id, before) VALUES (%s, now() - make_interval(secs => %s))",
        [user, ago],
    )


async def test_sessions_of_older_tokens_end_and_say_so(running_gateway: Running, database: Database) -> None:
    before = refused("revoked")
    async with (
        socket(running_gateway) as by_connect,
        socket(running_gateway, f"/ws?token={token('gone', 60)}") as plain,
        socket(running_gateway) as of_another,
    ):
        await say_hello(by_connect, Authorization=f"Bearer {token('gone', 60)}")
        assert "CONNECTED" in str(await plain.recv())
        await say_hello(of_another, Authorization=f"Bearer {token('stays', 60)}")
        await revoke(database, "gone")
        assert (await next_frame(by_connect)).headers["message"] == "token revoked"
        assert await close_code(by_connect) == 1008
        assert "token revoked" in (await said_before_the_close(plain))[-1]
        assert plain.close_code == 1008
        await of_another.send("UNSUBSCRIBE\nid:none\nreceipt:still here\n\n\0")
        assert (await next_frame(of_another)).headers["receipt-id"] == "still here"
    assert refused("revoked") == before + 2


async def test_an_older_token_is_refused_and_a_newer_one_is_not(running_gateway: Running, database: Database) -> None:
    await revoke(database, "back", ago=30)
    await eventually("the gateway knows", lambda: running_gateway.gateway.revokes(Identity("back", None, 0)))
    with pytest.raises(InvalidStatus) as answer:
        async with socket(running_gateway, f"/ws?token={token('back', 60)}"):
            pass
    assert answer.value.response.status_code == 401
    assert b"it was revoked" in answer.value.response.body
    async with socket(running_gateway, f"/ws?token={token('back', 20)}") as plain:
        assert "CONNECTED" in str(await plain.recv())
    async with socket(running_gateway) as opened:
        error = await say_hello(opened, Authorization=f"Bearer {token('back', 60)}")
        assert (error.command, "revoked" in error.headers["message"]) == ("ERROR", True)
        assert await close_code(opened) == 1008
    async with socket(running_gateway) as opened:
        assert (await say_hello(opened, Authorization=f"Bearer {token('back', 20)}")).command == "CONNECTED"
        await opened.send(f"SEND\ndestination:/app/token\n\n{token('back', 60)}\0")
        assert "revoked" in (await next_frame(opened)).headers["message"]


async def test_a_session_that_has_renewed_its_token_goes_on(running_gateway: Running, database: Database) -> None:
    async with socket(running_gateway) as opened:
        await say_hello(opened, Authorization=f"Bearer {token('renewed', 60)}")
        await opened.send(f"SEND\ndestination:/app/token\nreceipt:1\n\n{token('renewed', 10)}\0")
        assert (await next_frame(opened)).headers["receipt-id"] == "1"
        await revoke(database, "renewed", ago=30)
        await eventually("the gateway knows", lambda: running_gateway.gateway.revokes(Identity("renewed", None, 0)))
        await opened.send("UNSUBSCRIBE\nid:none\nreceipt:2\n\n\0")
        assert (await next_frame(opened)).headers["receipt-id"] == "2"


async def test_a_token_taken_back_between_handshake_and_session_ends_it(
    running_gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two the gateway writes to the socket, which may take its time."""
    gateway = running_gateway.gateway
    serve = gateway.serve

    async def later(session: Session) -> None:
        gateway._revocations.learn([Revocation("between", time.time())])
        await serve(session)

    monkeypatch.setattr(gateway, "serve", later)
    async with socket(running_gateway, f"/ws?token={token('between', 60)}") as plain:
        assert "token revoked" in (await said_before_the_close(plain))[-1]
        assert plain.close_code == 1008


def test_the_latest_moment_counts_whatever_comes_first() -> None:
    revocations = Revocations()
    assert revocations.learn([Revocation("alice", 200.0), Revocation("alice", 100.0)])
    assert not revocations.learn([Revocation("alice", 150.0)])
    assert revocations.refuse(Identity("alice", None, issued_at=199))
    assert not revocations.refuse(Identity("alice", None, issued_at=200))
    assert not revocations.refuse(Identity("bob", None, issued_at=0))


def test_a_token_of_the_very_second_and_one_that_says_no_time_are_older() -> None:
    revocations = Revocations()
    revocations.learn([Revocation("alice", 200.5)])
    assert revocations.refuse(Identity("alice", None, issued_at=200))
    assert revocations.refuse(Identity("alice", None, issued_at=None))


@pytest.mark.parametrize("user", ["", "x" * 256, "topic:news", "a/b", "a\nb"])
async def test_sql_refuses_who_can_be_no_user(database: Database, user: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="notification_revocation_user_id_check"):
        await revoke(database, user)

"""Every reason for which a client is refused: what it is told, and that this reason alone is counted, once.

Those that are limits of a setting stand in `test_limits` and `test_admission`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from websockets.exceptions import InvalidStatus

from rowbell.auth import Tokens
from rowbell.config import Settings
from rowbell.gateway.session import PROMISES
from rowbell.metrics import REFUSED
from tests.auth.issuer import RSA, serving, token
from tests.gateway.conftest import TOKENS, Running
from tests.gateway.slow_reader import SlowReader
from tests.gateway.test_gateway import close_code, say_hello, socket
from tests.gateway.test_limits import refused
from tests.gateway.test_reading import locked
from tests.integration.processes import eventually
from tests.integration.rows import insert
from tests.integration.subscriber import READ
from tests.integration.wire import masked, upgrade

Database = psycopg.AsyncConnection[tuple[object, ...]]
Act = Callable[[Running, Database], Awaitable[int | None]]
"""What a client does; the close code that it gets, or the status of HTTP."""

USER = "refused"


async def handshake(running: Running, path: str = "/ws") -> int:
    """Its status."""
    try:
        async with socket(running, path):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


def says(*frames: str | bytes, **headers: str) -> Act:
    """CONNECT, and then this."""

    async def act(running: Running, database: Database) -> int | None:
        async with socket(running) as opened:
            await say_hello(opened, USER, **headers)
            for frame in frames:
                await opened.send(frame, text=True)
            return await close_code(opened)

    return act


async def comes_in_a_crowd(running: Running, database: Database) -> int:
    async with asyncio.timeout(10):
        while (status := await handshake(running)) == 101:
            continue
    return status


async def comes_while_the_gateway_stops(running: Running, database: Database) -> int:
    """Before it ends, it waits for what a client has marked as read."""
    id = await insert(database, USER)
    async with locked(database, id), socket(running) as opened:
        await say_hello(opened, USER)
        await opened.send(f'SEND\ndestination:{READ}\n\n{{"ids":[{id}]}}\0')
        await eventually("the mark waits", lambda: running.gateway._marks._tasks)
        stopping = asyncio.create_task(running.stop())
        await eventually("the gateway stops", lambda: running.gateway.stopping)
        status = await handshake(running)
    await stopping
    return status


@asynccontextmanager
async def issuer_that_is_down(running: Running) -> AsyncIterator[str]:
    """A token of one whose list the gateway has never been able to read."""
    with serving() as issuer:
        issuer.answer = issuer.fail
        running.gateway._tokens = Tokens.of(Settings(jwt_jwks=issuer.url))
        reading = asyncio.create_task(running.gateway._tokens.run())
        try:
            yield token(RSA, "RS256", kid="one", sub=USER)
        finally:
            reading.cancel()


async def has_a_token_of_unknown_keys_in_the_handshake(running: Running, database: Database) -> int:
    async with issuer_that_is_down(running) as unknown:
        return await handshake(running, f"/ws?token={unknown}")


async def has_a_token_of_unknown_keys_in_connect(running: Running, database: Database) -> int | None:
    async with issuer_that_is_down(running) as unknown:
        return await says(Authorization=f"Bearer {unknown}")(running, database)


async def stays_longer_than_its_token(running: Running, database: Database) -> int | None:
    last_seconds = TOKENS.issue(USER, 3, issued_at=int(time.time()) - TOKENS.leeway)
    async with socket(running, f"/ws?token={last_seconds}") as opened:
        return await close_code(opened)


async def promises_heart_beats_and_is_silent(running: Running, database: Database) -> int | None:
    async with socket(running) as opened:
        await say_hello(opened, USER, **{"heart-beat": "4000,0"})
        [session] = running.gateway._sessions
        session.beat(asyncio.get_running_loop().time() + 26)
        return await close_code(opened)


async def renews_with_fewer_topics(running: Running, database: Database) -> int | None:
    fewer = TOKENS.issue(USER, 60)
    more = TOKENS.issue(USER, 60, topics=["kept"])
    subscribe = "SUBSCRIBE\nid:1\ndestination:/topic/kept\n\n\0"
    act = says(subscribe, f"SEND\ndestination:/app/token\n\n{fewer}\0", Authorization=f"Bearer {more}")
    return await act(running, database)


async def does_not_read_its_receipts(running: Running, database: Database) -> int | None:
    with contextlib.closing(SlowReader(USER, plain=False, ack="auto")) as reader:
        await reader.connect(running.port, TOKENS.issue(USER, 60))
        [session] = running.gateway._sessions
        async with asyncio.timeout(20):
            while session._closing is None:
                await reader.send(masked(b"UNSUBSCRIBE\nid:none\nreceipt:%s\n\n\0" % (b"r" * 8000)))
            await reader.hurry()
        return reader.closed


async def asks_for_receipts_that_wait_for_postgresql(running: Running, database: Database) -> int | None:
    id = await insert(database, USER)
    async with locked(database, id):
        return await says(f'SEND\ndestination:{READ}\nreceipt:r\n\n{{"ids":[{id}]}}\0' * (PROMISES + 1))(
            running, database
        )


async def reads_more_than_may_wait_for_postgresql(running: Running, database: Database) -> int | None:
    id = await insert(database, USER)
    marks = [[id, *range(10**9 + n, 10**9 + n + 999)] for n in range(0, 12_000, 1000)]
    async with locked(database, id):
        return await says(*(f'SEND\ndestination:{READ}\n\n{{"ids":{ids}}}\0' for ids in marks))(running, database)


async def reads_what_the_database_keeps_unread(running: Running, database: Database) -> int | None:
    id = await insert(database, USER)
    await database.execute("ALTER TABLE notification ADD CONSTRAINT kept CHECK (read_at IS NULL) NOT VALID")
    try:
        return await says(f'SEND\ndestination:{READ}\n\n{{"ids":[{id}]}}\0')(running, database)
    finally:
        await database.execute("ALTER TABLE notification DROP CONSTRAINT kept")


def asks(request: bytes) -> Act:
    async def act(running: Running, database: Database) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        with contextlib.closing(writer):
            writer.write(request)
            async with asyncio.timeout(10):
                return int((await reader.readline()).split()[1])

    return act


REFUSALS: list[tuple[str, Act, int, Settings]] = [
    ("rate", comes_in_a_crowd, 503, Settings(max_connect_rate=1)),
    ("stopping", comes_while_the_gateway_stops, 503, Settings()),
    ("keys", has_a_token_of_unknown_keys_in_the_handshake, 503, Settings()),
    ("keys", has_a_token_of_unknown_keys_in_connect, 1013, Settings()),
    ("expired", stays_longer_than_its_token, 1008, Settings()),
    ("heart_beat", promises_heart_beats_and_is_silent, 1002, Settings()),
    ("destination", says("SUBSCRIBE\nid:1\ndestination:/queue/x\n\n\0"), 1002, Settings()),
    ("destination", says("SEND\ndestination:/queue/x\n\n\0"), 1002, Settings()),
    ("topic", says("SUBSCRIBE\nid:1\ndestination:/topic/secret\n\n\0"), 1008, Settings()),
    ("topic", renews_with_fewer_topics, 1008, Settings()),
    ("receipts", does_not_read_its_receipts, 1008, Settings(max_frame_rate=0)),
    ("receipts", asks_for_receipts_that_wait_for_postgresql, 1013, Settings()),
    ("marks", reads_more_than_may_wait_for_postgresql, 1013, Settings()),
    ("marks", reads_what_the_database_keeps_unread, 1008, Settings()),
    ("protocol", says("NONSENSE\n\n\0"), 1002, Settings()),
    ("protocol", says(b"\xff"), 1007, Settings()),
    ("protocol", asks(upgrade("/ws", "x" * 9000)), 400, Settings()),
    ("protocol", asks(upgrade("/ws", "x").replace(b"-Key:", b"-None:")), 400, Settings()),
    ("frame", says("\n" * 2049), 1009, Settings(max_frame=2048)),
]


@pytest.mark.parametrize(
    ("running_gateway", "reason", "act", "answer"),
    [(settings, reason, act, answer) for reason, act, answer, settings in REFUSALS],
    indirect=["running_gateway"],
    ids=[f"{reason} {answer} {number}" for number, (reason, _, answer, _) in enumerate(REFUSALS)],
)
async def test_a_refusal_is_told_and_counted_by_its_reason_alone(
    running_gateway: Running, database: Database, reason: str, act: Act, answer: int
) -> None:
    before = {each: refused(each) for each in REFUSED}
    assert await act(running_gateway, database) == answer
    risen = {each: refused(each) - count for each, count in before.items() if refused(each) != count}
    assert risen == {reason: 1}

"""Clients that do not read what they are sent: they cost their queue and nothing else, and miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from websockets.asyncio.client import connect

from rowbell.auth import Tokens
from rowbell.gateway.session import QUEUE_OCTETS
from tests.gateway.slow_reader import SlowReader
from tests.integration.processes import Gateway, eventually, running
from tests.integration.rows import Database, insert
from tests.integration.wire import PING, masked
from tests.postgres_server import PostgresServer

SECRET = secrets.token_hex(32)
KINDS = tuple(itertools.product(("stomp", "json"), ("auto", "client"), ("trickles", "does not read")))
READERS = 50
USERS = 5
"""Whom the flood is for; ten readers are each one's devices."""
FILL = 10_000
"""Rows at the most until all queues are full: 8 MB for each reader, of which most are in what the kernel holds."""
FLOOD, BATCH, BATCHES_A_SECOND = 20_000, 100, 25
"""Rows, of 4 KB: 80 MB in eight seconds, 16 MB for each reader."""
SHORT_FLOOD = FLOOD // 2
"""Rows of each phase in which it is looked how soon others have theirs."""
BODY = 4000
"""Characters of the body of each."""
PROBES_A_SECOND = 20
"""Rows for a client that reads as clients do."""

WRITE_BUFFER = 64 * 1024
"""Octets that wait in the event loop before a writer has to: asyncio's high-water mark."""
FRAME = 8 * 1024
"""More than a frame of the flood has: queue and buffer may each be over their bounds by one."""
GAPS = 1.5
"""What the allocator takes for an octet that it gives, after many of all sizes have come and gone: up to 1.4 on a
machine so busy that the sweep brings many of the rows. That it stays so is tested more tightly below."""
OF_A_READER = GAPS * (QUEUE_OCTETS + WRITE_BUFFER + 2 * FRAME)
"""Octets of the gateway's memory at the most."""
FEW = 20
"""Readers, where it is about what each of them costs."""
LARGE_PAGE = 32 << 20
"""Octets that 200 of the largest rows take while they are read from the table: as they come, and rendered."""
LEEWAY = 8 << 20
"""Octets by which its memory moves anyhow: with batches of changes, and with what the allocator keeps."""
PHASES = 2
"""Without slow readers and with them, each: in turn, so that both have of whatever else the machine does."""
FACTOR = 2.0
"""How much longer a row may take beside slow readers."""
MOMENT, HICCUP = 0.005, 0.02
"""Seconds that it may take in any case: the median, and the ninetieth percentile. Machines do other things, too."""
ATTEMPTS = 3
"""A gateway that is slowed down is so each time; a machine that does other things hardly."""

PATIENCE = 45.0
"""Seconds until a client is ended that should have sent a heart-beat every ten: two and a half of these, and five for
what is queued to be read."""

DEMANDS = {
    "receipts": (False, masked(b"".join(b"UNSUBSCRIBE\nid:none\nreceipt:%s\n\n\0" % (b"r" * 100) for _ in range(100)))),
    "pings in JSON": (True, masked(b'{"type":"ping","receipt":"%s"}' % (b"r" * 200))),
    "pings of WebSockets": (False, masked(b"p" * 125, PING)),
}
"""What a client may ask for and not read: does it speak JSON, and the request."""
DEMANDING = 4.0
"""Seconds that it goes on."""
DEMANDED = 32 << 20
"""Octets of requests, most of which are answered with as many."""


@dataclass
class Story:
    """What happened in one run: a flood of rows for fifty who do not read."""

    before: int
    """The gateway's memory in octets, when the slow ones had come."""
    memory: list[int]
    """The same from the moment when all their queues were full."""
    lagging: float
    """How many subscriptions fell behind, by the gateway's count."""
    readers: list[SlowReader]
    """One of each kind, and what it had read in the end."""
    replayed: float
    """How many changes were replayed, by the gateway's count."""
    rows: dict[str, list[int]]
    """User → the ids of all rows since the slow ones had come."""


@contextmanager
def streaming_gateway(server: PostgresServer, log: Path) -> Iterator[Gateway]:
    settings = {
        "ROWBELL_DATABASE_URL": server.url("postgres"),
        "ROWBELL_JWT_SECRET": SECRET,
        "ROWBELL_MAX_FRAME_RATE": "0",  # what bounds the memory must do so without it
    }
    gateway = Gateway(settings, log)
    with running(gateway):
        gateway.wait_for("streaming", lambda: "wal_streaming" in log.read_text())
        yield gateway


@pytest.fixture(scope="module")
def gateway(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with streaming_gateway(server, tmp_path_factory.mktemp("slow-clients") / "gateway.log") as gateway:
        yield gateway


@pytest.fixture
def fresh_gateway(server: PostgresServer, tmp_path: Path) -> Iterator[Gateway]:
    """One whose allocator has no memory in store, which would hide what it takes."""
    with streaming_gateway(server, tmp_path / "gateway.log") as gateway:
        yield gateway


@pytest.fixture(scope="module", autouse=True)
def vigil(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[None]]:
    """Two clients that agree on heart-beats and do not read, at a gateway of their own, beside all else here."""
    log = tmp_path_factory.mktemp("vigil") / "gateway.log"
    with streaming_gateway(server, log) as gateway, ThreadPoolExecutor(1) as thread:
        yield thread.submit(asyncio.run, watch_heart_beats(gateway, server.url("postgres")))


@pytest.fixture(scope="module")
def story(gateway: Gateway, server: PostgresServer) -> Story:
    return asyncio.run(tell(gateway, server.url("postgres")))


def test_clients_that_do_not_read_cost_their_queues_and_nothing_else(story: Story) -> None:
    assert max(story.memory) - story.before < READERS * OF_A_READER + LEEWAY


def test_however_much_comes_for_them_memory_stays_as_it_is(story: Story) -> None:
    assert max(story.memory) - story.memory[0] < LEEWAY


async def test_others_have_their_rows_as_soon_as_without_them(gateway: Gateway, server: PostgresServer) -> None:
    measured = []
    for attempt in range(ATTEMPTS):
        alone, beside = await compared(gateway, server.url("postgres"), f"slow-{attempt}")
        if is_as_soon(alone, beside):
            return
        measured += [(statistics.median(each), ninetieth(each)) for each in (alone, beside)]
    pytest.fail(f"medians and ninetieth percentiles in seconds, in turn without slow readers and with them: {measured}")


def test_rows_that_take_more_than_twice_as_long_or_some_of_which_do_are_not_as_soon() -> None:
    alone = [0.002] * 100
    assert is_as_soon(alone, [0.005] * 100)
    assert not is_as_soon(alone, [0.006] * 100)
    assert not is_as_soon(alone, [0.002] * 80 + [0.030] * 20)
    assert is_as_soon([0.030] * 100, [0.059] * 100)
    assert not is_as_soon([0.030] * 100, [0.061] * 100)


def test_each_of_them_is_counted_as_lagging_once(story: Story) -> None:
    assert story.lagging == READERS


@pytest.mark.parametrize("number", range(len(KINDS)), ids=[" ".join(kind) for kind in KINDS])
def test_one_that_reads_again_gets_everything_once_and_is_live_again(story: Story, number: int) -> None:
    reader = story.readers[number]
    received = Counter((message.id, message.version) for message in reader.messages)
    assert set(received.values()) == {1}
    assert sorted(id for id, _ in received) == story.rows[reader.user]
    assert reader.numbers == ([] if reader.plain else list(range(1, len(reader.messages) + 1))), "in their order"
    assert not reader.messages[0].replayed, "what was queued is not thrown away"
    assert not reader.messages[-1].replayed, "it is live again"


def test_what_they_missed_is_counted_as_replayed(story: Story) -> None:
    replayed = sum(message.replayed for reader in story.readers for message in reader.messages)
    assert replayed == story.replayed > 0


@pytest.mark.parametrize("what", DEMANDS)
async def test_answers_that_are_asked_for_and_not_read_take_no_memory(fresh_gateway: Gateway, what: str) -> None:
    plain, request = DEMANDS[what]
    requests = request * (1 + (1 << 16) // len(request))
    async with slow_reader(fresh_gateway, "asks", plain) as reader, watched(fresh_gateway) as memory:
        # It is let to ask as long as the gateway reads, unless that closes.
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(DEMANDING):
                for _ in range(DEMANDED // len(requests)):
                    await reader.send(requests)
    assert max(memory) - memory[0] < LEEWAY


async def test_an_emoji_in_a_row_makes_no_difference(fresh_gateway: Gateway, database: Database) -> None:
    """In a string that has one, each character takes four octets."""
    async with AsyncExitStack() as opened, watched(fresh_gateway) as memory:
        for _ in range(FEW):
            await opened.enter_async_context(slow_reader(fresh_gateway, "emoji-0", plain=True))
        while lagging_of(fresh_gateway) < FEW:
            await insert_batch(database, "emoji", users=1, title="\N{BELL}\N{BEER MUG}")
    assert max(memory) - memory[0] < FEW * OF_A_READER + 2 * LEEWAY  # batches of changes have emoji, too


async def test_a_page_of_large_rows_takes_no_more_than_other_rows(fresh_gateway: Gateway, database: Database) -> None:
    await database.execute(
        "INSERT INTO notification (recipient_id, title, body, data) "
        "SELECT 'large', 'n', repeat('x', 16000), jsonb_build_object('x', repeat('x', 24000)) "
        "FROM generate_series(1, 200)"
    )
    with contextlib.ExitStack() as opened:
        async with watched(fresh_gateway) as memory:
            for _ in range(FEW):
                reader = opened.enter_context(contextlib.closing(SlowReader("large", False, "auto")))
                await reader.subscribe(fresh_gateway.port, Tokens(SECRET).issue("large", 3600))
            replayed = [0.0]
            await eventually("no more is sent", lambda: is_still(replayed, replayed_of(fresh_gateway)))
    assert max(memory) - memory[0] < FEW * OF_A_READER + LARGE_PAGE


async def test_the_newest_ping_of_a_client_that_reads_again_is_answered(gateway: Gateway) -> None:
    async with slow_reader(gateway, "asks", plain=True) as reader:
        for _ in range(1000):
            await reader.send(masked(b"p" * 125, PING) * 100)
        await reader.send(masked(b"the newest", PING))
        async with asyncio.timeout(20):
            while reader.pong != b"the newest":
                await reader.read()


def test_of_clients_that_do_not_read_only_one_whose_heart_does_not_beat_is_ended(vigil: Future[None]) -> None:
    """It takes half a minute, and so began before everything else here."""
    vigil.result()


async def tell(gateway: Gateway, url: str) -> Story:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as database:
        async with slow_readers(gateway, "slow") as readers:
            before, lagging, replayed = memory_of(gateway), lagging_of(gateway), replayed_of(gateway)
            async with meanwhile(*trickling(readers)):
                await fill(gateway, database, "slow")
                async with watched(gateway) as memory:
                    await flooded(database, "slow", FLOOD)
            fell_behind = lagging_of(gateway) - lagging
            one_of_each, others = readers[: len(KINDS)], readers[len(KINDS) :]
            for reader in others:
                reader.close()
            await catch_up(database, one_of_each)
        rows = {user: await ids_of(database, user) for user in users_of("slow")}
        return Story(before, memory, fell_behind, one_of_each, replayed_of(gateway) - replayed, rows)


async def compared(gateway: Gateway, url: str, whom: str) -> tuple[list[float], list[float]]:
    """Seconds from the INSERT of a row to its frame, for a client that reads, during floods: for others who are not
    there, and for others who do not read."""
    alone: list[float] = []
    beside: list[float] = []
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as database:
        for phase in range(PHASES):
            alone += await probed(gateway, database, url, "absent")
            slow = f"{whom}-{phase}"
            async with slow_readers(gateway, slow) as readers, meanwhile(*trickling(readers)):
                await fill(gateway, database, slow)
                beside += await probed(gateway, database, url, slow)
            await eventually("they are gone", lambda: gateway.metric("rowbell_sessions") == 0)
    return alone, beside


def is_as_soon(alone: list[float], beside: list[float]) -> bool:
    return all(
        figure(beside) <= max(FACTOR * figure(alone), at_least)
        for figure, at_least in ((statistics.median, MOMENT), (ninetieth, HICCUP))
    )


def ninetieth(values: list[float]) -> float:
    """The percentile."""
    return statistics.quantiles(values, n=10)[-1]


@asynccontextmanager
async def slow_reader(
    gateway: Gateway, user: str, plain: bool, ack: str = "auto", heart_beat: str = "0,0"
) -> AsyncIterator[SlowReader]:
    """It is live, and has nothing to read."""
    reader = SlowReader(user, plain, ack)
    try:
        await reader.connect(gateway.port, Tokens(SECRET).issue(user, 3600), heart_beat)
        yield reader
    finally:
        reader.close()


@asynccontextmanager
async def slow_readers(gateway: Gateway, whom: str) -> AsyncIterator[list[SlowReader]]:
    """Of all kinds, in turn."""
    async with AsyncExitStack() as opened:
        yield [
            await opened.enter_async_context(slow_reader(gateway, user, protocol == "json", ack))
            for (protocol, ack, _), user, _ in zip(
                itertools.cycle(KINDS), itertools.cycle(users_of(whom)), range(READERS), strict=False
            )
        ]


@asynccontextmanager
async def meanwhile(*tasks: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """These go on meanwhile."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def trickling(readers: list[SlowReader]) -> list[Coroutine[object, object, None]]:
    """Half of them read an octet a second, and the others nothing."""
    kinds = zip(itertools.cycle(KINDS), readers, strict=False)
    return [reader.trickle() for (_, _, how), reader in kinds if how == "trickles"]


async def watch_heart_beats(gateway: Gateway, url: str) -> None:
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as database,
        slow_reader(gateway, "beating-0", plain=False, heart_beat="10000,10000") as beating,
        slow_reader(gateway, "silent-0", plain=False, heart_beat="10000,10000") as silent,
    ):
        # Given two clients whose queues are full
        for _ in range(FILL // BATCH // USERS):
            for whom in ("beating", "silent"):
                await insert_batch(database, whom, users=1)
        await eventually("both lag", lambda: lagging_of(gateway) == 2)
        # When only one of them sends what it has agreed to
        async with meanwhile(beating.beat()):
            await eventually("somebody is ended", lambda: gateway.metric("rowbell_sessions") < 2, PATIENCE)
        # Then it is the other one, and this one may read everything
        async with meanwhile(silent.hurry(), beating.hurry()):
            await eventually("the silent one is at its end", lambda: silent.closed is not None)
            rows = len(await ids_of(database, beating.user))
            await eventually("the other one has everything", lambda: len(beating.messages) == rows)
            assert beating.closed is None


async def catch_up(database: Database, readers: list[SlowReader]) -> None:
    """They read, until each has everything and the last row came live."""

    async def all_are_live() -> bool:
        for user in users_of("slow"):
            await insert(database, user)
        rows = {user: len(await ids_of(database, user)) for user in users_of("slow")}
        await eventually("every row", lambda: all(len(r.messages) >= rows[r.user] for r in readers), 30)
        return not any(reader.messages[-1].replayed for reader in readers)

    async with meanwhile(*(reader.hurry() for reader in readers)):
        await eventually("everybody is live again", all_are_live, 30)


async def fill(gateway: Gateway, database: Database, whom: str) -> None:
    """Rows until the queues of all slow readers are full; not faster than they can be streamed, or the sweep comes."""
    full = lagging_of(gateway) + READERS
    async for _ in paced(FILL // BATCH):
        if lagging_of(gateway) >= full:
            return
        await insert_batch(database, whom)
    await eventually("all of them lag", lambda: lagging_of(gateway) >= full)


async def probed(gateway: Gateway, database: Database, url: str, whom: str) -> list[float]:
    """How long rows take to a client that reads, during a flood for others."""
    flood = asyncio.create_task(flooded(database, whom, SHORT_FLOOD))
    latencies: list[float] = []
    token = Tokens(SECRET).issue("probe", 3600)
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as writer,
        connect(f"{gateway.url}?token={token}", max_queue=None) as socket,
    ):
        while json.loads(await socket.recv()).get("type") != "LIVE":
            continue
        while not flood.done():
            begun = time.monotonic()
            id = await insert(writer, "probe")
            while json.loads(await socket.recv()).get("id") != id:
                continue
            latencies.append(time.monotonic() - begun)
            await asyncio.sleep(max(0.0, begun + 1 / PROBES_A_SECOND - time.monotonic()))
        await writer.execute("UPDATE notification SET read_at = now() WHERE recipient_id = 'probe'")
    await flood
    return latencies


async def flooded(database: Database, whom: str, rows: int) -> None:
    async for _ in paced(rows // BATCH):
        await insert_batch(database, whom)


async def paced(batches: int) -> AsyncIterator[int]:
    begun = time.monotonic()
    for number in range(batches):
        await asyncio.sleep(max(0.0, begun + number / BATCHES_A_SECOND - time.monotonic()))
        yield number


async def insert_batch(database: Database, whom: str, users: int = USERS, title: str = "n") -> None:
    await database.execute(
        "INSERT INTO notification (recipient_id, title, body) "
        "SELECT %s || '-' || n %% %s, %s, repeat('x', %s) FROM generate_series(1, %s) n",
        [whom, users, title, BODY, BATCH],
    )


@asynccontextmanager
async def watched(gateway: Gateway) -> AsyncIterator[list[int]]:
    """The process's memory, again and again meanwhile."""
    samples = [memory_of(gateway)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.05)
            samples.append(memory_of(gateway))

    async with meanwhile(watch()):
        yield samples


def memory_of(gateway: Gateway) -> int:
    """Octets: its share of what it shares, so that its libraries do not depend on who else runs."""
    rollup = Path(f"/proc/{gateway.pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found is not None, rollup
    return int(found[1]) * 1024


def is_still(values: list[float], value: float) -> bool:
    """Is it what it has been for a second?"""
    values.append(value)
    return value > 0 and values[-20:] == [value] * 20


def lagging_of(gateway: Gateway) -> float:
    return gateway.metric("rowbell_lagging_total")


def replayed_of(gateway: Gateway) -> float:
    return gateway.metric("rowbell_events_total", by="replayed")


def users_of(whom: str) -> list[str]:
    return [f"{whom}-{number}" for number in range(USERS)]


async def ids_of(database: Database, user: str) -> list[int]:
    cursor = await database.execute("SELECT id FROM notification WHERE recipient_id = %s ORDER BY id", [user])
    return [int(str(id)) for (id,) in await cursor.fetchall()]

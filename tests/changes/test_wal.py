"""What PostgreSQL's log adds: slots, old transactions, a server that goes away, transactions larger than memory."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import ModuleType
from typing import Any

import psycopg
import pytest
import uvloop
from prometheus_client import REGISTRY
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from rowbell import postgres
from rowbell.changes import MAX_BATCH, replication
from rowbell.changes import wal as wal_module
from rowbell.changes.replication import SLOT_PREFIX
from rowbell.changes.requirements import missing
from rowbell.changes.wal import WalChanges
from rowbell.errors import SettingsError
from rowbell.inbox import Inbox
from rowbell.notification import DELETED, Change
from rowbell.postgres import BoundedConnection
from tests.changes.streams import WalStream, ids, take
from tests.integration.processes import eventually
from tests.integration.proxy import Proxy
from tests.postgres_server import debian, migrated, running, wheel

SOON = 30.0
CLOSED = 1.0
"""Seconds that closing may take."""
LARGE = 300_000
"""Rows of a large transaction: 140 MB of messages. `benchmarks.wal` reads a million."""
BOUND = 32 * 1024 * 1024
"""Bytes by which the process may grow while it reads one."""

READER = """
import asyncio, sys
from rowbell.changes.wal import WalChanges
async def read():
    async for batch in WalChanges(sys.argv[1]).batches():
        pass
asyncio.run(read())
"""


@asynccontextmanager
async def streaming(url: str, wanted: Callable[[str], bool] | None = None) -> AsyncIterator[WalChanges]:
    """A source whose slot stands; closed at the end, quickly."""
    source = WalChanges(url, wanted)
    source.batches()
    try:
        await eventually("streaming", lambda: source.streaming)
        yield source
    finally:
        await close_quickly(source)


async def close_quickly(source: WalChanges) -> None:
    began = time.monotonic()
    await source.close()
    assert time.monotonic() - began < CLOSED


@contextmanager
def prepared_transaction(wal: WalStream) -> Iterator[None]:
    """An old transaction, in another database of the cluster."""
    with wal.server.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS elsewhere (x int)")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO elsewhere VALUES (1)")
        connection.execute("PREPARE TRANSACTION 'the old one'")
        try:
            yield
        finally:
            connection.execute("ROLLBACK PREPARED 'the old one'")


@contextmanager
def reader(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that reads."""
    process = subprocess.Popen([sys.executable, "-c", READER, url])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def insert_many(wal: WalStream, count: int) -> None:
    with wal.connect() as connection:
        connection.execute(
            "INSERT INTO notification (recipient_id, title, body) "
            "SELECT 'user-' || i %% 500, 'Title ' || i, repeat('text ', 20) FROM generate_series(1, %s) i",
            [count],
        )


def resident() -> int:
    """Bytes of this process."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def events(logs: list[Any], *names: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] in names]


# Changes


async def test_a_change_is_what_sql_reads(either_wal: WalStream) -> None:
    async with streaming(either_wal.url()) as source, asyncio.timeout(SOON):
        # when
        with either_wal.connect() as sql:
            sql.execute("""
                INSERT INTO notification (recipient_id, title, body, data, actor_id, channel, created_at, expires_at)
                VALUES ('alice', 'Hello', NULL, '{}', NULL, 'IN_APP', '2026-11-22 09:14:00.791999+00', NULL),
                       ('zoë', 'x', '', '{"a": [1.50, 1e400, null], "ü": "\\u00e9\\ud83d\\ude00"}', '',
                        'EMAIL', '1970-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00'),
                       ('topic:news', '漢字 "quoted" \\ \t', E'two\\nlines', '{"n": 12345678901234567890}', 'bob',
                        'IN_APP', now(), now())
            """)
            sql.execute("UPDATE notification SET read_at = '2026-11-22 09:15:00.000001+00' WHERE id = 1")
        # then
        changes = await take(source, 4)
    inbox = Inbox.connect(either_wal.url("a_gateway"))
    rows = await inbox.rows([1, 2, 3])
    await inbox.close()
    assert [without_commit(change) for change in changes[1:]] == [
        without_commit(row) for row in (rows[1], rows[2], rows[0])
    ]
    assert {change.committed_at > 0 for change in changes} == {True}


async def test_a_transaction_that_is_rolled_back_does_not_come_and_savepoints_do(either_wal: WalStream) -> None:
    async with streaming(either_wal.url()) as source, asyncio.timeout(SOON):
        with either_wal.connect() as sql:
            with sql.transaction(force_rollback=True):
                sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'never')")
            with sql.transaction():
                sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'outer')")
                with sql.transaction():
                    sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'inner')")
                    sql.execute("DELETE FROM notification WHERE title = 'outer'")
                with sql.transaction(force_rollback=True):
                    sql.execute("DELETE FROM notification")
        changes = await take(source, 3)

    assert [(change.id, change.version) for change in changes] == [(2, 1), (3, 1), (2, DELETED)]
    assert len({change.tx for change in changes}) == 1


def test_it_works_on_uvloop(wal: WalStream) -> None:
    async def read() -> list[Change]:
        async with streaming(wal.url()) as source, asyncio.timeout(SOON):
            insert_many(wal, 5000)
            return await take(source, 5000)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert ids(runner.run(read())) == list(range(1, 5001))


async def test_what_cannot_be_decoded_is_logged_once_and_what_follows_comes(wal: WalStream) -> None:
    with capture_logs() as logs:
        async with streaming(wal.url()) as source, asyncio.timeout(SOON):
            wal.publish("id", "recipient_id")
            wal.append([1, 2, 3])
            with wal.connect() as sql:
                sql.execute("ALTER PUBLICATION notification_publication SET (publish = 'insert, update, delete')")
            wal.append([4])
            dead = []
            async for batch in source.batches():
                dead += batch.dead
                if len(dead) == 4:
                    break

    [event] = events(logs, "wal_undecodable")
    assert event["reason"] == "the publication lacks the column `version` of notification"
    assert [record.topic for record in dead] == ["wal"] * 4
    assert [record.offset for record in dead] == sorted(record.offset for record in dead)
    assert b"alice" in (dead[0].value or b"")


async def test_data_that_is_nested_deeply_comes_as_sql_reads_it(either_wal: WalStream) -> None:
    async with streaming(either_wal.url()) as source, asyncio.timeout(SOON):
        with either_wal.connect() as sql:
            sql.execute(
                "INSERT INTO notification (recipient_id, title, data) VALUES ('alice', 'Deep', %s::jsonb)",
                ['{"a": ' + "[" * 3000 + "]" * 3000 + "}"],
            )
        [change] = await take(source, 1)
    inbox = Inbox.connect(either_wal.url("a_gateway"))
    rows = await inbox.rows([1])
    await inbox.close()

    assert without_commit(change) == without_commit(rows[0])


async def test_rows_of_those_who_are_not_wanted_are_skipped(either_wal: WalStream) -> None:
    wanted = {"alice"}
    skipped = skipped_rows()
    async with streaming(either_wal.url(), wanted.__contains__) as source, asyncio.timeout(SOON):
        either_wal.append([1], "bob")
        either_wal.append([2], "alice")
        either_wal.append([3], "bob")
        either_wal.append([4], "alice")
        changes = await take(source, 2)
        wanted.add("bob")
        with either_wal.connect() as sql:
            sql.execute("UPDATE notification SET read_at = now() WHERE id = 1")
            sql.execute("DELETE FROM notification WHERE id = 3")
        changes += await take(source, 2)

    assert ids(changes) == [2, 4, 1, 3]
    assert skipped_rows() - skipped == 2


def skipped_rows() -> float:
    return REGISTRY.get_sample_value("rowbell_dispatched_total", {"outcome": "nobody"}) or 0.0


# Lag


@pytest.mark.parametrize("wanted", [None, lambda recipient: recipient == "alice"], ids=["all", "one"])
async def test_behind_a_large_transaction_the_stream_lags_until_it_is_read(
    either_wal: WalStream, wanted: Callable[[str], bool] | None
) -> None:
    async with streaming(either_wal.url(), wanted) as source, asyncio.timeout(2 * SOON):
        # given
        await asyncio.to_thread(insert_many, either_wal, LARGE)
        either_wal.append([LARGE + 1])
        # when
        reading = asyncio.create_task(take_until(source, LARGE + 1))
        await eventually("lagging", lambda: not source.streaming, within=3)
        await reading
        # then
        assert not source.streaming  # until a transaction comes in time, or for as long as the last was late
        either_wal.append([LARGE + 2])
        await take_until(source, LARGE + 2)
        await eventually("caught up", lambda: source.streaming, within=0.5)


async def test_the_stream_is_believed_to_have_caught_up_though_nothing_more_comes(wal: WalStream) -> None:
    async with streaming(wal.url(), lambda recipient: recipient == "alice") as source, asyncio.timeout(SOON):
        with wal.connect() as sql:
            await asyncio.to_thread(insert_many, wal, LARGE)
            sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
        await take(source, 1)

        await eventually("caught up", lambda: source.streaming, within=10)


async def test_a_server_that_does_not_answer_makes_the_stream_lag(wal: WalStream) -> None:
    async with streaming(wal.url()) as source, asyncio.timeout(SOON):
        [silent] = wal.walsenders()
        os.kill(silent, signal.SIGSTOP)
        try:
            await eventually("lagging", lambda: not source.streaming, within=3)
        finally:
            os.kill(silent, signal.SIGCONT)
        await eventually("caught up", lambda: source.streaming, within=3)


async def test_what_is_not_taken_lags(wal: WalStream) -> None:
    async with streaming(wal.url()) as source, asyncio.timeout(SOON):
        await asyncio.to_thread(insert_many, wal, 10_000)

        await eventually("lagging", lambda: not source.streaming, within=3)

        await take(source, 10_000)
        await eventually("caught up", lambda: source.streaming, within=5)


async def take_until(source: WalChanges, id: int) -> None:
    while id not in ids(await take(source, 1)):
        pass


# The consumer


async def test_a_transaction_larger_than_memory_is_read_in_small_batches(wal: WalStream) -> None:
    async with streaming(wal.url()) as source, asyncio.timeout(3 * SOON):
        # given
        await asyncio.to_thread(insert_many, wal, LARGE)
        await asyncio.sleep(0.5)
        before, most, largest, count = resident(), 0, 0, 0
        # when
        async for batch in source.batches():
            count += len(batch.changes)
            largest = max(largest, len(batch.changes))
            most = max(most, resident())
            if count == LARGE:
                break
    # then
    assert largest <= MAX_BATCH
    assert most - before < BOUND


async def test_nothing_is_read_while_nobody_takes(wal: WalStream) -> None:
    async with streaming(wal.url()) as source, asyncio.timeout(3 * SOON):
        before = resident()

        await asyncio.to_thread(insert_many, wal, LARGE)
        await asyncio.sleep(1)

        assert resident() - before < BOUND
        assert len(await take(source, LARGE)) == LARGE


async def test_others_have_their_turn_while_a_large_transaction_is_read(wal: WalStream) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with streaming(wal.url()) as source, asyncio.timeout(SOON):
        await asyncio.to_thread(insert_many, wal, 50_000)
        running = asyncio.create_task(others())
        await take(source, 50_000)
        running.cancel()

    assert turns >= 50_000 / MAX_BATCH


async def test_a_stream_that_nobody_takes_is_given_up_and_comes_back(
    wal: WalStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_module, "STALL_SECONDS", 0.2)
    with capture_logs() as logs:
        async with streaming(wal.url()) as source, asyncio.timeout(SOON):
            # given
            insert_many(wal, 10_000)
            await eventually("given up", lambda: not wal.slots())
            assert not source.streaming
            # when
            changes = await take(source, 1)
            await eventually("back", lambda: source.streaming)
            wal.append([20_000])
            # then
            while 20_000 not in ids(changes):
                changes += await take(source, 1)

    assert len(changes) <= MAX_BATCH + 1
    assert [event["event"] for event in logs] == ["wal_streaming", "wal_lost", "wal_streaming"]


# Time limits


@pytest.mark.parametrize("limit", ["1s", "2s"])
async def test_an_idle_stream_stays(wal: WalStream, limit: str) -> None:
    async with streaming(wal.url(wal_sender_timeout=limit)) as source, asyncio.timeout(SOON):
        slots = wal.slots()

        await asyncio.sleep(4)

        assert wal.slots() == slots
        wal.append([1])
        assert ids(await take(source, 1)) == [1]


async def test_a_paused_stream_stays(wal: WalStream) -> None:
    async with streaming(wal.url(wal_sender_timeout="1s")) as source, asyncio.timeout(2 * SOON):
        await asyncio.to_thread(insert_many, wal, 100_000)
        slots = wal.slots()

        await asyncio.sleep(4)

        assert wal.slots() == slots
        assert len(await take(source, 100_000)) == 100_000


async def test_everything_received_is_confirmed(wal: WalStream) -> None:
    async def confirmed() -> bool:
        with wal.connect() as sql:
            query = """
                SELECT confirmed_flush_lsn >= %s FROM pg_replication_slots WHERE database = current_database()
            """
            return sql.execute(query, [end]).fetchone() == (True,)

    async with streaming(wal.url()):
        wal.append([1])
        with wal.connect() as sql:
            end = sql.execute("SELECT pg_current_wal_flush_lsn()").fetchone()[0]  # type: ignore[index]

        await eventually("confirmed", confirmed, within=5)


async def test_a_commit_that_waits_for_every_standby_is_not_held_up() -> None:
    with running(debian(15)) as server, migrated(server) as database:
        wal = WalStream(server, database)
        async with streaming(wal.url()), asyncio.timeout(SOON):
            with wal.connect() as sql:
                sql.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                sql.execute("SELECT pg_reload_conf()")
                query = "SELECT sync_state FROM pg_stat_replication"
                await eventually("waited for", lambda: sql.execute(query).fetchone() == ("sync",))
            began = time.monotonic()

            await asyncio.to_thread(wal.append, range(1, 101))

            assert time.monotonic() - began < 5
            with wal.connect() as sql:
                sql.execute("ALTER SYSTEM RESET synchronous_standby_names")
                sql.execute("SELECT pg_reload_conf()")
                await eventually("reset", lambda: sql.execute(query).fetchone() == ("async",))


async def test_a_server_that_falls_silent_is_given_up(wal: WalStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(replication, "LOOK_SECONDS", 0.2)
    with capture_logs() as logs:
        async with streaming(wal.url(wal_sender_timeout="1s")) as source, asyncio.timeout(SOON):
            await asyncio.sleep(2)
            assert events(logs, "wal_lost") == []  # an idle one answers
            [silent] = wal.walsenders()
            os.kill(silent, signal.SIGSTOP)
            try:
                await eventually("another", lambda: len(wal.walsenders()) == 2 and source.streaming)
                wal.append([1])
                assert ids(await take(source, 1)) == [1]
            finally:
                os.kill(silent, signal.SIGCONT)

    [event] = events(logs, "wal_lost")
    assert event["reason"] == "PostgreSQL has said nothing for 1 s"


class Mute:
    """`async with Mute() as server:` lets everybody in as PostgreSQL does, and then says nothing."""

    CANCELLING = 16
    """Bytes of the message that asks to cancel a query; those of a login are more."""
    WELCOME = b"".join(
        kind + struct.pack("!I", len(body) + 4) + body
        for kind, body in (
            (b"R", struct.pack("!I", 0)),
            (b"S", b"server_version\x0015.0\0"),
            (b"S", b"client_encoding\0UTF8\0"),
            (b"S", b"default_transaction_read_only\0off\0"),
            (b"S", b"in_hot_standby\0off\0"),
            (b"K", struct.pack("!II", 1, 2)),
            (b"Z", b"I"),
        )
    )

    async def __aenter__(self) -> Mute:
        self.let_in = 0
        self._open = 0
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://me@127.0.0.1:{port}/app?sslmode=disable&gssencmode=disable"
        return self

    async def __aexit__(self, *_: object) -> None:
        """When all whom it let in have gone."""
        self._server.close()
        await eventually("all have gone", lambda: not self._open)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        (size,) = struct.unpack("!I", await reader.readexactly(4))
        if size > self.CANCELLING:
            self.let_in += 1
            writer.write(self.WELCOME)
            with suppress(ConnectionError):
                await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self._open -= 1


async def test_a_server_that_lets_in_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    async with Mute() as server:
        source = WalChanges(server.url)
        with capture_logs() as logs:
            source.batches()
            # The stream's connection, the one that asks what PostgreSQL lacks, and the next stream's.
            await eventually("tried again", lambda: server.let_in >= 3)
            await close_quickly(source)

    [event] = events(logs, "wal_lost", "wal_refused")
    assert (event["event"], event["reason"]) == ("wal_lost", "PostgreSQL has not answered for 0.3 s")


async def test_a_look_at_what_is_lacking_behind_which_nobody_is_does_not_last(
    wal: WalStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    async with Proxy(wal.server.port) as proxy:
        connection = await postgres.connect(make_conninfo(wal.url(), port=proxy.port), {})
        proxy.freeze()
        async with connection, asyncio.timeout(5):
            with pytest.raises(psycopg.OperationalError):
                await missing(connection)


async def test_a_slot_whose_making_is_not_answered_is_given_up(wal: WalStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    async with Proxy(wal.server.port) as proxy, asyncio.timeout(SOON):
        source = WalChanges(make_conninfo(wal.url(), port=proxy.port))
        with capture_logs() as logs:
            with prepared_transaction(wal):
                source.batches()
                await eventually("waiting", wal.slots)
                proxy.freeze()
            await eventually("another", lambda: source.streaming)
            await close_quickly(source)

    [event] = events(logs, "wal_lost")
    assert event["reason"] == "PostgreSQL has not answered for 0.3 s"


async def test_a_slot_is_given_up_when_the_server_cannot_be_asked_whether_it_waits(
    wal: WalStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    source = WalChanges(make_conninfo(wal.url(), connect_timeout=2))
    with capture_logs() as logs:
        with prepared_transaction(wal):
            source.batches()
            await eventually("waiting", wal.slots)
            with wal.server.halted():
                await eventually("given up", lambda: events(logs, "wal_lost"))
        await eventually("streaming", lambda: source.streaming)
        await close_quickly(source)

    [event] = events(logs, "wal_lost")
    assert "timeout" in event["reason"]


async def test_a_slot_may_wait_longer_than_an_answer_may_take(wal: WalStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.3)
    source = WalChanges(wal.url())
    with capture_logs() as logs:
        with prepared_transaction(wal):
            source.batches()
            await eventually("waiting", wal.slots)
            slots = wal.slots()
            await asyncio.sleep(3)
            assert wal.slots() == slots
        await eventually("streaming", lambda: source.streaming)
        assert wal.slots() == slots
        await close_quickly(source)

    assert events(logs, "wal_lost") == []


@pytest.mark.parametrize(
    ("module", "constant"),
    [(wal_module, "CHECK_SECONDS"), (wal_module, "PATIENCE_SECONDS"), (replication, "STATUS_SECONDS")],
    ids=["looking what is lacking", "looking at the slot", "asking the server"],
)
async def test_a_mistake_in_what_runs_beside_the_stream_ends_it_with_its_error(
    wal: WalStream, monkeypatch: pytest.MonkeyPatch, module: ModuleType, constant: str
) -> None:
    monkeypatch.setattr(module, constant, "soon")
    source = WalChanges(wal.url(wal_sender_timeout="0"))

    with pytest.raises(ExceptionGroup) as failed:
        async with asyncio.timeout(10):
            await take(source, 1)

    assert failed.group_contains(TypeError)
    await close_quickly(source)


# The server goes away


@pytest.mark.parametrize("binaries", [debian(15), wheel()], ids=["15", "18"])
async def test_it_comes_back_after_a_crash_and_after_a_restart(binaries: Any) -> None:
    with running(binaries) as server, migrated(server) as database:
        wal = WalStream(server, database)
        with capture_logs() as logs:
            async with streaming(wal.url()) as source, asyncio.timeout(2 * SOON):
                for id, end in enumerate((server.kill, server.stop, server.kill)):
                    # when
                    await asyncio.to_thread(end)
                    await eventually("noticed", lambda: not source.streaming)
                    await asyncio.sleep(0.5)
                    await asyncio.to_thread(server.start)
                    await eventually("back", lambda: source.streaming)
                    # then
                    wal.append([id + 1])
                    assert ids(await take(source, 1)) == [id + 1]

        assert [event["event"] for event in logs] == ["wal_streaming", *["wal_lost", "wal_streaming"] * 3]
        wal.wait_until_nothing_is_left()


async def test_a_server_that_stops_does_not_wait_for_the_stream() -> None:
    with running(debian(15)) as server, migrated(server) as database:
        async with streaming(server.url(database)), asyncio.timeout(SOON):
            began = time.monotonic()

            await asyncio.to_thread(server.stop)

            assert time.monotonic() - began < 5
        server.start()


async def test_it_comes_back_when_the_link_is_cut(wal: WalStream) -> None:
    async with Proxy(wal.server.port) as proxy:
        url = make_conninfo(wal.url(), port=proxy.port)
        with capture_logs() as logs:
            async with streaming(url) as source, asyncio.timeout(SOON):
                for id in (1, 2):
                    slots = wal.slots()
                    proxy.cut()
                    await eventually("another", lambda slots=slots: source.streaming and wal.slots() != slots)
                    wal.append([id])
                    assert ids(await take(source, 1)) == [id]

    assert [event["event"] for event in logs] == ["wal_streaming", *["wal_lost", "wal_streaming"] * 2]


async def test_a_server_that_is_away_at_first_is_waited_for() -> None:
    with running(debian(15)) as server, migrated(server) as database:
        server.stop()
        source = WalChanges(server.url(database))
        with capture_logs() as logs:
            source.batches()
            await eventually("noticed", lambda: events(logs, "wal_lost"))

            server.start()
            await eventually("streaming", lambda: source.streaming)
            await close_quickly(source)

    assert [event["event"] for event in logs] == ["wal_lost", "wal_streaming"]


def test_a_url_that_libpq_cannot_read_is_refused_at_once() -> None:
    with pytest.raises(SettingsError, match="not a URL that libpq understands"):
        WalChanges("postgresql://127.0.0.1/app?no_such_option=1")


# Old transactions


async def test_an_old_transaction_delays_the_slot_and_is_named(either_wal: WalStream) -> None:
    source = WalChanges(either_wal.url("a_gateway"))
    with capture_logs() as logs, replicating(either_wal, "a_gateway"):
        with prepared_transaction(either_wal):
            source.batches()
            await eventually("told", lambda: events(logs, "slot_waits"))
            assert not source.streaming
        await eventually("streaming", lambda: source.streaming)
        await close_quickly(source)

    assert [event["event"] for event in logs] == ["slot_waits", "wal_streaming"]
    [waits_for] = logs[0]["waits_for"]
    assert waits_for.startswith("prepared transaction 'the old one' in the database postgres, ")
    assert logs[0]["meanwhile"] == "the sweep delivers"


async def test_a_session_that_is_waited_for_is_named(wal: WalStream) -> None:
    source = WalChanges(wal.url())
    with capture_logs() as logs:
        with wal.connect() as sql, sql.transaction():
            sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'open')")
            source.batches()
            await eventually("told", lambda: events(logs, "slot_waits"))
            pid = sql.info.backend_pid
        await eventually("streaming", lambda: source.streaming)
        await close_quickly(source)

    [waits_for] = logs[0]["waits_for"]
    assert waits_for.startswith(f"process {pid} of postgres, ")


async def test_closing_while_the_slot_waits_is_quick_and_leaves_nothing(either_wal: WalStream) -> None:
    with prepared_transaction(either_wal):
        source = WalChanges(either_wal.url())
        batches = source.batches()
        await eventually("waiting", either_wal.slots)

        await close_quickly(source)

        assert [batch async for batch in batches] == []
        either_wal.wait_until_nothing_is_left(within=2)


@pytest.mark.parametrize("pause", [0, 0.001, 0.003, 0.01, 0.03])
async def test_closing_while_it_connects_is_quick_and_leaves_nothing(wal: WalStream, pause: float) -> None:
    source = WalChanges(wal.url())
    source.batches()
    await asyncio.sleep(pause)

    await close_quickly(source)

    wal.wait_until_nothing_is_left(within=2)


async def test_closing_is_quick_though_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = WalChanges(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/app")
        source.batches()
        await asyncio.sleep(0.2)

        await close_quickly(source)


async def test_closing_a_paused_stream_leaves_nothing(wal: WalStream) -> None:
    async with streaming(wal.url()):
        await asyncio.to_thread(insert_many, wal, 50_000)

    wal.wait_until_nothing_is_left(within=2)


# Killed


def test_a_reader_that_is_killed_leaves_no_slot(either_wal: WalStream) -> None:
    with reader(either_wal.url(wal_sender_timeout="2s")) as process:
        wait_for_slot(either_wal)

        process.kill()

        either_wal.wait_until_nothing_is_left(within=2)


def test_a_reader_that_is_killed_while_its_slot_waits_leaves_none(either_wal: WalStream) -> None:
    with prepared_transaction(either_wal), reader(either_wal.url()) as process:
        wait_for_slot(either_wal)

        process.kill()

        either_wal.wait_until_nothing_is_left(within=5)


def wait_for_slot(wal: WalStream) -> None:
    deadline = time.monotonic() + SOON
    while not wal.slots():
        assert time.monotonic() < deadline, "no slot"
        time.sleep(0.05)
    assert [slot for slot in wal.slots() if not slot.startswith(SLOT_PREFIX)] == []


# What an administrator must mend


@contextmanager
def replicating(wal: WalStream, login: str) -> Iterator[None]:
    with wal.connect() as sql:
        sql.execute(f"ALTER ROLE {login} REPLICATION".encode())
        try:
            yield
        finally:
            sql.execute(f"ALTER ROLE {login} NOREPLICATION".encode())


async def test_a_login_that_may_not_replicate_is_told_of_once_and_streams_when_it_may(either_wal: WalStream) -> None:
    source = WalChanges(either_wal.url("a_gateway"))
    with capture_logs() as logs:
        source.batches()
        await eventually("told", lambda: events(logs, "wal_refused"))
        await asyncio.sleep(2)
        with replicating(either_wal, "a_gateway"):
            await eventually("streaming", lambda: source.streaming)
            await close_quickly(source)

    assert [event["event"] for event in logs] == ["wal_refused", "wal_streaming"]
    [advice] = logs[0]["advice"]
    assert "ALTER ROLE a_gateway REPLICATION;" in advice


async def test_a_publication_that_is_missing_is_told_of_and_streams_when_it_is_there(wal: WalStream) -> None:
    with capture_logs() as logs:
        async with streaming(wal.url()) as source, asyncio.timeout(SOON):
            with wal.connect() as sql:
                sql.execute("DROP PUBLICATION notification_publication")
                wal.append([1])
                await eventually("told", lambda: events(logs, "wal_refused"))
                [advice] = events(logs, "wal_refused")[0]["advice"]
                sql.execute(advice.partition(":")[2].strip().encode())
            await eventually("streaming", lambda: source.streaming)
            wal.append([2])
            assert ids(await take(source, 1)) == [2]


UNNOTICED = {
    "DROP TABLE": "ALTER PUBLICATION notification_publication DROP TABLE notification",
    "publish": "ALTER PUBLICATION notification_publication SET (publish = 'delete')",
    "DROP PUBLICATION": "DROP PUBLICATION notification_publication",
}
"""After which PostgreSQL streams on, and says nothing."""


@pytest.mark.parametrize(
    ("version", "damage"),
    [("wal", "DROP TABLE"), ("wal", "publish"), *(("wal18", damage) for damage in UNNOTICED)],
)
async def test_a_stream_from_which_something_was_taken_is_told_of_once_and_comes_back(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, version: str, damage: str
) -> None:
    wal: WalStream = request.getfixturevalue(version)
    monkeypatch.setattr(wal_module, "CHECK_SECONDS", 0.1)
    with capture_logs() as logs:
        async with streaming(wal.url()) as source, asyncio.timeout(SOON):
            slots = wal.slots()
            for id in (1, 3):
                # when
                with wal.connect() as sql:
                    sql.execute(UNNOTICED[damage].encode())
                await eventually("noticed", lambda: not source.streaming)
                wal.append([id])
                await asyncio.sleep(0.5)
                assert not source.streaming
                # then
                with wal.connect() as sql:
                    [advice] = logs[-1]["advice"]
                    sql.execute(advice.partition(":")[2].strip().removeprefix("Run: ").encode())
                await eventually("mended", lambda: source.streaming)
                wal.append([id + 1])
                assert ids(await take(source, 1)) == [id + 1]
            assert wal.slots() == slots

    assert [event["event"] for event in logs] == ["wal_streaming", *["wal_refused", "wal_streaming"] * 2]
    assert logs[1]["meanwhile"] == "the sweep delivers"


async def test_a_stream_that_begins_without_everything_is_told_of_at_once(wal18: WalStream) -> None:
    with wal18.connect() as sql:
        sql.execute(UNNOTICED["DROP TABLE"].encode())
    source = WalChanges(wal18.url())
    with capture_logs() as logs:
        source.batches()
        await eventually("told", lambda: events(logs, "wal_refused"), within=5)
        assert not source.streaming
        await close_quickly(source)


async def test_a_server_whose_slots_are_in_use_is_told_of_and_streams_when_one_is_free() -> None:
    with running(debian(15), max_replication_slots="1") as server, migrated(server) as database:
        wal = WalStream(server, database)
        with wal.connect() as sql, capture_logs() as logs:
            sql.execute("SELECT pg_create_logical_replication_slot('other', 'pgoutput')")
            source = WalChanges(wal.url())
            source.batches()
            await eventually("told", lambda: events(logs, "wal_refused"))
            sql.execute("SELECT pg_drop_replication_slot('other')")
            await eventually("streaming", lambda: source.streaming)
            await close_quickly(source)

    assert logs[0]["reason"] == "all replication slots are in use\nHINT:  Free one or increase max_replication_slots."
    assert "all 1 of max_replication_slots are in use" in logs[0]["advice"][0]


def without_commit(change: Change) -> tuple[Any, ...]:
    return (change.id, change.recipient_id, change.version, change.inserted_tx, change.tx, change.json, change.read,
            change.hidden)  # fmt: skip

"""Committed changes straight from PostgreSQL's WAL: the ChangeSource of a Rowbell that runs on PostgreSQL alone.

The slot is temporary, and everything received is confirmed at once, so that a gateway that is gone retains no WAL.
Changes committed while there is no slot are not in the stream; replay and sweep read them from the table.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg

from rowbell.backoff import backoff
from rowbell.changes import MAX_BATCH, Batch, DeadRecord
from rowbell.changes.pgoutput import Wanted, lsn
from rowbell.changes.replication import Reading, Replication
from rowbell.changes.requirements import Findings, missing
from rowbell.logs import get_logger
from rowbell.metrics import DISPATCHED_NOBODY
from rowbell.postgres import connect, defaults, shown

log = get_logger("changes.wal")

APPLICATION = "rowbell-wal"
"""Name of the connection in pg_stat_activity and pg_stat_replication."""
PATIENCE_SECONDS = 1.0
"""A slot that takes longer than this to create is logged."""
STEADY_SECONDS = 5.0
"""A connection that lasted this long is retried at once; otherwise the delays grow."""
STALL_SECONDS = 30.0
"""How long a batch may wait to be taken before the stream is given up: a stalled stream retains WAL, and delays
PostgreSQL's shutdown."""
CLOSE_SECONDS = 0.9
"""How long closing a connection may take."""
CHECK_SECONDS = 30.0
"""Interval between checks that the stream is still complete. Each takes a connection and a few milliseconds."""

OPEN_TRANSACTIONS = """
    SELECT coalesce('prepared transaction ' || quote_literal(gid) || ' in the database ' || database,
                    'process ' || pid || coalesce(' of ' || usename, ''), 'unknown')
           || coalesce(', ' || extract(epoch FROM clock_timestamp() - coalesce(prepared, xact_start))::int || ' s', '')
    FROM (SELECT DISTINCT ON (virtualtransaction) virtualtransaction, pid, transactionid
          FROM pg_locks WHERE locktype = 'transactionid' AND granted
          ORDER BY virtualtransaction, age(transactionid) DESC) oldest
    LEFT JOIN pg_stat_activity USING (pid)
    LEFT JOIN pg_prepared_xacts ON transaction = transactionid
    ORDER BY age(transactionid) DESC LIMIT 5
"""
"""The oldest transactions that have an id. From pg_locks, because pg_stat_activity hides the ids of other users'
sessions."""

SLOT_IS_BEING_MADE = """
    SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn IS NULL)
"""
"""False once the slot exists and the answer is on its way, and also if the slot is gone together with its
connection."""


class WalChanges:
    """The ChangeSource that reads PostgreSQL's WAL. Connecting begins with the first `batches()`.

    While PostgreSQL is unavailable or refuses, it retries, and logs that once. At most MAX_BATCH changes are buffered;
    the rest of even the largest transaction stays with PostgreSQL.
    """

    def __init__(self, database_url: str, wanted: Wanted | None = None) -> None:
        """`wanted` returns whether changes for a recipient are wanted; by default all are.

        It is called when a row is read, and a row that it rejects costs a quarter. Its knowledge may lag behind: a row
        that was skipped for a user who is just subscribing arrives by paging or by the sweep.
        """
        self._url = database_url
        self._wanted = wanted
        self._parameters = defaults(database_url, APPLICATION)
        self._task: asyncio.Task[None] | None = None
        self._reading = Reading()
        """What was read and not taken yet; it grows while the consumer is busy, so the consumer takes more at once."""
        self._some = asyncio.Event()
        """Set when something can be taken, or the stream has ended."""
        self._room = asyncio.Event()
        """Set when the buffer has been taken."""
        self._connection: Replication | None = None
        self._streaming = False
        self._lacking: tuple[str, ...] = ()
        """Tracks what an administrator must fix before the current stream is complete."""
        self._closing = False
        self._complaints: set[tuple[str, ...]] = set()
        """Tracks the reasons logged since the stream last ran."""
        self._undecodable: str | None = None
        """Tracks the reason logged last."""

    @property
    def streaming(self) -> bool:
        """Whether a change committed now would arrive through the stream, and soon. If not, the sweep should run more
        often.

        False while there is no slot, while the stream lags (for instance behind a large transaction), and while the
        publication or the login lacks something.
        """
        connection = self._connection
        return self._streaming and not self._lacking and connection is not None and not connection.lags

    def batches(self) -> AsyncIterator[Batch]:
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._run(), name="wal")
            self._task.add_done_callback(self._end)
        return self._batches()

    async def done(self, batch: Batch) -> None:
        """Do nothing: everything received is already confirmed, and the sweep delivers what is lost."""

    async def close(self) -> None:
        """Stop: `batches()` ends, and the slot is dropped. Takes less than a second, whatever the server does."""
        self._closing = True
        self._some.set()
        if self._task is None:
            return
        self._streaming = False
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=CLOSE_SECONDS)
        if self._connection is not None:
            self._connection.finish()

    async def _batches(self) -> AsyncIterator[Batch]:
        while True:
            await self._some.wait()
            if self._closing:
                break
            self._some.clear()
            taken, self._reading = self._reading, Reading()
            self._room.set()
            for record in taken.dead:
                self._tell_of_dead(record)
            yield Batch(taken.changes, taken.dead)
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def _end(self, _: asyncio.Task[None]) -> None:
        self._closing, self._streaming = True, False
        self._some.set()

    # The stream

    async def _run(self) -> None:
        delays = backoff()
        while True:
            begun, problem = time.monotonic(), ""
            try:
                await self._stream()
            except* (psycopg.Error, OSError) as lost:
                problem = str(lost.exceptions[0]).strip() or type(lost.exceptions[0]).__name__
            if self._closing:  # a task group that fails while it is being cancelled raises only the failure
                return
            await self._complain(problem)
            if time.monotonic() - begun > STEADY_SECONDS:
                delays = backoff()
            await asyncio.sleep(next(delays))

    async def _stream(self) -> None:
        """Stream over one connection until it is lost."""
        self._connection = connection = await Replication.connect(self._url, self._parameters, self._wanted)
        try:
            await self._start(connection)
            async with asyncio.TaskGroup() as parts:
                parts.create_task(self._read(connection), name="wal-read")
                parts.create_task(_ask_regularly(connection), name="wal-ask")
                parts.create_task(self._check(connection), name="wal-check")
        finally:
            await connection.abandon()
            self._connection = None

    async def _start(self, connection: Replication) -> None:
        await connection.prepare()
        async with asyncio.TaskGroup() as parts:
            watch = parts.create_task(self._watch_slot(connection), name="wal-slot")
            await connection.create_slot()
            watch.cancel()
        await connection.start()
        self._streaming = True
        self._lacking = ()
        self._complaints.clear()
        self._undecodable = None
        log.info("wal_streaming", slot=connection.slot)

    async def _watch_slot(self, connection: Replication) -> None:
        """Log what the creation of the slot waits for, and check now and then that the server is still creating it.

        If it is not, and no answer arrives, the connection is dead. Raises psycopg.Error then, and when the server
        cannot be asked over another connection.
        """
        await asyncio.sleep(PATIENCE_SECONDS)
        await self._tell_of_waiting()
        waits = True
        while waits:
            waits = await self._is_being_made(connection.slot)
            await asyncio.sleep(connection.answer_seconds)
        raise connection.unanswered()

    async def _is_being_made(self, slot: str) -> bool:
        async with await connect(self._url, self._parameters) as connection:
            [making] = await (await connection.execute(SLOT_IS_BEING_MADE, [slot])).fetchone() or [False]
            return bool(making)

    async def _read(self, connection: Replication) -> None:
        while True:
            try:
                more = connection.read(self._reading)
            finally:  # what was received before the loss is valid
                DISPATCHED_NOBODY.inc(connection.skipped())
                if self._reading.size:
                    self._some.set()
            if more:
                await asyncio.sleep(0)
            else:
                connection.confirm_news()
                await connection.more()
            if self._reading.size >= MAX_BATCH:
                await self._wait_for_room(connection)

    async def _wait_for_room(self, connection: Replication) -> None:
        """Wait until the buffer is taken; nothing is read meanwhile. Raises psycopg.OperationalError after
        STALL_SECONDS.
        """
        self._room.clear()
        try:
            async with asyncio.timeout(STALL_SECONDS):
                await self._room.wait()
        except TimeoutError:
            problem = f"its changes were not taken for {STALL_SECONDS:.0f} s"
            self._lost(problem)
            connection.finish()
            await self._room.wait()
            raise psycopg.OperationalError(problem) from None

    async def _check(self, connection: Replication) -> None:
        """Check regularly that nothing is missing from the stream: it goes on silently if, say, the publication is
        changed.
        """
        while True:
            with suppress(psycopg.Error, OSError):  # not being able to ask proves nothing
                self._judge(connection, tuple((await self._ask()).errors))
            await asyncio.sleep(CHECK_SECONDS)

    def _judge(self, connection: Replication, lacking: tuple[str, ...]) -> None:
        if lacking != self._lacking:
            self._complaints.discard(self._lacking)  # so that it is logged again if it recurs
            if not lacking:
                log.info("wal_streaming", slot=connection.slot)
        if lacking:
            self._say("wal_refused", *lacking, reason="the stream is incomplete", advice=list(lacking))
        self._lacking = lacking

    async def _ask(self) -> Findings:
        """Return what PostgreSQL lacks, asked over a separate connection."""
        async with await connect(self._url, self._parameters) as connection:
            return await missing(connection)

    # Logging

    def _lost(self, problem: str) -> None:
        self._streaming = False
        self._say("wal_lost", "lost", reason=problem)

    async def _complain(self, problem: str) -> None:
        """Log why the stream was lost or could not be started, with advice if an administrator must fix something."""
        if self._streaming:
            self._lost(problem)
            return
        try:
            findings = await self._ask()
        except (psycopg.Error, OSError):
            self._lost(problem)
            return
        if advice := findings.errors + findings.warnings:
            self._say("wal_refused", *advice, reason=problem, advice=advice)
        else:
            self._lost(problem)

    def _say(self, event: str, *reason: str, **fields: object) -> None:
        """Warn once per reason until the stream runs again."""
        if reason not in self._complaints:
            self._complaints.add(reason)
            log.warning(event, server=shown(self._url), **fields, meanwhile="the sweep delivers")

    def _tell_of_dead(self, record: DeadRecord) -> None:
        """Log a reason once while it stays the same: every row of a transaction may have it."""
        if record.reason != self._undecodable:
            self._undecodable = record.reason
            log.error("wal_undecodable", lsn=lsn(record.offset), reason=record.reason)

    async def _tell_of_waiting(self) -> None:
        transactions: list[str] | None = None
        with suppress(psycopg.Error, OSError):
            async with await connect(self._url, self._parameters) as connection:
                transactions = await _open_transactions(connection)
        log.warning("slot_waits", waits_for=transactions, meanwhile="the sweep delivers")


async def _ask_regularly(connection: Replication) -> None:
    """Request replies at regular intervals, even if nothing is received.

    PostgreSQL drops a client that stays silent, and its replies show whether the stream lags.
    """
    with suppress(psycopg.Error):  # reading fails as well, and logs it
        while True:
            await asyncio.sleep(connection.status_seconds)
            connection.ask()


async def _open_transactions(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    rows = await (await connection.execute(OPEN_TRANSACTIONS)).fetchall()
    return [row[0] for row in rows]

"""Committed changes straight from PostgreSQL's log: the ChangeSource of a Rowbell that has nothing but PostgreSQL.

The slot is temporary and everything received is confirmed at once, so that a gateway that is gone holds back no WAL.
What commits while there is no slot is not in the stream: replay and sweep read it from the table.
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
"""What pg_stat_activity and pg_stat_replication call the connection."""
PATIENCE_SECONDS = 1.0
"""A slot that takes longer than this is told of."""
STEADY_SECONDS = 5.0
"""A connection that lasted so long is tried again at once; one that did not, ever later."""
STALL_SECONDS = 30.0
"""How long a batch may wait to be taken before the stream is given up: it holds back WAL, and PostgreSQL's shutdown."""
CLOSE_SECONDS = 0.9
"""How long the end of a connection may take."""
CHECK_SECONDS = 30.0
"""Between two looks at whether the stream still brings everything. Each takes a connection, and a few milliseconds."""

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
"""The oldest of those that have an id. From pg_locks, because pg_stat_activity hides the ids of others' sessions."""

SLOT_IS_BEING_MADE = """
    SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s AND confirmed_flush_lsn IS NULL)
"""
"""No when it stands, and the answer is on its way; and when it is gone with its connection."""


class WalChanges:
    """The ChangeSource that reads PostgreSQL's log. Connecting begins with the first `batches()`.

    While PostgreSQL is away, or refuses, it tries again and says so once. At most MAX_BATCH changes wait to be taken;
    the rest of even the largest transaction stays with PostgreSQL.
    """

    def __init__(self, database_url: str, wanted: Wanted | None = None) -> None:
        """`wanted` says for whom changes are wanted: for everybody, if it is left out.

        It is asked when a row is read, and one that it does not want costs a quarter. It may know less than it will a
        moment later: the row of somebody who is just subscribing, and was skipped, comes by their paging or the sweep.
        """
        self._url = database_url
        self._wanted = wanted
        self._parameters = defaults(database_url, APPLICATION)
        self._task: asyncio.Task[None] | None = None
        self._reading = Reading()
        """What was read and not taken: it grows while the consumer is at work, so that it takes more at once."""
        self._some = asyncio.Event()
        """Set when something can be taken, or nothing will come any more."""
        self._room = asyncio.Event()
        """Set when it has been taken."""
        self._connection: Replication | None = None
        self._streaming = False
        self._lacking: tuple[str, ...] = ()
        """What an administrator must mend before the stream that stands brings everything."""
        self._closing = False
        self._complaints: set[tuple[str, ...]] = set()
        """The reasons that have been logged since the stream last ran."""
        self._undecodable: str | None = None
        """The reason that was logged last."""

    @property
    def streaming(self) -> bool:
        """Does what is committed now come through the stream, and soon? If not, the sweep is to hurry.

        Not while there is no slot, while the stream lags (behind a large transaction, for instance), and while the
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
        """Nothing: what was received is confirmed already, and what is lost the sweep delivers."""

    async def close(self) -> None:
        """Stop: `batches()` ends, the slot is gone. Takes less than a second, whatever the server does."""
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
            if self._closing:  # a group of which a part has failed does not tell that it was cancelled, too
                return
            await self._complain(problem)
            if time.monotonic() - begun > STEADY_SECONDS:
                delays = backoff()
            await asyncio.sleep(next(delays))

    async def _stream(self) -> None:
        """Over one connection, until it is lost."""
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
        """Tell what the slot waits for, and ask now and then whether it still does: if not, and no answer comes, nobody
        is behind the connection. psycopg.Error then, or when the server cannot be asked either.
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
            finally:  # what came before the loss is as good as any
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
        """Meanwhile nothing is read."""
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
        """A stream from which something was taken away goes on without a word: look, now and regularly."""
        while True:
            with suppress(psycopg.Error, OSError):  # that it cannot be asked means nothing
                self._judge(connection, tuple((await self._ask()).errors))
            await asyncio.sleep(CHECK_SECONDS)

    def _judge(self, connection: Replication, lacking: tuple[str, ...]) -> None:
        if lacking != self._lacking:
            self._complaints.discard(self._lacking)  # so that it is told of again when it comes again
            if not lacking:
                log.info("wal_streaming", slot=connection.slot)
        if lacking:
            self._say("wal_refused", *lacking, problem="the stream does not bring everything", advice=list(lacking))
        self._lacking = lacking

    async def _ask(self) -> Findings:
        """What PostgreSQL lacks, over a connection of its own."""
        async with await connect(self._url, self._parameters) as connection:
            return await missing(connection)

    # Telling

    def _lost(self, problem: str) -> None:
        self._streaming = False
        self._say("wal_lost", "lost", problem=problem)

    async def _complain(self, problem: str) -> None:
        """The stream is lost, or did not come about: is that for an administrator to mend?"""
        if self._streaming:
            self._lost(problem)
            return
        try:
            findings = await self._ask()
        except (psycopg.Error, OSError):
            self._lost(problem)
            return
        if advice := findings.errors + findings.warnings:
            self._say("wal_refused", *advice, problem=problem, advice=advice)
        else:
            self._lost(problem)

    def _say(self, event: str, *reason: str, **fields: object) -> None:
        """Warn once per reason until the stream runs again."""
        if reason not in self._complaints:
            self._complaints.add(reason)
            log.warning(event, server=shown(self._url), **fields, meanwhile="the sweep delivers")

    def _tell_of_dead(self, record: DeadRecord) -> None:
        """Each reason once as long as it stays the same: a whole transaction may have it."""
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
    """Whether anything is read or not: PostgreSQL gives up who says nothing, and its answer says whether it lags."""
    with suppress(psycopg.Error):  # reading meets it too, and tells
        while True:
            await asyncio.sleep(connection.status_seconds)
            connection.ask()


async def _open_transactions(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    rows = await (await connection.execute(OPEN_TRANSACTIONS)).fetchall()
    return [row[0] for row in rows]

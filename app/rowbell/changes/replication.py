"""One replication connection to PostgreSQL on an asyncio loop: a temporary slot, the stream, and its confirmation.

psycopg connects; everything after that is libpq's asynchronous interface, called here, because psycopg has none for
the replication protocol.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from rowbell import postgres
from rowbell.changes import MAX_BATCH, DeadRecord
from rowbell.changes.pgoutput import OPTIONS, PUBLICATION, CopyStream, Wanted, payload
from rowbell.errors import UndecodableRecord
from rowbell.notification import Change
from rowbell.postgres import BoundedConnection

TURN_SECONDS = 0.01
"""How long reading may hold the event loop."""
LOOK_SECONDS = 1.0
"""How long a socket is waited for before libpq is asked again."""
STATUS_SECONDS = 1.0
"""Between two status updates at most, also while nothing is read. A third of the server's wal_sender_timeout, if that
is shorter."""
SILENCE_SECONDS = 60.0
"""A server that says nothing for so long, though it was asked, is given up; for its wal_sender_timeout, if that is
longer: decoding a huge transaction of other tables it answers after half of it."""
LAG_SECONDS = 0.3
"""What is received so long after its commit is late; and so is an answer of the server."""
LARGE_SECONDS = 0.05
REST_SECONDS = 0.005
"""A transaction that takes longer than the first to come is read with rests between: the server sends each row by
itself, and waking for each costs both sides more than the row. A change that is not wanted then costs 1.9 µs instead of
5.8, and 200,000 of them pass in 0.9 s instead of 1.6."""
BELIEF_SECONDS = 10.0
"""How long at most the stream is believed to lag, after the last transaction came late."""
CANCEL_SECONDS = 0.5
"""How long the server may take to hear that the slot is not wanted any more."""

TOPIC = "wal"
"""Of dead records; their offset is the position in the log."""
SLOT_PREFIX = "rowbell_"
"""Of the slots' names, so that they can be recognised."""

_PREPARE = (
    # A slot waits for old transactions, however long: the login's own limit is meant for its queries.
    "SET lock_timeout = 0",
    # A server process that waits on a lock does not see its client vanish, and would keep the slot till the lock is
    # had. Where the operating system cannot tell (Windows), this is refused.
    "SET client_connection_check_interval = '2s'",
)

_ASK = f"""
    SELECT (SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'),
           EXISTS (SELECT FROM pg_publication WHERE pubname = '{PUBLICATION}')
"""
"""Milliseconds, 0 for no limit; and is there anything to read?"""

_TLS_READS = 8
"""libpq reads at least 8 KiB at a time. What OpenSSL holds decrypted beyond that does not make the socket readable, so
it is read until 64 KiB gave no whole message, which is more than the largest row."""


@dataclass(slots=True)
class Reading:
    """What was found in the stream and not taken yet."""

    changes: list[Change] = field(default_factory=list)
    dead: list[DeadRecord] = field(default_factory=list)
    size: int = 0
    """The changes and the dead."""


class Replication:
    """One connection: `connect`, `create_slot`, `start`, then `read` and `confirm`; `finish` or `abandon` at the end.

    psycopg.Error when the connection is lost, or the server refuses.
    """

    def __init__(self, connection: BoundedConnection, wanted: Wanted | None) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._stream = CopyStream(wanted)
        self._reads = _TLS_READS if self._pgconn.ssl_in_use else 1
        self._busy = False
        """Is a command under way?"""
        self._heard = time.monotonic()
        """When the server was last heard of; monotonic, as all times here."""
        self._asked = 0.0
        """When it was asked for the keep-alive that is wanted."""
        self._streamed = 0.0
        """When a part of a transaction was last received."""
        self._silence = SILENCE_SECONDS
        self._skipped = 0
        """Tracks how many of the rows that were not wanted `skipped` has told of."""
        self.slot = SLOT_PREFIX + secrets.token_hex(8)
        self.status_seconds = STATUS_SECONDS

    @classmethod
    async def connect(cls, database_url: str, parameters: dict[str, Any], wanted: Wanted | None = None) -> Replication:
        """`wanted` as in `Decoder`."""
        return cls(await postgres.connect(database_url, parameters, replication="database"), wanted)

    @property
    def answer_seconds(self) -> float:
        """How long an answer of the server may take."""
        return self._connection.answer_seconds

    def unanswered(self) -> psycopg.OperationalError:
        """What to say when it takes longer."""
        return psycopg.OperationalError(f"PostgreSQL has not answered for {self.answer_seconds:g} s")

    # Before the stream

    async def prepare(self) -> None:
        """Ask what must be known, and check that there is a publication."""
        for statement in _PREPARE:
            with suppress(psycopg.errors.InvalidParameterValue):
                await self._query(statement)
        timeout, published = await self._query(_ASK)
        if seconds := float(timeout) / 1000:
            self.status_seconds = min(STATUS_SECONDS, seconds / 3)
            self._silence = max(SILENCE_SECONDS, seconds)
        if published != "t":
            raise psycopg.errors.UndefinedObject(f'publication "{PUBLICATION}" does not exist')

    async def create_slot(self) -> None:
        """Waits for every transaction of the cluster that has an id when this begins, a prepared one too.

        However long, and the server says nothing meanwhile: whether it is still there another connection can ask.
        """
        await self._execute(f"CREATE_REPLICATION_SLOT {self.slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')")

    async def start(self) -> None:
        await self._query(f"START_REPLICATION SLOT {self.slot} LOGICAL 0/0 {OPTIONS}")
        self._heard = time.monotonic()

    async def _query(self, statement: str) -> list[str]:
        """As `_execute`, but the server has to answer in time."""
        try:
            async with asyncio.timeout(self.answer_seconds):
                return await self._execute(statement)
        except TimeoutError:
            raise self.unanswered() from None

    async def _execute(self, statement: str) -> list[str]:
        """The first row of the last result, as text. As libpq's simple query, which replication commands must be."""
        self._busy = True
        self._pgconn.send_query(statement.encode())
        row: list[str] = []
        while (result := await self._result()) is not None:
            if result.status == ExecStatus.FATAL_ERROR:
                error = psycopg.errors.error_from_result(result)
                while await self._result() is not None:
                    pass
                self._busy = False
                raise error
            if result.status == ExecStatus.TUPLES_OK:
                values = (result.get_value(0, column) for column in range(result.nfields))
                row = [(value or b"").decode() for value in values]
            if result.status == ExecStatus.COPY_BOTH:
                break
        self._busy = False
        return row

    async def _result(self) -> PGresult | None:
        self._pgconn.flush()
        while self._pgconn.is_busy():
            await self.readable()
            self._pgconn.flush()
            self._pgconn.consume_input()
        return self._pgconn.get_result()

    # The stream

    def read(self, reading: Reading) -> bool:
        """Take what is there, at most MAX_BATCH changes and for TURN_SECONDS. May there be more?"""
        get, clock = self._pgconn.get_copy_data, time.perf_counter
        until = clock() + TURN_SECONDS
        fruitless, received, sent = 0, False, self._stream.sent
        while reading.size < MAX_BATCH and clock() < until:
            size, message = get(1)
            if size > 0:
                self._take(bytes(message), reading)
                fruitless, received = 0, True
            elif size < 0:
                raise self._end()
            elif fruitless < self._reads:
                # Only when all that libpq holds has been taken: it would hold ever more.
                self._pgconn.consume_input()
                fruitless += 1
            else:
                self._listen(received, sent)
                return False
        self._listen(received, sent)
        return True

    async def more(self) -> None:
        """Wait until the server has sent more, or for LOOK_SECONDS."""
        if self._stream.in_transaction and self._stream.lag > LARGE_SECONDS:
            await asyncio.sleep(REST_SECONDS)
        await self.readable()

    async def readable(self) -> None:
        """Wait until the server has sent something, or for LOOK_SECONDS."""
        woken = self._loop.create_future()
        socket = self._pgconn.socket
        self._loop.add_reader(socket, _wake, woken)
        timer = self._loop.call_later(LOOK_SECONDS, _wake, woken)
        try:
            await woken
        finally:
            timer.cancel()
            self._loop.remove_reader(socket)

    def skipped(self) -> int:
        """How many rows were not wanted, since this was last asked."""
        before, self._skipped = self._skipped, self._stream.skipped
        return self._skipped - before

    @property
    def lags(self) -> bool:
        """Does what is committed now come late?

        Two signs, and neither compares our clock with the server's. The last transaction was late when the server sent
        it: then PostgreSQL is behind in decoding, or in the midst of a large transaction, and the longer it was late
        the longer that is believed, unless one comes in time. Or the server does not answer: it is busy with a
        transaction that it will send, or needs not to; or its answer stands behind what we have not read yet.
        """
        now = time.monotonic()
        if self._stream.answer_wanted and now - self._asked > LAG_SECONDS:
            return True
        lag, since = self._stream.lag, now - self._streamed
        if self._stream.in_transaction:
            return lag + since > LAG_SECONDS
        return lag > LAG_SECONDS and since < min(lag, BELIEF_SECONDS)

    def ask(self) -> None:
        """Confirm, and have the server answer."""
        if again := not self._stream.answer_wanted:
            self._asked = time.monotonic()
        self._send_status(ask=again)

    def confirm(self) -> None:
        """Send a status update: everything received is confirmed."""
        self._send_status()

    def confirm_news(self) -> None:
        """Confirm what has been received since, or because the server asks: commits may be made to wait for it.

        Not in the midst of a transaction: what counts is its end.
        """
        news = self._stream.received > self._stream.confirmed and not self._stream.in_transaction
        if news or self._stream.reply_wanted:
            self.confirm()

    def _send_status(self, ask: bool = False) -> None:
        self._pgconn.put_copy_data(self._stream.status(time.time(), ask))
        self._pgconn.flush()

    def _take(self, message: bytes, reading: Reading) -> None:
        try:
            change = self._stream.receive(message)
        except UndecodableRecord as problem:
            position = self._stream.position
            reading.dead.append(DeadRecord(None, payload(message), str(problem), TOPIC, 0, position))
        else:
            if change is None:
                return
            reading.changes.append(change)
        reading.size += 1

    def _listen(self, received: bool, sent: int) -> None:
        """Note when the server was heard of, and give up one that has said nothing for too long.

        `sent`: when it had sent the last part of a transaction, before this was received.
        """
        now = time.monotonic()
        if self._stream.sent != sent:
            self._streamed = now
        if received:
            self._heard = now
        elif now - self._heard > self._silence:
            raise psycopg.OperationalError(f"PostgreSQL has said nothing for {self._silence:.0f} s")

    def _end(self) -> psycopg.Error:
        """Why the server ended the stream."""
        result = self._pgconn.get_result()
        if result is None or result.status != ExecStatus.FATAL_ERROR:
            return psycopg.OperationalError("PostgreSQL ended the stream")
        return psycopg.errors.error_from_result(result)

    # The end

    def finish(self) -> None:
        """Close the connection; the slot goes with it."""
        self._pgconn.finish()

    async def abandon(self) -> None:
        """Close the connection, though the server may be busy with a command: it would not notice before the end."""
        try:
            if self._busy:
                await self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            pass  # then it notices when it next looks, see _PREPARE
        finally:
            self.finish()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

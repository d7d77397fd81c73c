"""One replication connection to PostgreSQL on an asyncio loop: a temporary slot, the stream, and its confirmation.

psycopg connects. Everything after that uses libpq's asynchronous interface directly, because psycopg has none for the
replication protocol.
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
"""How long a read may occupy the event loop."""
LOOK_SECONDS = 1.0
"""How long to wait for the socket before asking libpq again."""
STATUS_SECONDS = 1.0
"""Maximum interval between status updates, even while nothing is received; a third of the server's wal_sender_timeout,
if that is shorter."""
SILENCE_SECONDS = 60.0
"""A server that stays silent for this long although it was asked to reply is given up; or for its wal_sender_timeout,
if that is longer: while it decodes a huge transaction of other tables, it replies after half of that."""
LAG_SECONDS = 0.3
"""A change sent this long after its commit is late, and so is a reply of the server after this time."""
LARGE_SECONDS = 0.05
REST_SECONDS = 0.005
"""A transaction that is still arriving LARGE_SECONDS after its commit is read with pauses of REST_SECONDS: the server
sends each row separately, and waking up for each costs both sides more than the row. A skipped row then costs 1.9 µs
instead of 5.8, and 200,000 of them pass in 0.9 s instead of 1.6."""
BELIEF_SECONDS = 10.0
"""Maximum time for which the stream is considered to lag after the last transaction came late."""
CANCEL_SECONDS = 0.5
"""How long the request to cancel a command may take."""

TOPIC = "wal"
"""Topic of dead records; their offset is the WAL position."""
SLOT_PREFIX = "rowbell_"
"""Prefix of slot names, by which they can be recognized."""

_PREPARE = (
    # Creating a slot waits for old transactions, however long they take: the login's own limit is meant for queries.
    "SET lock_timeout = 0",
    # A server process that waits for a lock does not notice that its client is gone, and would keep the slot until it
    # gets the lock. Refused where the operating system cannot check the connection (Windows).
    "SET client_connection_check_interval = '2s'",
)

_ASK = f"""
    SELECT (SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'),
           EXISTS (SELECT FROM pg_publication WHERE pubname = '{PUBLICATION}')
"""
"""wal_sender_timeout in milliseconds (0 for no limit), and whether the publication exists."""

_TLS_READS = 8
"""libpq reads at least 8 KiB at a time. Data that OpenSSL has already decrypted does not make the socket readable, so
reading stops only when 64 KiB, more than the largest row, contained no complete message."""


@dataclass(slots=True)
class Reading:
    """What was read from the stream and not taken yet."""

    changes: list[Change] = field(default_factory=list)
    dead: list[DeadRecord] = field(default_factory=list)
    size: int = 0
    """Number of changes and dead records."""


class Replication:
    """One connection: `connect`, `prepare`, `create_slot`, `start`, then `read` and `confirm`; finally `finish` or
    `abandon`.

    Methods raise psycopg.Error if the connection is lost or the server refuses.
    """

    def __init__(self, connection: BoundedConnection, wanted: Wanted | None) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._loop = asyncio.get_running_loop()
        self._stream = CopyStream(wanted)
        self._reads = _TLS_READS if self._pgconn.ssl_in_use else 1
        self._busy = False
        """Tracks whether a command is in progress."""
        self._heard = time.monotonic()
        """Tracks when the server last sent anything; by the monotonic clock, like all times here."""
        self._asked = 0.0
        """Tracks when the pending keep-alive was requested."""
        self._streamed = 0.0
        """Tracks when a part of a transaction was last received."""
        self._silence = SILENCE_SECONDS
        self._skipped = 0
        """Tracks how many skipped rows `skipped` has reported."""
        self.slot = SLOT_PREFIX + secrets.token_hex(8)
        self.status_seconds = STATUS_SECONDS

    @classmethod
    async def connect(cls, database_url: str, parameters: dict[str, Any], wanted: Wanted | None = None) -> Replication:
        """Connect to the server; `wanted` as in `Decoder`."""
        return cls(await postgres.connect(database_url, parameters, replication="database"), wanted)

    @property
    def answer_seconds(self) -> float:
        """Seconds that the server may take to answer."""
        return self._connection.answer_seconds

    def unanswered(self) -> psycopg.OperationalError:
        """Return the error for a server that takes longer than that."""
        return psycopg.OperationalError(f"PostgreSQL has not answered for {self.answer_seconds:g} s")

    # Before the stream

    async def prepare(self) -> None:
        """Configure the session, and check that the publication exists."""
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
        """Create the temporary slot; waits for every transaction of the cluster that has an id when this begins,
        prepared ones included.

        That can take any time, during which the server sends nothing: whether it is still alive must be checked over
        another connection.
        """
        await self._execute(f"CREATE_REPLICATION_SLOT {self.slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')")

    async def start(self) -> None:
        """Start streaming from the slot."""
        await self._query(f"START_REPLICATION SLOT {self.slot} LOGICAL 0/0 {OPTIONS}")
        self._heard = time.monotonic()

    async def _query(self, statement: str) -> list[str]:
        """Like `_execute`, but the server must answer within `answer_seconds`."""
        try:
            async with asyncio.timeout(self.answer_seconds):
                return await self._execute(statement)
        except TimeoutError:
            raise self.unanswered() from None

    async def _execute(self, statement: str) -> list[str]:
        """Execute with libpq's simple query protocol, which replication commands require. Return the first row of the
        last result, as text.
        """
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
        """Take what is available, at most MAX_BATCH changes and for TURN_SECONDS. Return whether there may be more."""
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
                # Only when libpq's buffer has been drained: it would grow without limit.
                self._pgconn.consume_input()
                fruitless += 1
            else:
                self._listen(received, sent)
                return False
        self._listen(received, sent)
        return True

    async def more(self) -> None:
        """Wait until the server has sent more, or for LOOK_SECONDS. Pauses first during a large transaction."""
        if self._stream.in_transaction and self._stream.lag > LARGE_SECONDS:
            await asyncio.sleep(REST_SECONDS)
        await self.readable()

    async def readable(self) -> None:
        """Wait until the socket is readable, or for LOOK_SECONDS."""
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
        """Return how many rows were skipped since the last call."""
        before, self._skipped = self._skipped, self._stream.skipped
        return self._skipped - before

    @property
    def lags(self) -> bool:
        """Whether a change committed now would arrive late.

        There are two signs, and neither compares our clock with the server's. Either the last transaction was late when
        the server sent it: then PostgreSQL is behind in decoding, or in the middle of a large transaction. The later it
        was, the longer the lag is assumed to last, unless a transaction arrives in time. Or the server does not reply:
        then it is busy with a transaction that it may or may not have to send, or its reply is queued behind data that
        we have not read yet.
        """
        now = time.monotonic()
        if self._stream.answer_wanted and now - self._asked > LAG_SECONDS:
            return True
        lag, since = self._stream.lag, now - self._streamed
        if self._stream.in_transaction:
            return lag + since > LAG_SECONDS
        return lag > LAG_SECONDS and since < min(lag, BELIEF_SECONDS)

    def ask(self) -> None:
        """Send a status update that requests a reply."""
        if again := not self._stream.answer_wanted:
            self._asked = time.monotonic()
        self._send_status(ask=again)

    def confirm(self) -> None:
        """Send a status update that confirms everything received."""
        self._send_status()

    def confirm_news(self) -> None:
        """Confirm if something new was received or the server asks for it: commits may be configured to wait for that.

        Not in the middle of a transaction, since only its end counts.
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
        """Record that data was received, or raise psycopg.OperationalError if the server has been silent for too long.

        `sent` is when the server had sent the last part of a transaction, before this read.
        """
        now = time.monotonic()
        if self._stream.sent != sent:
            self._streamed = now
        if received:
            self._heard = now
        elif now - self._heard > self._silence:
            raise psycopg.OperationalError(f"PostgreSQL has said nothing for {self._silence:.0f} s")

    def _end(self) -> psycopg.Error:
        """Return why the server ended the stream."""
        result = self._pgconn.get_result()
        if result is None or result.status != ExecStatus.FATAL_ERROR:
            return psycopg.OperationalError("PostgreSQL ended the stream")
        return psycopg.errors.error_from_result(result)

    # The end

    def finish(self) -> None:
        """Close the connection; the temporary slot goes with it."""
        self._pgconn.finish()

    async def abandon(self) -> None:
        """Close the connection, even if the server is executing a command, during which it would not notice."""
        try:
            if self._busy:
                await self._connection.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            pass  # then the server notices at its next check, see _PREPARE
        finally:
            self.finish()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)

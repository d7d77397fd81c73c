"""Clients that do nothing wrong, and must not notice anything; and the applications that write rows."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from random import Random

import psycopg

from tests.fuzz import tokens
from tests.integration.rows import Database, insert, unread
from tests.integration.subscriber import Subscriber, assert_nothing_twice

WITHIN = 20.0
"""Seconds in which a row must have come: the sweep takes four, and the machine is busy."""
EVERY = 1.0
"""Seconds between the rows of the control."""
BATCH = 10
"""Rows of the control that are unread together."""
NEWEST = b" WHERE id = (SELECT max(id) FROM notification WHERE recipient_id = %s)"
KEPT = 100
"""Rows of each fuzzed user that are left when they are trimmed: each subscription begins with them."""


class Control:
    """Somebody with a device at each gateway who gets a row a second, acknowledges it and reads it."""

    USER = "control"

    def __init__(self, urls: Sequence[str], database_url: str) -> None:
        token = tokens.good(self.USER)
        self.devices = [Subscriber(url, token, "client-individual", reconnect=False, badge=True) for url in urls]
        self._database_url = database_url
        self._unread: list[int] = []
        self.rows = 0

    async def run(self) -> None:
        """Until cancelled. AssertionError if anything is missed, comes twice, or a device is disconnected."""
        async with await psycopg.AsyncConnection.connect(self._database_url, autocommit=True) as database:
            while True:
                await asyncio.sleep(EVERY)
                await self._one_row(database)
                if len(self._unread) == BATCH:
                    await self._read(database)
                for device in self.devices:
                    assert_nothing_twice(device)

    async def _one_row(self, database: Database) -> None:
        self._unread.append(await insert(database, self.USER, f"row {self.rows}"))
        self.rows += 1
        for device in self.devices:
            self._check_connected(device)
            await device.until(lambda device=device: self._unread[-1] in device.seen, f"row {self._unread[-1]}", WITHIN)
            await device.until_unread(len(self._unread), WITHIN)
        assert self._unread == await unread(database, self.USER)

    async def _read(self, database: Database) -> None:
        """All of them, on one device; the other one sees it."""
        await self.devices[0].read(*self._unread)
        assert await unread(database, self.USER) == []
        self._unread = []
        for device in self.devices:
            await device.until_unread(0, WITHIN)
            # The number is asked of the table, and may be here before the changes.
            last = device.subscriptions[-1]
            await device.until(lambda last=last: len(last.ids("updated")) >= self.rows, "what was read", WITHIN)
            assert all(len(last.ids(event)) == self.rows for event in ("created", "updated")), last.ids()[-30:]

    def _check_connected(self, device: Subscriber) -> None:
        closed = device.subscriptions[-1].closed
        assert (closed, device.errors) == (None, []), "the control was disconnected"


async def visit(url: str, database: Database, user: str) -> None:
    """A session of somebody else: what is there is replayed, what is written comes. AssertionError if not."""
    token = tokens.good(user)
    before = await insert(database, user, "before")
    async with Subscriber(url, token, "client-individual", reconnect=False, badge=True) as visitor:
        live = await insert(database, user, "live")
        await visitor.until(lambda: {before, live} <= visitor.seen, "the visitor's rows", WITHIN)
        await visitor.until_unread(2, WITHIN)
        await visitor.read()
        await visitor.until_unread(0, WITHIN)
        assert_nothing_twice(visitor)
    assert await unread(database, user) == []


async def write(r: Random, database: Database, seconds: float) -> None:
    """Rows for the users of the attacks, and for topics: new ones, changed ones, deleted ones."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    for number in itertools.count():
        if loop.time() > until:
            return
        recipient = r.choice([*tokens.USERS, "topic:news.sport", "topic:status"])
        kind = r.random()
        if kind < 0.6:
            body = r.choice([None, "b" * r.choice([10, 2000, 8000]), "é\n\\:😀\u2028" * 50])
            await insert(database, recipient, f"row {number}", body=body)
        elif kind < 0.8:
            change = r.choice([b"title = title || '.'", b"read_at = now()", b"read_at = NULL"])
            await database.execute(
                b"UPDATE notification SET " + change + NEWEST,
                [recipient],
            )
        elif kind < 0.98:
            await database.execute(
                "DELETE FROM notification WHERE id = (SELECT min(id) FROM notification WHERE recipient_id = %s)",
                [recipient],
            )
        else:
            await database.execute(
                "INSERT INTO notification (recipient_id, title) SELECT %s, 'of many' FROM generate_series(1, 300)",
                [recipient],
            )
        await asyncio.sleep(0.05)


async def trim(database: Database) -> None:
    """Forget all but the newest rows of the attacks' users, so that no round has more to do than another."""
    await database.execute(
        "DELETE FROM notification n USING (SELECT id, row_number() OVER (PARTITION BY recipient_id ORDER BY id DESC) "
        f"AS place FROM notification WHERE recipient_id <> 'control') old WHERE n.id = old.id AND old.place > {KEPT}"
    )

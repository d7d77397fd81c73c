"""The same writes, read from Debezium's topic and from PostgreSQL's log, are the same changes."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable

import psycopg
import pytest

from rowbell.changes import ChangeSource
from rowbell.changes.kafka import KafkaChanges
from rowbell.changes.wal import WalChanges
from rowbell.notification import Change
from stack import Stack
from tests.integration.processes import eventually

SOON = 60.0

LONG = "(SELECT left(string_agg(md5(i::text), ''), 16000) FROM generate_series(1, 500) i)"
"""Does not compress, so it is stored apart from its row."""

WRITES = [
    # What needs escaping, and what does not.
    """INSERT INTO notification (recipient_id, title, type, body, data, actor_id) VALUES
       ('alice', 'New comment', 'COMMENT', 'Bob: "hi" \\ / ünïcödé', '{"postId": "p-100"}', 'user-123'),
       ('bob', E'tab\\tand\\nlines\\r', 'A.b-c_1', '', '{}', ''),
       ('alice', '漢字 😀 é ÿ \u2028', 'GENERIC', NULL, '{"😀": "\\u00e9\\ud83d\\ude00", "": null}', NULL)""",
    # jsonb as PostgreSQL prints it.
    """INSERT INTO notification (recipient_id, title, data) SELECT 'alice', 'json', data::jsonb FROM (VALUES
       ('{"b": 1, "a": 2, "b": 3}'), ('{"n": 1.50, "e": 1e400, "m": -0.0, "i": 12345678901234567890}'),
       ('{"deep": [[[[[[{"x": [true, false, null]}]]]]]]}'),
       ('{"s": "\\"\\\\\\/\\b\\f\\n\\r\\t</script>"}')) texts (data)""",
    # Times: odd microseconds, and the first and the last that there are.
    """INSERT INTO notification (recipient_id, title, created_at, expires_at) VALUES
       ('bob', 'odd', '2026-11-22 09:14:00.791999+00', '2026-11-22 10:14:00.000001+01'),
       ('bob', 'even', '2026-11-22 09:14:00+00', '2026-11-22 09:14:00.1+00'),
       ('bob', 'ends', '1970-01-01 00:00:00.000999+00', '9999-12-31 23:59:59.999999+00')""",
    # Another channel.
    "INSERT INTO notification (recipient_id, title, channel) VALUES ('alice', 'mail', 'EMAIL')",
    "UPDATE notification SET channel = 'SMS' WHERE recipient_id = 'alice' AND id % 3 = 0",
    "UPDATE notification SET channel = 'IN_APP' WHERE channel = 'SMS' AND recipient_id IN ('alice', 'bob')",
    # Read, and not.
    "UPDATE notification SET read_at = '2026-11-22 09:15:00.000001+00' WHERE recipient_id IN ('alice', 'bob')",
    "UPDATE notification SET read_at = NULL WHERE recipient_id = 'bob'",
    # Columns that are stored apart, changed and left alone.
    f"INSERT INTO notification (recipient_id, title, body) VALUES ('bob', 'long', {LONG}), ('bob', 'gone', {LONG})",
    "UPDATE notification SET read_at = now() WHERE recipient_id = 'bob' AND length(body) > 10000",
    "UPDATE notification SET channel = 'EMAIL' WHERE recipient_id = 'bob' AND title = 'gone'",
    "UPDATE notification SET body = 'short' WHERE recipient_id = 'bob' AND title = 'long'",
    f"""INSERT INTO notification (recipient_id, title, data)
        SELECT 'alice', 'large', jsonb_build_object('long', {LONG}, 'more', left({LONG}, 8000))""",
    "UPDATE notification SET title = 'larger' WHERE recipient_id = 'alice' AND title = 'large'",
    # Several rows, kinds of writes and recipients in one transaction; savepoints, kept and rolled back.
    """BEGIN;
       INSERT INTO notification (recipient_id, title) SELECT 'alice', 'row ' || i FROM generate_series(1, 20) i;
       SAVEPOINT a;
       UPDATE notification SET title = title || '!' WHERE recipient_id = 'alice' AND title LIKE 'row %';
       SAVEPOINT b;
       DELETE FROM notification WHERE recipient_id = 'alice';
       ROLLBACK TO b;
       DELETE FROM notification WHERE recipient_id = 'alice' AND title LIKE 'row 1%';
       INSERT INTO notification (recipient_id, title) VALUES ('bob', 'inside');
       RELEASE a;
       UPDATE notification SET read_at = now() WHERE recipient_id IN ('alice', 'bob');
       COMMIT""",
    "BEGIN; INSERT INTO notification (recipient_id, title) VALUES ('alice', 'never'); ROLLBACK",
    "DELETE FROM notification WHERE recipient_id = 'bob'",
    "INSERT INTO notification (recipient_id, title) VALUES ('alice', 'the last'), ('bob', 'the last')",
]


@pytest.fixture
def names(user: Callable[[str], str]) -> dict[str, str]:
    return {name: user(name) for name in ("alice", "bob")}


def write(url: str, names: dict[str, str]) -> None:
    with psycopg.connect(url, autocommit=True) as sql:
        for statement in WRITES:
            for name, unique in names.items():
                statement = statement.replace(f"'{name}'", f"'{unique}'")
            sql.execute(statement.encode())


async def read(source: ChangeSource, recipients: Iterable[str]) -> dict[str, list[Change]]:
    """The changes of each recipient, until the last of each has come."""
    found: dict[str, list[Change]] = defaultdict(list)
    waited_for = set(recipients)
    async for batch in source.batches():
        assert batch.dead == []
        for change in batch.changes:
            if change.recipient_id in recipients:
                found[change.recipient_id].append(change)
                if "the last" in (change.json or ""):
                    waited_for.discard(change.recipient_id)
        await source.done(batch)
        if not waited_for:
            return found
    raise AssertionError("the source ended")


async def test_the_log_gives_what_debezium_gives(stack: Stack, names: dict[str, str]) -> None:
    env = stack.settings_env
    kafka = KafkaChanges(
        env["ROWBELL_KAFKA_BOOTSTRAP_SERVERS"], "rowbell.public.notification", f"test-{uuid.uuid4().hex}"
    )
    wal = WalChanges(stack.database_url("postgres"))
    try:
        async with asyncio.timeout(SOON):
            # given
            wal.batches()
            await eventually("streaming", lambda: wal.streaming)
            # when
            await asyncio.to_thread(write, stack.database_url("rowbell"), names)
            # then
            expected, found = await asyncio.gather(read(kafka, names.values()), read(wal, names.values()))
    finally:
        await asyncio.gather(kafka.close(), wal.close())

    for name in names.values():
        for one, other in zip(found[name], expected[name], strict=True):
            assert one == other
    kinds = [change for changes in found.values() for change in changes]
    assert {change.incomplete for change in kinds} == {change.hidden for change in kinds} == {True, False}
    assert sum(change.deleted for change in kinds) > 10

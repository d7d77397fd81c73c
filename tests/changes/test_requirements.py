"""Each thing that may be missing is found on a real server, and what is advised mends it."""

from __future__ import annotations

import asyncio
import re
import select
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import alembic.command
import pytest
from psycopg.conninfo import make_conninfo

from rowbell.changes.requirements import RIGHTS, Findings, check_requirements
from rowbell.errors import DatabaseError, DatabaseUnavailable, SettingsError
from rowbell.inbox import Given, Inbox
from rowbell.inbox.schema import alembic_config, connected, migrate
from rowbell.snapshot import EMPTY
from tests.changes.streams import WalStream
from tests.postgres_server import PostgresServer, debian, migrated, running

PUBLICATION = "notification_publication"
FINE = Findings()
WISHES = [(table, right) for table, rights in RIGHTS.items() for right in rights]


def run_advice(wal: WalStream, advice: str) -> None:
    """The SQL in it: all that stands behind the colon, but what is in parentheses behind that."""
    statements = re.search(r":\s((?:(?:ALTER|CREATE|GRANT) .*?; ?)+)(?:\(On |$)", advice)
    assert statements is not None, advice
    with wal.connect() as sql:
        sql.execute(statements[1].encode())


@contextmanager
def login(wal: WalStream, name: str, options: str = "") -> Iterator[str]:
    """A new login; the value is its URL."""
    with wal.connect() as sql:
        sql.execute(f'CREATE ROLE "{name}" LOGIN {options}'.encode())
        try:
            yield wal.url(name)
        finally:
            sql.execute(f'DROP OWNED BY "{name}"'.encode())
            sql.execute(f'DROP ROLE "{name}"'.encode())


def test_a_superuser_of_a_migrated_database_lacks_nothing(either_wal: WalStream) -> None:
    assert check_requirements(either_wal.url()) == FINE


def test_a_gateway_s_login_with_replication_lacks_nothing(either_wal: WalStream) -> None:
    with login(either_wal, "fine", "REPLICATION IN ROLE rowbell_gateway") as url:
        assert check_requirements(url) == FINE


def test_a_login_without_replication(either_wal: WalStream) -> None:
    with login(either_wal, "Quoted", "IN ROLE rowbell_gateway") as url:
        [error] = check_requirements(url).errors

        assert 'ALTER ROLE "Quoted" REPLICATION;' in error
        assert 'On Amazon RDS: GRANT rds_replication TO "Quoted";' in error
        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def test_a_login_without_rights_on_the_tables(either_wal: WalStream) -> None:
    with login(either_wal, "stranger", "REPLICATION") as url:
        [error] = check_requirements(url).errors

        assert error.endswith("Run: GRANT rowbell_gateway TO stranger;")
        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def newest(wal: WalStream) -> bool:
    """Is it a PostgreSQL where whether a member has a role's rights is said by each GRANT?"""
    with wal.connect() as sql:
        return sql.info.server_version >= 160000


def test_a_member_that_does_not_inherit_is_told_to_and_not_to_become_a_member(either_wal: WalStream) -> None:
    with login(either_wal, "heir", "REPLICATION NOINHERIT IN ROLE rowbell_gateway") as url:
        [error] = check_requirements(url).errors

        newer = "GRANT rowbell_gateway TO heir WITH INHERIT TRUE;"
        assert error.endswith("Run: " + (newer if newest(either_wal) else "ALTER ROLE heir INHERIT;"))
        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def test_a_stranger_that_would_not_inherit_is_told_to_do_that_too(either_wal: WalStream) -> None:
    with login(either_wal, "stranger", "REPLICATION NOINHERIT") as url:
        [error] = check_requirements(url).errors

        assert ("ALTER ROLE stranger INHERIT;" in error) != newest(either_wal)
        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def test_a_member_of_a_member_that_does_not_inherit(either_wal: WalStream) -> None:
    with (
        login(either_wal, "team", "NOINHERIT IN ROLE rowbell_gateway"),
        login(either_wal, "one", "REPLICATION IN ROLE team") as url,
    ):
        [error] = check_requirements(url).errors

        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def test_rights_that_the_role_itself_has_lost_are_named(either_wal: WalStream) -> None:
    with login(either_wal, "poor", "REPLICATION IN ROLE rowbell_gateway") as url:
        with either_wal.connect() as sql:
            sql.execute("REVOKE SELECT ON notification_deleted FROM rowbell_gateway")
            sql.execute("REVOKE UPDATE (read_at) ON notification FROM rowbell_gateway")

        [error] = check_requirements(url).errors

        assert "GRANT SELECT ON notification_deleted TO rowbell_gateway;" in error
        assert "GRANT UPDATE (read_at) ON notification TO rowbell_gateway;" in error
        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


@pytest.mark.parametrize(("table", "right"), WISHES)
def test_each_right_that_the_role_has_lost_is_named_and_mended(wal: WalStream, table: str, right: str) -> None:
    with login(wal, "poor", "REPLICATION IN ROLE rowbell_gateway") as url:
        with wal.connect() as sql:
            sql.execute(f"REVOKE {right} ON {table} FROM rowbell_gateway".encode())

        [error] = check_requirements(url).errors

        assert error.endswith(f"Run: GRANT {right} ON {table} TO rowbell_gateway;")
        run_advice(wal, error)
        assert check_requirements(url) == FINE


async def all_of_a_gateways_sql(url: str) -> None:
    inbox = Inbox.connect(url)
    try:
        epoch = await inbox.new_epoch()
        tick = await inbox.tick(None, list)
        await inbox.tick(tick.snapshot, lambda: ["alice"])
        await inbox.take_pass([("alice", EMPTY), ("alice", tick.snapshot)])
        await inbox.rows([1])
        await inbox.count_unread(["alice"])
        await inbox.expired(datetime.now(UTC), ["alice"])
        await inbox.mark_ids("alice", [1], [1], epoch)
        await inbox.mark_given("alice", Given(epoch, EMPTY, EMPTY, 0, {1: (1, 1)}, []))
        await inbox.record_deliveries([(1, "alice")])
    finally:
        await inbox.close()


async def test_the_rights_that_are_asked_for_are_those_that_a_gateway_uses(wal: WalStream) -> None:
    grants = [f"{right} ON {table}" for table, right in WISHES]
    with login(wal, "lean", "REPLICATION") as url, wal.connect() as sql:
        for grant in grants:
            sql.execute(f"GRANT {grant} TO lean".encode())

        # none is lacking
        assert await asyncio.to_thread(check_requirements, url) == FINE
        await all_of_a_gateways_sql(url)
        # and none is idle
        for grant in grants:
            sql.execute(f"REVOKE {grant} FROM lean".encode())
            sql.execute("TRUNCATE rowbell_epoch")
            with pytest.raises(DatabaseError, match="permission denied"):  # otherwise it does without this one
                await all_of_a_gateways_sql(url)
            sql.execute(f"GRANT {grant} TO lean".encode())


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        ("REVOKE USAGE ON SCHEMA public FROM PUBLIC", "GRANT USAGE ON SCHEMA public TO locked;"),
        (
            "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
            "GRANT EXECUTE ON FUNCTION pg_control_system() TO locked;",
        ),
    ],
)
def test_what_everybody_may_at_first_and_is_revoked_here(either_wal: WalStream, damage: str, advice: str) -> None:
    with login(either_wal, "locked", "REPLICATION IN ROLE rowbell_gateway") as url:
        with either_wal.connect() as sql:
            sql.execute(damage.encode())

        [error] = check_requirements(url).errors

        assert error.endswith(advice)
        run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def test_everything_that_a_stranger_lacks_is_told_at_once(either_wal: WalStream) -> None:
    with login(either_wal, "locked") as url:
        with either_wal.connect() as sql:
            sql.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
            sql.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")

        errors = check_requirements(url).errors

        assert len(errors) == 4
        for error in errors:
            run_advice(either_wal, error)
        assert check_requirements(url) == FINE


def test_a_server_that_refuses_to_be_asked_is_an_error_without_a_traceback(wal: WalStream) -> None:
    with login(wal, "locked", "REPLICATION IN ROLE rowbell_gateway") as url:
        with wal.connect() as sql:
            sql.execute("REVOKE SELECT ON pg_publication FROM PUBLIC")

        with pytest.raises(DatabaseError, match="refuses the check of its requirements: permission denied"):
            check_requirements(url)


def test_a_database_without_tables(postgres: PostgresServer) -> None:
    with postgres.database() as empty:
        [error] = check_requirements(postgres.url(empty)).errors

    assert error.endswith("run: rowbell migrate")


def test_a_database_of_an_older_version_lacks_what_came_since(postgres: PostgresServer) -> None:
    with postgres.database() as older:
        url = postgres.url(older)
        with connected(url) as connection:
            alembic.command.upgrade(alembic_config(connection), "0001")

        [error] = check_requirements(url).errors

        assert "notification_revocation" in error
        assert error.endswith("run: rowbell migrate")
        migrate(url)
        assert check_requirements(url) == FINE


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (f"DROP PUBLICATION {PUBLICATION}", "is missing"),
        (f"ALTER PUBLICATION {PUBLICATION} DROP TABLE notification", "lacks the table notification"),
        (
            f"ALTER PUBLICATION {PUBLICATION} SET TABLE notification (id, recipient_id, data), rowbell_heartbeat",
            "lacks the columns version, inserted_tx",
        ),
        (
            f"ALTER PUBLICATION {PUBLICATION} SET TABLE notification WHERE (id > 7), rowbell_heartbeat",
            "lacks rows: it has a filter",
        ),
        (f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert, update')", "leaves out some kinds of writes"),
        ("ALTER TABLE notification REPLICA IDENTITY DEFAULT", "a DELETE does not carry the recipient"),
        ("ALTER TABLE notification REPLICA IDENTITY FULL", "every UPDATE and DELETE fails"),
        ("ALTER TABLE notification DISABLE TRIGGER notification_stamp", "notification_stamp is disabled"),
        ("ALTER TABLE notification DISABLE TRIGGER ALL", "notification_stamp is disabled"),
        (
            "ALTER TABLE notification ENABLE REPLICA TRIGGER notification_tombstone",
            "notification_tombstone is disabled",
        ),
        ("DROP TRIGGER notification_stamp ON notification", "notification_stamp is missing"),
        ("DROP TRIGGER notification_tombstone ON notification", "notification_tombstone is missing"),
    ],
)
def test_what_is_not_as_it_was_made_is_found_and_mended(either_wal: WalStream, damage: str, what: str) -> None:
    with either_wal.connect() as sql:
        sql.execute(damage.encode())

    first, *others = check_requirements(either_wal.url()).errors

    assert what in first
    for error in (first, *others):
        run_advice(either_wal, error)
    assert check_requirements(either_wal.url()) == FINE
    with either_wal.connect() as sql:
        sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
        written = sql.execute("UPDATE notification SET read_at = now() RETURNING version, changed_tx > 0")
        assert written.fetchall() == [(2, True)]
        sql.execute("DELETE FROM notification")
        assert sql.execute("SELECT count(*) FROM notification_deleted").fetchone() == (1,)


@pytest.mark.parametrize("also", ["", "TABLE notification WHERE (id > 7), "])
def test_a_publication_of_another_schema_keeps_it(either_wal: WalStream, also: str) -> None:
    with either_wal.connect() as sql:
        sql.execute("CREATE SCHEMA other")
        sql.execute(f"DROP PUBLICATION {PUBLICATION}".encode())
        sql.execute(f"CREATE PUBLICATION {PUBLICATION} FOR {also}TABLES IN SCHEMA other".encode())

    [error] = check_requirements(either_wal.url()).errors

    run_advice(either_wal, error)
    assert check_requirements(either_wal.url()) == FINE
    with either_wal.connect() as sql:
        schemas = sql.execute("SELECT pnnspid::regnamespace::text FROM pg_publication_namespace").fetchall()
    assert schemas == [("other",)]


def test_a_publication_of_all_tables_is_whole(either_wal: WalStream) -> None:
    with either_wal.connect() as sql:
        sql.execute(f"DROP PUBLICATION {PUBLICATION}".encode())
        sql.execute(f"CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES".encode())

    assert check_requirements(either_wal.url()) == FINE


def test_a_replica_identity_of_whole_rows_carries_the_recipient_if_all_columns_are_published(
    either_wal: WalStream,
) -> None:
    with either_wal.connect() as sql:
        sql.execute(f"ALTER PUBLICATION {PUBLICATION} SET TABLE notification, rowbell_heartbeat".encode())
        sql.execute("ALTER TABLE notification REPLICA IDENTITY FULL")

    assert check_requirements(either_wal.url()) == FINE


def test_a_server_that_allows_no_logical_replication() -> None:
    with running(debian(15), max_replication_slots="0", max_wal_senders="0") as server, migrated(server) as database:
        server.stop()
        server.start(wal_level="minimal", max_replication_slots="0", max_wal_senders="0")

        findings = check_requirements(server.url(database))

    assert findings.warnings == []
    level, slots, senders = findings.errors
    assert "ALTER SYSTEM SET wal_level = 'logical'; then restart" in level
    assert slots.startswith("max_replication_slots is 0")
    assert "ALTER SYSTEM SET max_replication_slots = 10; then restart" in slots
    assert "ALTER SYSTEM SET max_wal_senders = 10; then restart" in senders


def test_slots_in_use_are_a_warning() -> None:
    with (
        running(debian(15), max_replication_slots="1") as server,
        migrated(server) as database,
        server.connect(database) as sql,
    ):
        sql.execute("SELECT pg_create_logical_replication_slot('other', 'pgoutput')")

        findings = check_requirements(server.url(database))

        sql.execute("SELECT pg_drop_replication_slot('other')")

    assert findings.errors == []
    [warning] = findings.warnings
    assert warning.startswith("all 1 of max_replication_slots are in use")
    assert "become free within wal_sender_timeout" in warning


class Pooler(socketserver.ThreadingTCPServer):
    """In front of a server: it takes ordinary connections, and refuses others as PgBouncer did before 1.23."""

    REFUSAL = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: replication\0\0"

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Link)
        self.target = port


class _Link(socketserver.BaseRequestHandler):
    server: Pooler

    def handle(self) -> None:
        startup = self.request.recv(65536)
        if b"\0replication\0" in startup:
            self.request.sendall(b"E" + struct.pack("!I", len(Pooler.REFUSAL) + 4) + Pooler.REFUSAL)
            return
        with socket.create_connection(("127.0.0.1", self.server.target)) as behind:
            behind.sendall(startup)
            ends = {self.request: behind, behind: self.request}
            while True:
                for readable in select.select(ends, [], [])[0]:
                    if not (data := readable.recv(65536)):
                        return
                    ends[readable].sendall(data)


def test_a_pooler_that_refuses_replication(wal: WalStream) -> None:
    with Pooler(wal.server.port) as pooler:
        threading.Thread(target=pooler.serve_forever, daemon=True).start()
        url = make_conninfo(wal.url(), port=pooler.server_address[1], sslmode="disable", gssencmode="disable")

        [error] = check_requirements(url).errors

        pooler.shutdown()
    assert "unsupported startup parameter: replication" in error
    assert "name the server itself in ROWBELL_DATABASE_URL" in error


def test_a_server_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    with pytest.raises(DatabaseUnavailable, match=r"cannot connect to postgresql://me@127\.0\.0\.1"):
        check_requirements(f"postgresql://me@127.0.0.1:{port}/app")


def test_a_url_that_libpq_cannot_read() -> None:
    with pytest.raises(SettingsError):
        check_requirements("postgresql://127.0.0.1/app?no_such_option=1")

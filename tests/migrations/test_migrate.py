"""`rowbell migrate`: what it does, and what it says when it cannot."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import alembic.command
import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from rowbell.cli import migrate as command
from rowbell.config import Settings
from rowbell.errors import DatabaseError, DatabaseUnavailable, SettingsError
from rowbell.inbox import schema
from rowbell.inbox.schema import Outcome, Rights, Server, migrate
from tests.migrations.catalog import listing
from tests.postgres_server import DEADLINE, PostgresServer, debian, running

ROLES = {("rowbell_app",), ("rowbell_connector",), ("rowbell_gateway",)}


def rowbell(url: str | None, *arguments: str) -> int:
    """Run `rowbell migrate ARGUMENTS`; the exit status."""
    parser = argparse.ArgumentParser(prog="rowbell")
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["migrate", *arguments])
    status: int = args.run(args, Settings(database_url=url))
    return status


def at_once(*urls: str) -> list[str]:
    """What `rowbell migrate` prints for each, all started together."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "rowbell", "migrate"],
            env=os.environ | {"ROWBELL_DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for url in urls
    ]
    return [process.communicate(timeout=DEADLINE)[0] for process in started]


def wait_until_it_waits(server: PostgresServer) -> None:
    """Until `migrate` waits for another transaction."""
    waiting = "SELECT FROM pg_stat_activity WHERE application_name = 'rowbell-migrate' AND wait_event_type = 'Lock'"
    with server.connect() as session:
        deadline = time.monotonic() + DEADLINE
        while session.execute(waiting.encode()).fetchone() is None:
            assert time.monotonic() < deadline, "it never waited"
            time.sleep(0.01)


def roles(session: Connection[TupleRow]) -> set[TupleRow]:
    return set(session.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'rowbell%'"))


def downgrade(url: str) -> None:
    with schema.connected(url) as connection:
        alembic.command.downgrade(schema.alembic_config(connection), "base")


class TestWhatItDoes:
    def test_it_makes_the_tables_and_says_so(
        self, server: PostgresServer, bare: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        # when
        status = rowbell(server.url(bare))
        # then
        assert status == 0
        assert capsys.readouterr().out == f"{server.url(bare)}: the schema was created, at version {schema.head()}\n"
        with server.connect(bare) as session:
            session.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")

    def test_it_leaves_an_up_to_date_database_alone_and_says_so(
        self, server: PostgresServer, database: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert rowbell(server.url(database)) == 0
        assert capsys.readouterr().out == (
            f"{server.url(database)}: the schema is already at version {schema.head()}, nothing to do\n"
        )

    def test_an_upgrade_names_both_versions(self) -> None:
        assert command.told(Outcome("0001", "0002", None)) == "the schema was upgraded from version 0001 to 0002"

    def test_two_at_once_both_succeed(self, server: PostgresServer, bare: str) -> None:
        url = server.url(bare)
        printed = at_once(url, url)
        assert sorted(printed) == [
            f"{url}: the schema is already at version {schema.head()}, nothing to do\n",
            f"{url}: the schema was created, at version {schema.head()}\n",
        ]

    def test_a_role_that_another_database_is_making_at_this_moment_is_taken_as_made(self) -> None:
        """Roles belong to the cluster, and an advisory lock holds in one database only."""
        with running(debian(15)) as server, server.database() as name, ThreadPoolExecutor() as threads:
            # given
            with server.connect() as other, other.transaction():
                other.execute("CREATE ROLE rowbell_gateway")
                # when
                outcome = threads.submit(migrate, server.url(name))
                wait_until_it_waits(server)
            # then
            assert outcome.result(DEADLINE).after == schema.head()
            with server.connect() as session:
                assert roles(session) == ROLES

    def test_a_connection_with_its_own_search_path_finds_the_tables_in_public(
        self, server: PostgresServer, bare: str
    ) -> None:
        # given
        with server.connect(bare) as session:
            session.execute("CREATE SCHEMA shop")
            session.execute(f"ALTER DATABASE {bare} SET search_path = shop, public".encode())
            # when
            migrate(server.url(bare))
            # then
            assert session.execute("SELECT to_regclass('public.notification') IS NOT NULL").fetchone() == (True,)
        assert migrate(server.url(bare)).before == schema.head()

    def test_a_new_epoch_replaces_one_that_looks_sound(
        self, server: PostgresServer, sql: Connection[TupleRow], capsys: pytest.CaptureFixture[str]
    ) -> None:
        # given: what a cold copy of the files brings back
        sql.execute("INSERT INTO rowbell_epoch DEFAULT VALUES")
        sql.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
        sql.execute("DELETE FROM notification")
        before = sql.execute("SELECT epoch FROM rowbell_epoch").fetchone()
        # when
        assert rowbell(server.url(sql.info.dbname), "--new-epoch") == 0
        # then
        after = sql.execute("SELECT epoch FROM rowbell_epoch").fetchone()
        assert after is not None
        assert after != before
        assert f"nothing to do; epoch {after[0]} began" in capsys.readouterr().out
        assert sql.execute("SELECT count(*) FROM notification_deleted").fetchone() == (0,)

    def test_without_the_option_the_epoch_stays(self, server: PostgresServer, sql: Connection[TupleRow]) -> None:
        sql.execute("INSERT INTO rowbell_epoch DEFAULT VALUES")
        before = sql.execute("SELECT epoch FROM rowbell_epoch").fetchone()
        rowbell(server.url(sql.info.dbname))
        assert sql.execute("SELECT epoch FROM rowbell_epoch").fetchone() == before


class TestDowngrade:
    def test_nothing_of_ours_is_left(self) -> None:
        with running(debian(15)) as server, server.database() as database, server.connect(database) as session:
            # given
            before = listing_or_none(session)
            migrate(server.url(database))
            # when
            downgrade(server.url(database))
            # then
            assert listing_or_none(session) == before
            assert roles(session) == set()
            # and again
            migrate(server.url(database))
            assert listing(session) == Path(__file__).with_name("catalog.txt").read_text()

    def test_roles_are_kept_that_another_database_uses(self, server: PostgresServer, template: str, bare: str) -> None:
        # given
        migrate(server.url(bare))
        # when
        downgrade(server.url(bare))
        # then
        with server.connect(template) as session:
            assert roles(session) == ROLES


def listing_or_none(session: Connection[TupleRow]) -> list[TupleRow]:
    """What stands in the schema public, but for the table of the schema's version."""
    return session.execute("""
        SELECT relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'rowbell_schema_version%'
        UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT pubname FROM pg_publication
    """).fetchall()


class TestRights:
    @pytest.fixture
    def owner(self, server: PostgresServer, bare: str) -> Iterator[str]:
        """A login without any right but to connect."""
        with server.connect(bare) as session:
            session.execute("CREATE ROLE owner LOGIN")
            yield "owner"
            session.execute("REASSIGN OWNED BY owner TO postgres")
            session.execute("DROP OWNED BY owner")
            session.execute("DROP ROLE owner")

    def test_what_is_missing_is_named_with_the_sql_that_gives_it(
        self, server: PostgresServer, template: str, bare: str, owner: str
    ) -> None:
        with pytest.raises(DatabaseError) as refusal:
            migrate(server.url(bare, owner))
        assert str(refusal.value).splitlines() == [
            "the login owner lacks rights; a superuser can grant them:",
            "CREATE on the schema public, to create tables: GRANT CREATE ON SCHEMA public TO owner;",
            f"CREATE on the database, to create a publication: GRANT CREATE ON DATABASE {bare} TO owner;",
        ]

    def test_the_sql_it_names_is_enough(self, server: PostgresServer, template: str, bare: str, owner: str) -> None:
        # given
        with pytest.raises(DatabaseError) as refusal:
            migrate(server.url(bare, owner))
        with server.connect(bare) as session:
            for statement in re.findall(r"GRANT [^;]+;", str(refusal.value)):
                session.execute(statement.encode())
        # when
        outcome = migrate(server.url(bare, owner))
        # then
        assert outcome.after == schema.head()
        with server.connect(bare, "an_app") as app:
            app.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
            app.execute("DELETE FROM notification")

    def test_roles_can_be_made_by_a_login_with_createrole(self) -> None:
        with running(debian(15)) as server, server.database() as name:
            # given
            with server.connect(name) as session:
                session.execute("CREATE ROLE owner LOGIN")
                session.execute("GRANT CREATE ON SCHEMA public TO owner")
                session.execute(f"GRANT CREATE ON DATABASE {name} TO owner".encode())
            with pytest.raises(DatabaseError) as refusal:
                migrate(server.url(name, "owner"))
            assert str(refusal.value).splitlines()[1:] == [
                "CREATEROLE, to create roles: ALTER ROLE owner CREATEROLE; or create them yourself: "
                "CREATE ROLE rowbell_app; CREATE ROLE rowbell_gateway; CREATE ROLE rowbell_connector;"
            ]
            # when
            with server.connect(name) as session:
                session.execute("ALTER ROLE owner CREATEROLE")
            migrate(server.url(name, "owner"))
            # then
            with server.connect(name) as session:
                assert roles(session) == ROLES

    def test_names_are_quoted_in_what_it_says(self) -> None:
        rights = Rights(
            '"Shop Owner"', "shop", may_publish=False, may_create=True, may_create_roles=True, missing_roles=[]
        )
        assert 'GRANT CREATE ON DATABASE shop TO "Shop Owner";' in (rights.complaint() or "")

    def test_who_lacks_nothing_hears_nothing(self) -> None:
        rights = Rights("shop", "shop", may_publish=True, may_create=True, may_create_roles=False, missing_roles=[])
        assert rights.complaint() is None

    def test_an_up_to_date_database_needs_only_a_look(self, server: PostgresServer, database: str) -> None:
        with server.connect(database) as session:
            session.execute("GRANT SELECT ON rowbell_schema_version TO rowbell_app")
        assert migrate(server.url(database, "an_app")).before == schema.head()


class TestWhatItRefuses:
    def test_a_server_whose_log_is_not_logical(self, capsys: pytest.CaptureFixture[str]) -> None:
        with running(debian(15), wal_level="replica") as server, pytest.raises(DatabaseError) as refusal:
            rowbell(server.url("postgres"))
        assert "wal_level is replica, and must be logical" in str(refusal.value)
        assert "ALTER SYSTEM SET wal_level = 'logical'; then restart the server" in str(refusal.value)

    def test_a_standby(self, postgres: PostgresServer) -> None:
        standby = PostgresServer(debian(15))
        try:
            # given
            standby.copy_from(postgres)
            standby.start()
            for url in (standby.url("postgres"), standby.url("postgres") + "?target_session_attrs=any"):
                # when
                with pytest.raises(DatabaseError) as refusal:
                    migrate(url)
                # then
                assert "standby" in str(refusal.value)
                assert "Name the primary in ROWBELL_DATABASE_URL" in str(refusal.value)
                assert not isinstance(refusal.value, DatabaseUnavailable)
            # and of both, it finds the primary
            both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{postgres.port}/postgres"
            with schema.connected(both) as connection:
                assert connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar() is False
        finally:
            standby.remove()

    def test_postgresql_14(self) -> None:
        complaint = Server("14.11", 140011, "logical", standby=False, encoding="UTF8").complaint()
        assert complaint is not None
        assert complaint.startswith("PostgreSQL 14.11 is too old: Rowbell needs 15 or later")

    @pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
    def test_a_database_that_cannot_hold_every_name_and_helps_to_one_that_can(
        self, server: PostgresServer, encoding: str
    ) -> None:
        with server.database("template0", encoding) as name, pytest.raises(DatabaseError) as refusal:
            migrate(server.url(name))
        assert f"its encoding is {encoding}, and must be UTF8" in str(refusal.value)
        # what it says works
        (create,) = re.findall(r"CREATE DATABASE .*?;", str(refusal.value))
        with server.connect() as session:
            session.execute(create.replace("<name>", "advised").encode())
        try:
            assert migrate(server.url("advised")).after == schema.head()
        finally:
            with server.connect() as session:
                session.execute("DROP DATABASE advised")

    def test_a_fit_server_is_not_complained_about(self) -> None:
        assert Server("15.0", 150000, "logical", standby=False, encoding="UTF8").complaint() is None

    def test_an_address_where_nothing_answers(self, unused_tcp_port: int) -> None:
        with pytest.raises(DatabaseUnavailable) as refusal:
            migrate(f"postgresql://shop:hunter2@127.0.0.1:{unused_tcp_port}/shop")
        assert f"cannot connect to postgresql://shop:********@127.0.0.1:{unused_tcp_port}/shop" in str(refusal.value)
        assert 'psql "$ROWBELL_DATABASE_URL"' in str(refusal.value)
        assert "hunter2" not in str(refusal.value)

    def test_a_database_that_does_not_exist(self, server: PostgresServer) -> None:
        with pytest.raises(DatabaseUnavailable, match='database "nowhere" does not exist'):
            migrate(server.url("nowhere"))

    def test_a_url_with_an_option_that_libpq_does_not_know(self, server: PostgresServer) -> None:
        with pytest.raises(SettingsError, match=r'ROWBELL_DATABASE_URL .*"ssl_mode"'):
            migrate(server.url("postgres") + "?ssl_mode=require")

    def test_no_url_at_all(self) -> None:
        with pytest.raises(SettingsError, match="ROWBELL_DATABASE_URL is not set"):
            rowbell(None)

    def test_a_schema_that_a_later_version_made(self, server: PostgresServer, sql: Connection[TupleRow]) -> None:
        sql.execute("UPDATE rowbell_schema_version SET version_num = '9999'")
        with pytest.raises(
            DatabaseError, match=r"a version that this Rowbell does not know .*9999.* Upgrade this Rowbell"
        ):
            migrate(server.url(sql.info.dbname))

    def test_a_database_in_which_the_name_is_taken_and_leaves_it_as_it_was(
        self, server: PostgresServer, bare: str
    ) -> None:
        # given
        with server.connect(bare) as session:
            session.execute("CREATE TABLE notification (id int)")
            # when
            with pytest.raises(DatabaseError, match='relation "notification" already exists'):
                migrate(server.url(bare))
            # then
            assert session.execute("SELECT to_regprocedure('rowbell_text_ok(text)')").fetchone() == (None,)


def test_the_help_shows_an_example_that_works(
    server: PostgresServer, bare: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # given
    with pytest.raises(SystemExit):
        rowbell(None, "--help")
    example = capsys.readouterr().out.partition("example:")[2]
    commands = re.findall(r"^ +rowbell migrate(.*)$", example, re.MULTILINE)
    assert commands == ["", " --new-epoch"]
    # when, then
    for arguments in commands:
        assert rowbell(server.url(bare), *arguments.split()) == 0


def test_a_session_that_is_ended_half_way_leaves_nothing_half_made(server: PostgresServer, bare: str) -> None:
    # when
    with pytest.raises(DatabaseUnavailable, match="terminating connection"):
        migrate_and_lose_the_server(server, bare)
    # then
    with server.connect(bare) as session:
        assert listing_or_none(session) == []


def migrate_and_lose_the_server(server: PostgresServer, database: str) -> None:
    with schema.connected(server.url(database)) as connection:
        alembic.command.upgrade(schema.alembic_config(connection), "head")
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with server.connect() as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        connection.exec_driver_sql("SELECT 1")

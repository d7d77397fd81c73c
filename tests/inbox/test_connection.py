"""A server that is away is said to be away, and is used again as soon as it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from psycopg import Connection
from psycopg.rows import TupleRow
from sqlalchemy.exc import DBAPIError

from rowbell.errors import DatabaseError, DatabaseUnavailable, SettingsError
from rowbell.inbox import Given, Inbox
from rowbell.inbox.connection import async_engine
from rowbell.postgres import BoundedConnection, defaults
from rowbell.snapshot import EMPTY
from tests.inbox.writing import insert
from tests.integration.proxy import Proxy
from tests.postgres_server import PostgresServer, debian, migrated, running

METHODS: dict[str, Callable[[Inbox], Awaitable[object]]] = {
    "ping": lambda inbox: inbox.ping(),
    "tick": lambda inbox: inbox.tick(None, list),
    "take_pass": lambda inbox: inbox.take_pass([("alice", EMPTY)]),
    "rows": lambda inbox: inbox.rows([1]),
    "record_deliveries": lambda inbox: inbox.record_deliveries([(1, "alice")]),
    "new_epoch": lambda inbox: inbox.new_epoch(),
    "count_unread": lambda inbox: inbox.count_unread(["alice"]),
    "expired": lambda inbox: inbox.expired(None, ["alice"]),
    "mark_ids": lambda inbox: inbox.mark_ids("alice", [1], [1], uuid4()),
    "mark_given": lambda inbox: inbox.mark_given("alice", Given(uuid4(), EMPTY, EMPTY, 0, {1: (1, 1)}, [])),
}


async def test_every_method_says_that_the_server_is_away_and_works_when_it_is_back() -> None:
    with running(debian(15)) as server, migrated(server) as database:
        inbox = Inbox.connect(server.url(database, "a_gateway"))
        for method in METHODS.values():
            await method(inbox)
        for end in (server.stop, server.kill):
            # when
            end()
            # then
            for name, method in METHODS.items():
                with pytest.raises(DatabaseUnavailable, match="PostgreSQL cannot be used at present"):
                    await method(inbox)
                assert name
            # when
            server.start()
            # then
            for method in METHODS.values():
                await method(inbox)
        await inbox.close()


async def test_sessions_that_the_server_ended_are_replaced_without_an_error(
    inbox: Inbox, sql: Connection[TupleRow]
) -> None:
    # given
    await asyncio.gather(*(inbox.ping() for _ in range(5)))
    # when
    (ended,) = (
        sql.execute("""
        SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
        WHERE application_name = 'rowbell-gateway' AND datname = current_database()
    """).fetchone()
        or ()
    )
    # then
    assert ended >= 1
    await asyncio.gather(*(inbox.ping() for _ in range(5)))


async def test_a_session_that_ends_in_the_middle_of_a_statement_counts_as_away(
    inbox: Inbox, sql: Connection[TupleRow], other: Connection[TupleRow]
) -> None:
    # given: a statement that waits
    with other.transaction():
        other.execute("LOCK TABLE notification")
        reading = asyncio.create_task(inbox.rows([1]))
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        async with asyncio.timeout(10):
            while (found := await asyncio.to_thread(lambda: sql.execute(waiting.encode()).fetchone())) is None:
                pass
        # when
        sql.execute("SELECT pg_terminate_backend(%s)", found)
        # then
        with pytest.raises(DatabaseUnavailable):
            await reading


async def test_a_session_that_the_server_ends_for_idling_in_a_transaction_counts_as_away(
    inbox: Inbox, postgres: PostgresServer, sql: Connection[TupleRow]
) -> None:
    # given
    database = sql.info.dbname
    previous = (await inbox.tick(None, list)).snapshot
    login = f"ALTER ROLE a_gateway IN DATABASE {database}"
    sql.execute(f"{login} SET idle_in_transaction_session_timeout = '100ms'".encode())
    limited = Inbox.connect(postgres.url(f"{database}?application_name=limited", "a_gateway"))

    def nobody_once_the_session_is_gone() -> list[str]:
        deadline = time.monotonic() + 10
        while sql.execute("SELECT FROM pg_stat_activity WHERE application_name = 'limited'").fetchone() is not None:
            assert time.monotonic() < deadline, "the session is still there"
        return []

    # when
    with pytest.raises(DatabaseUnavailable, match="idle-in-transaction"):
        await limited.tick(previous, nobody_once_the_session_is_gone)
    # then
    sql.execute(f"{login} RESET idle_in_transaction_session_timeout".encode())
    await limited.tick(previous, list)
    await limited.close()


@pytest.mark.parametrize("state", ["XX000", "XX001", "XX002"])
async def test_an_internal_error_or_damaged_data_counts_as_away(
    inbox: Inbox, sql: Connection[TupleRow], state: str
) -> None:
    """It may concern one row only: it must not end a gateway that serves many people."""
    # given
    raising = f"BEGIN RAISE EXCEPTION 'missing chunk number 0' USING ERRCODE = '{state}'; END"
    sql.execute(f"CREATE FUNCTION damaged() RETURNS trigger LANGUAGE plpgsql AS $${raising}$$".encode())
    sql.execute("CREATE TRIGGER damaged BEFORE INSERT ON notification_delivery EXECUTE FUNCTION damaged()")
    # when
    with pytest.raises(DatabaseUnavailable, match="missing chunk number 0"):
        await inbox.record_deliveries([(1, "alice")])
    # then
    sql.execute("DROP TRIGGER damaged ON notification_delivery")
    await inbox.record_deliveries([(1, "alice")])


async def test_a_column_may_change_its_type_while_we_are_connected(
    postgres: PostgresServer, sql: Connection[TupleRow]
) -> None:
    # given
    inbox = Inbox.connect(postgres.url(sql.info.dbname, "a_gateway"), pool_size=1)
    await inbox.new_epoch()
    floor = (await inbox.tick(None, list)).snapshot
    for _ in range(10):
        await inbox.take_pass([("alice", floor)])
    # when
    sql.execute("ALTER TABLE notification_deleted ALTER COLUMN recipient_id TYPE varchar(255)")
    # then
    await inbox.take_pass([("alice", floor)])
    await inbox.close()


async def test_a_user_in_any_script_is_recorded_whatever_encoding_the_url_asks_for(
    postgres: PostgresServer, sql: Connection[TupleRow]
) -> None:
    inbox = Inbox.connect(postgres.url(sql.info.dbname, "a_gateway") + "?client_encoding=LATIN1")
    await inbox.record_deliveries([(1, "日本")])
    assert sql.execute("SELECT user_id FROM notification_delivery").fetchall() == [("日本",)]
    await inbox.close()


async def test_a_database_that_cannot_hold_every_name_is_not_used(postgres: PostgresServer) -> None:
    with postgres.database("template0", "LATIN1") as latin:
        inbox = Inbox.connect(postgres.url(latin))
        with pytest.raises(DatabaseError, match="its encoding is LATIN1, and must be UTF8") as refusal:
            await inbox.ping()
        assert not isinstance(refusal.value, DatabaseUnavailable)
        await inbox.close()


async def test_a_cancelled_read_gives_its_connection_back(
    postgres: PostgresServer, sql: Connection[TupleRow], other: Connection[TupleRow]
) -> None:
    inbox = Inbox.connect(postgres.url(sql.info.dbname, "a_gateway"), pool_size=1)
    await inbox.ping()
    with other.transaction():
        other.execute("LOCK TABLE notification")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await inbox.rows([1])
    assert await inbox.rows([1]) == []
    await inbox.close()


async def test_a_database_without_tables_says_what_to_run(postgres: PostgresServer) -> None:
    with postgres.database() as bare:
        inbox = Inbox.connect(postgres.url(bare))
        with pytest.raises(DatabaseError, match="run: rowbell migrate") as refusal:
            await inbox.tick(None, list)
        assert not isinstance(refusal.value, DatabaseUnavailable)
        await inbox.close()


async def test_a_login_without_the_gateway_s_role_says_which_to_give(postgres: PostgresServer, database: str) -> None:
    inbox = Inbox.connect(postgres.url(database, "an_app"))
    with pytest.raises(DatabaseError, match="GRANT rowbell_gateway TO") as refusal:
        await inbox.tick(None, list)
    assert not isinstance(refusal.value, DatabaseUnavailable)
    await inbox.close()


async def test_a_mistake_in_a_program_comes_out_as_it_is(inbox: Inbox) -> None:
    with pytest.raises(DBAPIError):
        await inbox.rows(["not a number"])  # type: ignore[list-item]


async def test_a_standby_is_not_used(postgres: PostgresServer, database: str) -> None:
    standby = PostgresServer(debian(15))
    try:
        standby.copy_from(postgres)
        standby.start()
        # alone it is refused
        inbox = Inbox.connect(standby.url(database, "a_gateway"))
        with pytest.raises(DatabaseUnavailable, match="session is read-only"):
            await inbox.ping()
        await inbox.close()
        # and of two servers the primary is taken
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{postgres.port}"
        inbox = Inbox.connect(f"postgresql://a_gateway@{hosts}/{database}")
        await inbox.new_epoch()
        await inbox.close()
    finally:
        standby.remove()


async def test_the_tables_are_those_in_public_whatever_the_login_s_search_path(
    inbox: Inbox, postgres: PostgresServer, sql: Connection[TupleRow]
) -> None:
    # given
    sql.execute("CREATE SCHEMA shop")
    sql.execute("CREATE TABLE shop.notification (id int)")
    sql.execute("GRANT USAGE ON SCHEMA shop TO rowbell_gateway")
    sql.execute(f"ALTER DATABASE {sql.info.dbname} SET search_path = shop, public".encode())
    id = insert(sql)
    # when
    other = Inbox.connect(postgres.url(sql.info.dbname, "a_gateway"))
    rows = await other.rows([id])
    # then
    assert [change.id for change in rows] == [id]
    await other.close()


async def test_plans_are_made_for_the_values_at_hand(postgres: PostgresServer, database: str) -> None:
    engine = async_engine(postgres.url(database), 1, "test")
    async with engine.connect() as connection:
        found = (await connection.exec_driver_sql("SHOW plan_cache_mode")).scalar_one()
    await engine.dispose()
    assert found == "force_custom_plan"


def test_what_the_url_says_is_not_overridden() -> None:
    parameters = defaults("postgresql://a/b?target_session_attrs=any&connect_timeout=60&application_name=mine", "ours")
    assert not parameters.keys() & {"target_session_attrs", "connect_timeout", "application_name"}
    assert defaults("postgresql://a/b", "ours")["application_name"] == "ours"


def test_a_url_that_libpq_does_not_understand_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match="ROWBELL_DATABASE_URL is not a URL that libpq understands"):
        Inbox.connect("postgresql://a/b?sslmod=require")


async def test_a_connection_behind_which_nobody_is_is_given_up_and_replaced(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends TCP in between acknowledges everything, so that no keep-alive tells."""
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.5)
    async with Proxy(postgres.port) as proxy:
        inbox = Inbox.connect(postgres.url(database, "a_gateway").replace(f":{postgres.port}/", f":{proxy.port}/"))
        try:
            await inbox.ping()
            proxy.freeze()
            async with asyncio.timeout(5):
                try:
                    await inbox.ping()  # a connection is tried before it is used, so this one may be a new one already
                except DatabaseUnavailable:
                    await inbox.ping()
            assert proxy.accepted == 2
        finally:
            await inbox.close()


async def test_a_transaction_whose_connection_goes_silent_midway_fails_in_time(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedConnection, "answer_seconds", 0.5)
    async with Proxy(postgres.port) as proxy:
        inbox = Inbox.connect(postgres.url(database, "a_gateway").replace(f":{postgres.port}/", f":{proxy.port}/"))
        try:
            await inbox.new_epoch()

            def freeze() -> list[str]:
                proxy.freeze()
                return []

            tick = await inbox.tick(None, list)
            async with asyncio.timeout(5):
                with pytest.raises(DatabaseUnavailable):
                    await inbox.tick(tick.snapshot, freeze)
                assert (await inbox.tick(tick.snapshot, list)).epoch is not None
        finally:
            await inbox.close()

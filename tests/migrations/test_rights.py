"""What each role may and may not do: every table with every verb, and every column where columns differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import TupleRow

from tests.postgres_server import PostgresServer

APP, GATEWAY, CONNECTOR = LOGINS = ("an_app", "a_gateway", "a_connector")

STATEMENTS = {
    ("select", "notification"): "SELECT * FROM notification",
    ("select", "notification_deleted"): "SELECT * FROM notification_deleted",
    ("select", "notification_delivery"): "SELECT * FROM notification_delivery",
    ("select", "notification_revocation"): "SELECT * FROM notification_revocation",
    ("select", "rowbell_epoch"): "SELECT * FROM rowbell_epoch",
    ("select", "rowbell_heartbeat"): "SELECT * FROM rowbell_heartbeat",
    ("select", "rowbell_schema_version"): "SELECT * FROM rowbell_schema_version",
    ("select", "unread_notification"): "SELECT * FROM unread_notification",
    ("insert", "notification"): "INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')",
    ("insert", "notification_deleted"): "INSERT INTO notification_deleted VALUES (1, 'alice', 1)",
    ("insert", "notification_delivery"): "INSERT INTO notification_delivery VALUES (1, 'alice') ON CONFLICT DO NOTHING",
    ("insert", "notification_revocation"): "INSERT INTO notification_revocation (user_id, before) VALUES ('a', now())",
    ("insert", "rowbell_epoch"): "INSERT INTO rowbell_epoch DEFAULT VALUES",
    ("insert", "rowbell_heartbeat"): "INSERT INTO rowbell_heartbeat (at) VALUES (now())",
    ("insert", "rowbell_schema_version"): "INSERT INTO rowbell_schema_version VALUES ('x')",
    ("insert", "unread_notification"): "INSERT INTO unread_notification (title) VALUES ('Hello')",
    ("update", "notification"): "UPDATE notification SET read_at = now()",
    ("update", "notification_deleted"): "UPDATE notification_deleted SET deleted_tx = 0",
    ("update", "notification_delivery"): "UPDATE notification_delivery SET user_id = 'bob'",
    ("update", "notification_revocation"): "UPDATE notification_revocation SET before = now()",
    ("update", "rowbell_epoch"): "UPDATE rowbell_epoch SET purged_tx = 0",
    ("update", "rowbell_heartbeat"): "UPDATE rowbell_heartbeat SET at = now()",
    ("update", "rowbell_schema_version"): "UPDATE rowbell_schema_version SET version_num = 'x'",
    ("update", "unread_notification"): "UPDATE unread_notification SET title = 'x'",
    **{
        ("delete", table): f"DELETE FROM {table}"
        for table in (
            "notification", "notification_deleted", "notification_delivery", "notification_revocation",
            "rowbell_epoch", "rowbell_heartbeat", "rowbell_schema_version", "unread_notification",
        )
    },
    **{
        ("truncate", table): f"TRUNCATE {table}"
        for table in (
            "notification", "notification_deleted", "notification_delivery", "notification_revocation",
            "rowbell_epoch", "rowbell_heartbeat", "rowbell_schema_version",
        )
    },
}  # fmt: skip

ALLOWED = {
    APP: {
        ("select", "notification"), ("select", "unread_notification"), ("insert", "notification"),
        ("update", "notification"), ("delete", "notification"),
        ("select", "notification_revocation"), ("insert", "notification_revocation"),
    },
    GATEWAY: {
        ("select", "notification"), ("select", "unread_notification"), ("update", "notification"),
        ("select", "notification_deleted"), ("delete", "notification_deleted"),
        ("select", "notification_delivery"), ("insert", "notification_delivery"), ("delete", "notification_delivery"),
        ("select", "rowbell_epoch"), ("insert", "rowbell_epoch"), ("update", "rowbell_epoch"),
        ("delete", "rowbell_epoch"), ("select", "notification_revocation"),
    },
    CONNECTOR: {
        ("select", "notification"),
        ("select", "rowbell_heartbeat"), ("insert", "rowbell_heartbeat"), ("update", "rowbell_heartbeat"),
    },
}  # fmt: skip

COLUMNS = {
    "id": "DEFAULT", "recipient_id": "'bob'", "title": "'t'", "type": "'T'", "body": "'b'", "data": "'{}'",
    "actor_id": "'a'", "channel": "'IN_APP'", "dedup_key": "'k'", "created_at": "now()", "expires_at": "now()",
    "read_at": "now()", "version": "9", "inserted_tx": "9", "changed_tx": "9",
}  # fmt: skip
WRITTEN_BY_APPS = {
    "recipient_id", "title", "type", "body", "data", "actor_id", "channel", "dedup_key", "created_at", "expires_at",
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(server: PostgresServer, template: str) -> Iterator[str]:
    """One database for all tests here: none of them commits."""
    with server.database(template) as name:
        yield name


@pytest.fixture(scope="module")
def sessions(server: PostgresServer, shared: str) -> Iterator[dict[str, Connection[TupleRow]]]:
    opened = {login: psycopg.connect(server.url(shared, login)) for login in LOGINS}
    yield opened
    for session in opened.values():
        session.close()


def refusal(session: Connection[TupleRow], statement: str) -> str | None:
    """What PostgreSQL says to this statement if the right to it is missing; None if it runs. Rolled back."""
    try:
        session.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        return error.diag.message_primary
    finally:
        session.rollback()
    return None


def test_every_table_and_view_of_ours_is_tried_with_every_verb(server: PostgresServer, shared: str) -> None:
    with server.connect(shared) as session:
        relations = {
            name
            for (name,) in session.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
            )
        }
    tried = set(product(("select", "insert", "update", "delete", "truncate"), relations))
    assert tried - STATEMENTS.keys() == {("truncate", "unread_notification")}, "a view cannot be truncated by anybody"


@pytest.mark.parametrize("login", LOGINS)
def test_a_role_may_do_what_it_is_for_and_nothing_else(sessions: dict[str, Connection[TupleRow]], login: str) -> None:
    for (verb, table), statement in STATEMENTS.items():
        answer = refusal(sessions[login], statement)
        if (verb, table) in ALLOWED[login]:
            assert answer is None, f"{login} may not {verb} {table}: {answer}"
        else:
            kind = "view" if table == "unread_notification" else "table"
            assert answer == f"permission denied for {kind} {table}", f"{login}, {verb} {table}"


def test_nobody_says_in_which_transaction_a_token_was_taken_back(sessions: dict[str, Connection[TupleRow]]) -> None:
    statement = "INSERT INTO notification_revocation (user_id, revoked_tx) VALUES ('alice', 9)"
    for login in LOGINS:
        assert refusal(sessions[login], statement) == "permission denied for table notification_revocation"


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("column", COLUMNS)
def test_of_a_notification_only_being_read_is_ever_updated(
    sessions: dict[str, Connection[TupleRow]], login: str, column: str
) -> None:
    answer = refusal(sessions[login], f"UPDATE notification SET {column} = {COLUMNS[column]}")
    may = column == "read_at" and login in (APP, GATEWAY)
    assert answer == (None if may else "permission denied for table notification")


@pytest.mark.parametrize("column", COLUMNS)
def test_an_application_writes_what_is_its_own_and_not_ids_versions_or_transactions(
    sessions: dict[str, Connection[TupleRow]], column: str
) -> None:
    values = {"recipient_id": "'alice'", "title": "'Hello'", column: COLUMNS[column]}
    answer = refusal(
        sessions[APP],
        f"INSERT INTO notification ({', '.join(values)}) OVERRIDING SYSTEM VALUE VALUES ({', '.join(values.values())})",
    )
    assert answer == (None if column in WRITTEN_BY_APPS else "permission denied for table notification")


def test_a_deletion_by_an_application_leaves_a_tombstone_that_it_could_not_have_written(
    server: PostgresServer, database: str
) -> None:
    # given
    with server.connect(database, APP) as app:
        app.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
        # when
        app.execute("DELETE FROM notification")
    # then
    with server.connect(database) as superuser:
        assert superuser.execute("SELECT recipient_id FROM notification_deleted").fetchall() == [("alice",)]


def test_a_temporary_table_cannot_take_a_tombstone_s_place(server: PostgresServer, database: str) -> None:
    """It would be written, and its triggers run, with the rights of the owner of our tables."""
    # given
    with server.connect(database, APP) as app:
        app.execute(
            "CREATE TEMPORARY TABLE notification_deleted (id bigint PRIMARY KEY, recipient_id text, deleted_tx bigint)"
        )
        app.execute("GRANT ALL ON notification_deleted TO public")
        app.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')")
        # when
        app.execute("DELETE FROM notification")
        # then
        assert app.execute("SELECT count(*) FROM pg_temp.notification_deleted").fetchall() == [(0,)]
    with server.connect(database) as superuser:
        assert superuser.execute("SELECT count(*) FROM public.notification_deleted").fetchall() == [(1,)]


def test_a_login_without_a_role_may_nothing(server: PostgresServer, database: str) -> None:
    # given
    with server.connect(database) as superuser:
        superuser.execute("CREATE ROLE stranger LOGIN")
    try:
        with server.connect(database, "stranger") as stranger:
            # when
            refused = {key for key, statement in STATEMENTS.items() if refusal(stranger, statement)}
        # then
        assert refused == STATEMENTS.keys()
    finally:
        with server.connect() as superuser:
            superuser.execute("DROP ROLE stranger")

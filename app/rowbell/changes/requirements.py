"""Checks whether this login can read this database's changes from the WAL; if not, what is missing, and how to fix
it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from rowbell.changes.pgoutput import COLUMNS, PUBLICATION
from rowbell.errors import DatabaseError
from rowbell.postgres import connect, defaults, encoding_complaint, shown, unreachable, wal_level_complaint

APPLICATION = "rowbell-check"

TABLE = f"notification ({', '.join(COLUMNS)})"
CREATE = (
    f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {TABLE}, rowbell_heartbeat WITH (publish = 'insert, update, delete');"
)

LOOK = """
    SELECT current_setting('wal_level') AS wal_level,
           current_setting('server_encoding') AS encoding,
           current_setting('server_version_num')::int AS version,
           current_setting('max_replication_slots')::int AS max_slots,
           current_setting('max_wal_senders')::int AS max_senders,
           (SELECT count(*) FROM pg_replication_slots) AS slots,
           (SELECT count(*) FROM pg_stat_replication) AS senders,
           quote_ident(current_user) AS login,
           rolinherit AS inherits,
           -- On Amazon RDS a role replaces the attribute.
           rolsuper OR rolreplication OR EXISTS (
             SELECT FROM pg_roles managed WHERE managed.rolname = 'rds_replication'
             AND pg_has_role(current_user, managed.oid, 'MEMBER')) AS replicates,
           EXISTS (
             SELECT FROM pg_auth_members JOIN pg_roles ours ON ours.oid = roleid
             WHERE member = login.oid AND ours.rolname = 'rowbell_gateway') AS member,
           (SELECT pg_has_role(ours.oid, 'USAGE') FROM pg_roles ours WHERE rolname = 'rowbell_gateway') AS as_gateway,
           -- Not with to_regclass, which requires USAGE on the schema.
           ARRAY(SELECT name FROM unnest(%s::text[]) AS name WHERE NOT EXISTS (
             SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
             WHERE nspname = 'public' AND relname = name)) AS missing_tables
    FROM pg_roles login WHERE rolname = current_user
"""

LOOK_AT_PUBLICATION = """
    SELECT pubinsert AND pubupdate AND pubdelete AS whole,
           attnames::text[] AS columns,
           rowfilter IS NOT NULL AS filtered,
           EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = pg_publication.oid) AS of_schemas
    FROM pg_publication
    LEFT JOIN pg_publication_tables published
      ON published.pubname = pg_publication.pubname AND schemaname = 'public' AND tablename = 'notification'
    WHERE pg_publication.pubname = %s
"""

LOOK_AT_TABLE = """
    SELECT EXISTS (
             SELECT FROM pg_index
             WHERE indrelid = notification.oid AND indisreplident
             AND ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey))
                 @> ARRAY['recipient_id', 'id']) AS by_key,
           relreplident = 'f' AS by_row,
           -- In any publication: together with FULL replica identity, that makes every UPDATE fail.
           EXISTS (SELECT FROM pg_publication_rel JOIN pg_publication ON pg_publication.oid = prpubid
                   WHERE prrelid = notification.oid AND prattrs IS NOT NULL AND (pubupdate OR pubdelete)
                  ) AS columns_listed,
           (SELECT coalesce(json_object_agg(tgname, tgenabled), '{}')
            FROM pg_trigger WHERE tgrelid = notification.oid) AS triggers
    FROM pg_class notification WHERE relname = 'notification' AND relnamespace = 'public'::regnamespace
"""

TRIGGERS = {
    "notification_stamp": ("BEFORE INSERT OR UPDATE", "changes are not numbered, and reach nobody"),
    "notification_tombstone": ("AFTER DELETE", "deletions are not recorded for clients that the stream does not reach"),
}
"""Trigger → when it fires, and what happens if it does not. Without them, delivery of writes is not guaranteed."""
DISABLED = "DR"
"""Values of pg_trigger.tgenabled: D is disabled, R fires under replication only."""

RIGHTS = {
    "notification": ("SELECT", "UPDATE (read_at)"),
    "unread_notification": ("SELECT",),
    "notification_deleted": ("SELECT", "DELETE"),
    "notification_delivery": ("INSERT",),
    "notification_revocation": ("SELECT",),
    "rowbell_epoch": ("SELECT", "INSERT", "DELETE"),
}
"""Table → the rights that a gateway's statements need. The role rowbell_gateway is granted these, and more on some
tables."""

LOOK_AT_RIGHTS = """
    SELECT has_schema_privilege('public', 'USAGE') AS schema,
           has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS control,
           ARRAY(
             SELECT format('%%s ON %%s', wanted, relname)
             FROM unnest(%s::text[], %s::text[]) AS wish (name, wanted)
             JOIN pg_class ON relname = name AND relnamespace = 'public'::regnamespace
             WHERE NOT CASE WHEN wanted LIKE '%%(read_at)'
                            THEN has_column_privilege(pg_class.oid, 'read_at', 'UPDATE')
                            ELSE has_table_privilege(pg_class.oid, wanted) END
           ) AS lacking
"""
_WISHES = [(table, right) for table, rights in RIGHTS.items() for right in rights]

INHERIT_BY_GRANT = 160000
"""From this version on, each GRANT determines whether a member inherits a role's rights, and no longer the member
itself."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is missing; each sentence says what to run."""

    errors: list[str] = field(default_factory=list)
    """Problems that must be fixed."""
    warnings: list[str] = field(default_factory=list)
    """Problems that may go away by themselves."""


def check_requirements(database_url: str) -> Findings:
    """Return what PostgreSQL lacks for gateways that read its WAL. Blocks: never call it on an event loop.

    Raises DatabaseUnavailable if the server cannot be reached, DatabaseError if it refuses the queries, SettingsError
    if libpq cannot parse the URL.
    """
    return asyncio.run(_check(database_url, defaults(database_url, APPLICATION)))


async def _check(database_url: str, parameters: dict[str, Any]) -> Findings:
    try:
        async with await connect(database_url, parameters) as connection:
            findings = await missing(connection)
    except psycopg.OperationalError as error:
        raise unreachable(database_url, error) from error
    except psycopg.Error as error:
        raise DatabaseError(f"{shown(database_url)} refuses the check of its requirements: {error}") from error
    if not findings.errors and not findings.warnings:
        findings.errors.extend(await _refusal(database_url, parameters))
    return findings


async def missing(connection: psycopg.AsyncConnection[Any]) -> Findings:
    """Like `check_requirements`, over an existing connection in autocommit mode. Raises psycopg.Error if it is lost."""
    findings = Findings()
    cursor = connection.cursor(row_factory=namedtuple_row)
    server: Any = await (await cursor.execute(LOOK, [list(RIGHTS)])).fetchone()
    _look_at_server(server, findings)
    if server.missing_tables:
        findings.errors.append(
            f"the database lacks Rowbell's tables {', '.join(server.missing_tables)}. "
            "As the owner of the database, run: rowbell migrate"
        )
        return findings
    publication = await (await cursor.execute(LOOK_AT_PUBLICATION, [PUBLICATION])).fetchone()
    _look_at_publication(publication, findings)
    _look_at_table(await (await cursor.execute(LOOK_AT_TABLE)).fetchone(), findings)
    wishes = [list(column) for column in zip(*_WISHES, strict=True)]
    _look_at_rights(server, await (await cursor.execute(LOOK_AT_RIGHTS, wishes)).fetchone(), findings)
    return findings


async def _refusal(database_url: str, parameters: dict[str, Any]) -> list[str]:
    """Return why a replication connection is refused, although an ordinary one is not."""
    try:
        connection = await connect(database_url, parameters, replication="database")
    except psycopg.OperationalError as error:
        return [
            f"PostgreSQL answers, but a replication connection to {shown(database_url)} is refused: {error}\n"
            "If there is a pooler such as PgBouncer in between, name the server itself in ROWBELL_DATABASE_URL."
        ]
    await connection.close()
    return []


def _look_at_server(server: Any, findings: Findings) -> None:
    for complaint in (wal_level_complaint(server.wal_level), encoding_complaint(server.encoding)):
        if complaint:
            findings.errors.append(complaint)
    for name, limit, used, unit in (
        ("max_replication_slots", server.max_slots, server.slots, "slot"),
        ("max_wal_senders", server.max_senders, server.senders, "connection"),
    ):
        advice = (
            f"each gateway needs one {unit}. As a superuser, run: ALTER SYSTEM SET {name} = {max(10, used * 2)}; "
            "then restart the server."
        )
        if limit == 0:
            findings.errors.append(f"{name} is 0, and {advice}")
        elif used >= limit:
            findings.warnings.append(
                f"all {limit} of {name} are in use, and {advice} (Those of a killed gateway become free "
                "within wal_sender_timeout.)"
            )
    if not server.replicates:
        findings.errors.append(
            f"the login {server.login} may not read the WAL. As a superuser, run: ALTER ROLE {server.login} "
            f"REPLICATION; (On Amazon RDS: GRANT rds_replication TO {server.login};)"
        )


def _look_at_publication(publication: Any | None, findings: Findings) -> None:
    if publication is None:
        findings.errors.append(f"the publication {PUBLICATION} is missing. As the owner of the tables, run:\n{CREATE}")
        return
    if not publication.whole:
        findings.errors.append(
            f"the publication {PUBLICATION} leaves out some kinds of writes. Run: "
            f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert, update, delete');"
        )
    # PostgreSQL refuses a column list if the publication includes whole schemas, and SET TABLE would remove those.
    table = "notification" if publication.of_schemas else TABLE
    add = f"ALTER PUBLICATION {PUBLICATION} ADD TABLE {table};"
    if publication.columns is None:
        findings.errors.append(f"the publication {PUBLICATION} lacks the table notification. Run: {add}")
        return
    lacking = [column for column in COLUMNS if column not in publication.columns]
    if lacking or publication.filtered:
        what = f"the columns {', '.join(lacking)} of notification" if lacking else "rows: it has a filter"
        mended = f"ALTER PUBLICATION {PUBLICATION} SET TABLE {table}, rowbell_heartbeat;"
        if publication.of_schemas:
            mended = f"ALTER PUBLICATION {PUBLICATION} DROP TABLE notification; {add}"
        findings.errors.append(f"the publication {PUBLICATION} lacks {what}. Run: {mended}")


def _look_at_table(table: Any, findings: Findings) -> None:
    mended = "Run: ALTER TABLE notification REPLICA IDENTITY USING INDEX notification_recipient_key;"
    if table.by_row and table.columns_listed:
        findings.errors.append(
            "every UPDATE and DELETE fails: the replica identity of notification is the whole row, and a publication "
            f"has a column list for it. {mended}"
        )
    elif not table.by_row and not table.by_key:
        findings.errors.append(
            f"a DELETE does not carry the recipient: notification has a different replica identity. {mended}"
        )
    for trigger, (when, effect) in TRIGGERS.items():
        enabled = table.triggers.get(trigger)
        if enabled is not None and enabled not in DISABLED:
            continue
        create = f"CREATE TRIGGER {trigger} {when} ON notification FOR EACH ROW EXECUTE FUNCTION {trigger}();"
        enable = f"ALTER TABLE notification ENABLE ALWAYS TRIGGER {trigger};"
        found, mended = ("missing", f"{create} {enable}") if enabled is None else ("disabled", enable)
        findings.errors.append(f"the trigger {trigger} is {found}: {effect}. Run: {mended}")


def _look_at_rights(server: Any, rights: Any, findings: Findings) -> None:
    if not rights.schema:
        findings.errors.append(
            f"the login {server.login} may not use the schema with Rowbell's tables. Run: "
            f"GRANT USAGE ON SCHEMA public TO {server.login};"
        )
    if rights.lacking:
        findings.errors.append(
            f"the login {server.login} lacks rights on Rowbell's tables. Run: {_giving_rights(server, rights.lacking)}"
        )
    if not rights.control:
        findings.errors.append(
            f"the login {server.login} may not read the identity of the server. In this database, as a superuser, run: "
            f"GRANT EXECUTE ON FUNCTION pg_control_system() TO {server.login};"
        )


def _giving_rights(server: Any, lacking: list[str]) -> str:
    if server.as_gateway:  # then the role itself lacks them
        return " ".join(f"GRANT {right} TO rowbell_gateway;" for right in lacking)
    grant = f"GRANT rowbell_gateway TO {server.login}"
    if server.version >= INHERIT_BY_GRANT:
        return f"{grant} WITH INHERIT TRUE;" if server.member or not server.inherits else f"{grant};"
    needed = [] if server.inherits else [f"ALTER ROLE {server.login} INHERIT;"]
    return " ".join(needed if server.member else [*needed, f"{grant};"])

"""Can this login read this database's changes from the log? If not, what is missing, and what gives it?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from rowbell.changes.pgoutput import COLUMNS, PUBLICATION
from rowbell.errors import DatabaseUnavailable
from rowbell.postgres import connect, defaults, encoding_complaint, shown, wal_level_complaint

APPLICATION = "rowbell-check"

TABLE = f"notification ({', '.join(COLUMNS)})"
CREATE = (
    f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {TABLE}, rowbell_heartbeat WITH (publish = 'insert, update, delete');"
)

LOOK = """
    SELECT current_setting('wal_level') AS wal_level,
           current_setting('server_encoding') AS encoding,
           current_setting('max_replication_slots')::int AS max_slots,
           current_setting('max_wal_senders')::int AS max_senders,
           (SELECT count(*) FROM pg_replication_slots) AS slots,
           (SELECT count(*) FROM pg_stat_replication) AS senders,
           quote_ident(current_user) AS login,
           rolsuper AS superuser,
           -- Amazon's way of giving it.
           rolsuper OR rolreplication OR EXISTS (
             SELECT FROM pg_roles managed WHERE managed.rolname = 'rds_replication'
             AND pg_has_role(current_user, managed.oid, 'MEMBER')) AS replicates,
           (SELECT bool_and(to_regclass('public.' || name) IS NOT NULL) FROM unnest(ARRAY[
              'notification', 'unread_notification', 'notification_deleted', 'notification_delivery', 'rowbell_epoch']
            ) name) AS migrated
    FROM pg_roles WHERE rolname = current_user
"""

LOOK_AT_PUBLICATION = """
    SELECT pubinsert AND pubupdate AND pubdelete AS whole,
           attnames::text[] AS columns,
           rowfilter IS NOT NULL AS filtered
    FROM pg_publication
    LEFT JOIN pg_publication_tables published
      ON published.pubname = pg_publication.pubname AND schemaname = 'public' AND tablename = 'notification'
    WHERE pg_publication.pubname = %s
"""

LOOK_AT_IDENTITY = """
    SELECT EXISTS (
      SELECT FROM pg_index
      WHERE indrelid = 'public.notification'::regclass AND indisreplident
      AND ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey))
          @> ARRAY['recipient_id', 'id'])
    OR relreplident = 'f' FROM pg_class WHERE oid = 'public.notification'::regclass
"""

LOOK_AT_RIGHTS = """
    SELECT has_schema_privilege('public', 'USAGE')
       AND has_table_privilege('public.notification', 'SELECT')
       AND has_column_privilege('public.notification', 'read_at', 'UPDATE')
       AND has_table_privilege('public.unread_notification', 'SELECT')
       AND has_table_privilege('public.notification_deleted', 'SELECT')
       AND has_table_privilege('public.notification_deleted', 'DELETE')
       AND has_table_privilege('public.notification_delivery', 'SELECT')
       AND has_table_privilege('public.notification_delivery', 'INSERT')
       AND has_table_privilege('public.notification_delivery', 'DELETE')
       AND has_table_privilege('public.rowbell_epoch', 'SELECT')
       AND has_table_privilege('public.rowbell_epoch', 'INSERT')
       AND has_table_privilege('public.rowbell_epoch', 'UPDATE')
       AND has_table_privilege('public.rowbell_epoch', 'DELETE')
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """What is missing; each sentence says what to run."""

    errors: list[str] = field(default_factory=list)
    """Without these it does not work."""
    warnings: list[str] = field(default_factory=list)
    """These may pass by themselves."""


def check_requirements(database_url: str) -> Findings:
    """What PostgreSQL lacks for gateways that read its log. Blocks: not to be called on an event loop.

    DatabaseUnavailable when it cannot be reached, SettingsError when libpq cannot read the URL.
    """
    return asyncio.run(_check(database_url, defaults(database_url, APPLICATION)))


async def _check(database_url: str, parameters: dict[str, Any]) -> Findings:
    try:
        async with await connect(database_url, parameters) as connection:
            findings = await missing(connection)
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(
            f"cannot connect to {shown(database_url)}: {error}\n"
            'Check ROWBELL_DATABASE_URL, and that this works: psql "$ROWBELL_DATABASE_URL"'
        ) from error
    if not findings.errors and not findings.warnings:
        findings.errors.extend(await _refusal(database_url, parameters))
    return findings


async def missing(connection: psycopg.AsyncConnection[Any]) -> Findings:
    """The same on a connection that is there; it must be in autocommit mode. psycopg.Error when it is lost."""
    findings = Findings()
    cursor = connection.cursor(row_factory=namedtuple_row)
    server: Any = await (await cursor.execute(LOOK)).fetchone()
    _look_at_server(server, findings)
    if not server.migrated:
        findings.errors.append("the database lacks Rowbell's tables. As the database's owner run: rowbell migrate")
        return findings
    publication = await (await cursor.execute(LOOK_AT_PUBLICATION, [PUBLICATION])).fetchone()
    _look_at_publication(publication, findings)
    identity = await (await connection.execute(LOOK_AT_IDENTITY)).fetchone()
    if identity != (True,):
        findings.errors.append(
            "a DELETE does not carry the recipient: the replica identity of notification is another. Run: "
            "ALTER TABLE notification REPLICA IDENTITY USING INDEX notification_recipient_key;"
        )
    if await (await connection.execute(LOOK_AT_RIGHTS)).fetchone() != (True,):
        findings.errors.append(
            f"the login {server.login} lacks rights on Rowbell's tables. Run: GRANT rowbell_gateway TO {server.login};"
        )
    return findings


async def _refusal(database_url: str, parameters: dict[str, Any]) -> list[str]:
    """Why a replication connection is refused where an ordinary one is not."""
    try:
        connection = await connect(database_url, parameters, replication="database")
    except psycopg.OperationalError as error:
        return [
            f"PostgreSQL answers, and yet a replication connection to {shown(database_url)} is refused: {error}\n"
            "If a pooler such as PgBouncer stands between, name the server itself in ROWBELL_DATABASE_URL."
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
            f"each gateway needs one {unit}. As a superuser run: ALTER SYSTEM SET {name} = {max(10, used * 2)}; "
            "then restart the server."
        )
        if limit == 0:
            findings.errors.append(f"{name} is 0, and {advice}")
        elif used >= limit:
            findings.warnings.append(
                f"all {limit} of {name} are in use, and {advice} (Those of a gateway that was killed are free again "
                "within wal_sender_timeout.)"
            )
    if not server.replicates:
        findings.errors.append(
            f"the login {server.login} may not read the log. As a superuser run: ALTER ROLE {server.login} "
            f"REPLICATION; (On Amazon RDS: GRANT rds_replication TO {server.login};)"
        )


def _look_at_publication(publication: Any | None, findings: Findings) -> None:
    if publication is None:
        findings.errors.append(
            f"the publication {PUBLICATION} is missing. Make it, as the owner of the tables:\n{CREATE}"
        )
        return
    if not publication.whole:
        findings.errors.append(
            f"the publication {PUBLICATION} leaves out some kinds of writes. Run: "
            f"ALTER PUBLICATION {PUBLICATION} SET (publish = 'insert, update, delete');"
        )
    if publication.columns is None:
        findings.errors.append(
            f"the publication {PUBLICATION} lacks the table notification. Run: "
            f"ALTER PUBLICATION {PUBLICATION} ADD TABLE {TABLE};"
        )
        return
    lacking = [column for column in COLUMNS if column not in publication.columns]
    if lacking or publication.filtered:
        what = f"the columns {', '.join(lacking)} of notification" if lacking else "rows: it has a filter"
        findings.errors.append(
            f"the publication {PUBLICATION} lacks {what}. Run: "
            f"ALTER PUBLICATION {PUBLICATION} SET TABLE {TABLE}, rowbell_heartbeat;"
        )

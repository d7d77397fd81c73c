"""Brings a database to the schema of this version: are server and rights fit for it? Then it migrates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import alembic.command
import psycopg
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, exc, text

import rowbell
from rowbell.errors import DatabaseError, DatabaseUnavailable
from rowbell.inbox import epoch
from rowbell.inbox.connection import SESSION, translated
from rowbell.inbox.tables import VERSION_TABLE
from rowbell.postgres import defaults, encoding_complaint, shown, wal_level_complaint

LOCK = 0x726F7762656C6C01
"""The advisory lock of who migrates: "rowbell" in ASCII, and 1."""

OLDEST = 150000
"""PostgreSQL 15, as server_version_num."""

ROLES = ("rowbell_app", "rowbell_gateway", "rowbell_connector")

OWNERS_RIGHTS = "Rowbell's tables are migrated by their owner: name that login in ROWBELL_DATABASE_URL."

TAKEN = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction)
"""A relation, a publication, a function."""

WAIT_FOR_THE_OTHERS = text("SELECT pg_advisory_xact_lock(:lock)")
"""Held to the end of the transaction: of two that migrate at once, the second finds the work done."""

LOOK_AT_SERVER = text("""
    SELECT current_setting('server_version') AS version,
           current_setting('server_version_num')::int AS number,
           current_setting('wal_level') AS wal_level,
           pg_is_in_recovery() AS standby,
           current_setting('server_encoding') AS encoding
""")

LOOK_AT_RIGHTS = text("""
    SELECT quote_ident(current_user) AS login,
           quote_ident(current_database()) AS database,
           has_database_privilege(current_database(), 'CREATE') AS may_publish,
           has_schema_privilege('public', 'CREATE') AS may_create,
           rolsuper OR rolcreaterole AS may_create_roles,
           ARRAY(SELECT role FROM unnest(CAST(:roles AS text[])) role WHERE to_regrole(role) IS NULL) AS missing_roles
    FROM pg_roles WHERE rolname = current_user
""")
"""CREATE on the database is what CREATE PUBLICATION needs."""


@dataclass(frozen=True, slots=True)
class Server:
    """What matters of a PostgreSQL server, and of the database, before its tables are looked at."""

    version: str
    number: int
    """The version as server_version_num: 150003 is 15.3."""
    wal_level: str
    standby: bool
    encoding: str
    """Of the database, as server_encoding."""

    def complaint(self) -> str | None:
        """Why Rowbell cannot use them, and what to do about it."""
        if self.number < OLDEST:
            return (
                f"PostgreSQL {self.version} is too old: Rowbell needs 15 or later, for publications with a list of "
                "columns. Upgrade the server."
            )
        if self.standby:
            return (
                "this server is a standby, and Rowbell works on the primary. Name the primary in "
                "ROWBELL_DATABASE_URL, or all servers: postgresql://user@host1,host2/app"
            )
        return wal_level_complaint(self.wal_level) or encoding_complaint(self.encoding)


@dataclass(frozen=True, slots=True)
class Rights:
    """What the login may do, as far as migrating needs it; names are quoted for SQL."""

    login: str
    database: str
    may_publish: bool
    may_create: bool
    may_create_roles: bool
    missing_roles: list[str]

    def complaint(self) -> str | None:
        """Each right that is missing, with the SQL that gives it."""
        lacks: list[str] = []
        if not self.may_create:
            lacks.append(f"CREATE on the schema public, to make tables: GRANT CREATE ON SCHEMA public TO {self.login};")
        if not self.may_publish:
            lacks.append(
                "CREATE on the database, to make a publication: "
                f"GRANT CREATE ON DATABASE {self.database} TO {self.login};"
            )
        if self.missing_roles and not self.may_create_roles:
            make = " ".join(f"CREATE ROLE {role};" for role in self.missing_roles)
            lacks.append(
                f"CREATEROLE, to make roles: ALTER ROLE {self.login} CREATEROLE; or make them yourself: {make}"
            )
        if not lacks:
            return None
        return "\n".join([f"the login {self.login} lacks rights; a superuser can give them:", *lacks])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `migrate` did."""

    before: str | None
    """The version it found; None for a database without Rowbell's tables."""
    after: str
    epoch: UUID | None
    """The epoch that was made, if one was asked for."""


def migrate(database_url: str, new_epoch: bool = False) -> Outcome:
    """Bring the database to the newest schema, in one transaction; safe when several processes do it at once.

    DatabaseError says what stands in the way and how to change it, DatabaseUnavailable that nothing answers.
    """
    with connected(database_url) as connection:
        if complaint := Server(**connection.execute(LOOK_AT_SERVER).one()._mapping).complaint():
            raise DatabaseError(f"{shown(database_url)}: {complaint}")
        connection.execute(WAIT_FOR_THE_OTHERS, {"lock": LOCK})
        before, after = version(connection), head()
        if before != after:
            _upgrade(connection)
        return Outcome(before, after, epoch.replace(connection) if new_epoch else None)


def _upgrade(connection: Connection) -> None:
    rights = Rights(**connection.execute(LOOK_AT_RIGHTS, {"roles": list(ROLES)}).one()._mapping)
    if complaint := rights.complaint():
        raise DatabaseError(complaint)
    try:
        alembic.command.upgrade(alembic_config(connection), "head")
    except CommandError as error:
        raise DatabaseError(
            f"the schema has a version that this Rowbell does not know ({error}): a newer one migrated it. "
            "Upgrade this Rowbell."
        ) from error
    except exc.ProgrammingError as error:
        if not isinstance(error.orig, TAKEN):
            raise
        raise DatabaseError(
            f"{error.orig}: something of this name that is not Rowbell's is in the database. Rename it, or give "
            "Rowbell another database. Nothing was changed."
        ) from error


@contextmanager
def connected(
    database_url: str, application_name: str = "rowbell-migrate", rights: str = OWNERS_RIGHTS
) -> Iterator[Connection]:
    """A connection in a transaction, committed at the end. Errors as in `migrate`; `rights` as in `translated`."""
    raw = _connect(database_url, application_name)
    engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=NullPool, use_native_hstore=False)
    with translated(rights), engine.begin() as connection:
        connection.exec_driver_sql(SESSION)
        yield connection


def _connect(database_url: str, application_name: str) -> psycopg.Connection[Any]:
    parameters = defaults(database_url, application_name)
    try:
        return psycopg.connect(database_url, **parameters)
    except psycopg.OperationalError as error:
        if _answers_reads(database_url, parameters):
            raise DatabaseError(
                f"{shown(database_url)}: every server there is a standby or read-only, and Rowbell works on the "
                f"primary. Name the primary in ROWBELL_DATABASE_URL. ({error})"
            ) from error
        raise DatabaseUnavailable(
            f"cannot connect to {shown(database_url)}: {error}\n"
            'Check ROWBELL_DATABASE_URL, and that this works: psql "$ROWBELL_DATABASE_URL"'
        ) from error


def _answers_reads(database_url: str, parameters: dict[str, Any]) -> bool:
    """Does a server answer, if only it need not be writable?"""
    try:
        psycopg.connect(database_url, **parameters | {"target_session_attrs": "any"}).close()
    except psycopg.OperationalError:
        return False
    return True


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for commands on this connection, inside its transaction; there is no alembic.ini."""
    config = _config()
    config.attributes["connection"] = connection
    return config


def version(connection: Connection) -> str | None:
    """The version of the schema; None when there is none."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def head() -> str:
    """The version that this Rowbell needs."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "there are no migrations"
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> Path:
    """Where the migrations are: inside an installed package, or beside `app/` in a checkout."""
    package = Path(rowbell.__file__).parent
    shipped = package / "_shipped" / "migrations"
    return shipped if shipped.is_dir() else package.parents[1] / "migrations"

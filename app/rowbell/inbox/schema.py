"""Migrates a database to the schema of this version, after checking that the server and the login's rights allow it."""

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
from rowbell.inbox.connection import SESSION, translate_errors
from rowbell.inbox.tables import VERSION_TABLE
from rowbell.postgres import connect_sync, defaults, encoding_complaint, shown, wal_level_complaint

LOCK = 0x726F7762656C6C01
"""The advisory lock for migrating: "rowbell" in ASCII, followed by 1."""

OLDEST = 150000
"""PostgreSQL 15, as server_version_num."""

ROLES = ("rowbell_app", "rowbell_gateway", "rowbell_connector")

OWNERS_RIGHTS = "Only the owner of Rowbell's tables can migrate them: use that login in ROWBELL_DATABASE_URL."

TAKEN = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject, psycopg.errors.DuplicateFunction)
"""Raised when a relation, a publication or a function exists already."""

WAIT_FOR_THE_OTHERS = text("SELECT pg_advisory_xact_lock(:lock)")
"""Held until the end of the transaction: of two concurrent migrations, the second finds the work done."""

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
    """The properties of a PostgreSQL server and a database that are checked before the tables are."""

    version: str
    number: int
    """The version as server_version_num: 150003 is 15.3."""
    wal_level: str
    standby: bool
    encoding: str
    """Of the database, as server_encoding."""

    def complaint(self) -> str | None:
        """Return why Rowbell cannot use them, with advice, or None if it can."""
        if self.number < OLDEST:
            return (
                f"PostgreSQL {self.version} is too old: Rowbell needs 15 or later, for publications with column "
                "lists. Upgrade the server."
            )
        if self.standby:
            return (
                "this server is a standby, and Rowbell needs the primary. Name the primary in "
                "ROWBELL_DATABASE_URL, or all servers: postgresql://user@host1,host2/app"
            )
        return wal_level_complaint(self.wal_level) or encoding_complaint(self.encoding)


@dataclass(frozen=True, slots=True)
class Rights:
    """The login's rights that migrating needs. Names are quoted for SQL."""

    login: str
    database: str
    may_publish: bool
    may_create: bool
    may_create_roles: bool
    missing_roles: list[str]

    def complaint(self) -> str | None:
        """Return the missing rights, each with the SQL that grants it, or None if none is missing."""
        lacks: list[str] = []
        if not self.may_create:
            lacks.append(
                f"CREATE on the schema public, to create tables: GRANT CREATE ON SCHEMA public TO {self.login};"
            )
        if not self.may_publish:
            lacks.append(
                "CREATE on the database, to create a publication: "
                f"GRANT CREATE ON DATABASE {self.database} TO {self.login};"
            )
        if self.missing_roles and not self.may_create_roles:
            make = " ".join(f"CREATE ROLE {role};" for role in self.missing_roles)
            lacks.append(
                f"CREATEROLE, to create roles: ALTER ROLE {self.login} CREATEROLE; or create them yourself: {make}"
            )
        if not lacks:
            return None
        return "\n".join([f"the login {self.login} lacks rights; a superuser can grant them:", *lacks])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `migrate` did."""

    before: str | None
    """The version it found, or None for a database without Rowbell's tables."""
    after: str
    epoch: UUID | None
    """The epoch that was created, if one was requested."""


def migrate(database_url: str, new_epoch: bool = False) -> Outcome:
    """Migrate the database to the newest schema, in one transaction; safe to run concurrently.

    With `new_epoch`, create a new epoch as well. Raises DatabaseError, with advice, if something prevents it;
    DatabaseUnavailable if the server cannot be reached; SettingsError if libpq cannot use the URL.
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
            f"the schema has a version that this Rowbell does not know ({error}): a newer Rowbell migrated it. "
            "Upgrade this Rowbell."
        ) from error
    except exc.ProgrammingError as error:
        if not isinstance(error.orig, TAKEN):
            raise
        raise DatabaseError(
            f"{error.orig}: the database contains an object of this name that is not Rowbell's. Rename it, or give "
            "Rowbell another database. Nothing was changed."
        ) from error


@contextmanager
def connected(
    database_url: str, application_name: str = "rowbell-migrate", rights: str = OWNERS_RIGHTS
) -> Iterator[Connection]:
    """Connect, and run the block in a transaction that is committed at its end.

    Raises errors like `migrate`; `rights` is the advice that `translate_errors` gives.
    """
    raw = _connect(database_url, application_name)
    engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=NullPool, use_native_hstore=False)
    with translate_errors(rights), engine.begin() as connection:
        connection.exec_driver_sql(SESSION)
        yield connection


def _connect(database_url: str, application_name: str) -> psycopg.Connection[Any]:
    try:
        return connect_sync(database_url, application_name)
    except DatabaseUnavailable as error:
        if _answers_reads(database_url, application_name):
            raise DatabaseError(
                f"{shown(database_url)}: every server there is a standby or read-only, and Rowbell needs the "
                f"primary. Name the primary in ROWBELL_DATABASE_URL. ({error.__cause__})"
            ) from error
        raise


def _answers_reads(database_url: str, application_name: str) -> bool:
    """Whether a server answers if it need not be writable."""
    parameters = defaults(database_url, application_name) | {"target_session_attrs": "any"}
    try:
        psycopg.connect(database_url, **parameters).close()
    except psycopg.OperationalError:
        return False
    return True


def alembic_config(connection: Connection) -> Config:
    """Return Alembic's configuration for commands on this connection, inside its transaction; there is no
    alembic.ini.
    """
    config = _config()
    config.attributes["connection"] = connection
    return config


def version(connection: Connection) -> str | None:
    """Return the version of the schema, or None if there is none."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def head() -> str:
    """Return the version that this Rowbell needs."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "there are no migrations"
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts() -> Path:
    """Return the directory of the migrations: inside an installed package, or beside `app/` in a checkout."""
    package = Path(rowbell.__file__).parent
    shipped = package / "_shipped" / "migrations"
    return shipped if shipped.is_dir() else package.parents[1] / "migrations"

"""The logins of a server of ours: the owner of the tables, and a login for each role of the schema."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import psycopg
from psycopg import sql

DATABASE = "rowbell"

OWNER = "rowbell"
"""Owns the database and the tables; migrates them, and is the login given to a user."""


def create(superuser_url: str, passwords: Mapping[str, str], replicate: Collection[str]) -> None:
    """Create the owner, the other logins and the database, or reset the passwords of existing logins.

    `passwords` maps each login, including the owner, to its password; the logins in `replicate` may read the WAL.
    Raises psycopg.Error.
    """
    with _connected(superuser_url) as connection:
        for login, password in passwords.items():
            if not _exists(connection, "pg_roles", "rolname", login):
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(login)))
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(login), sql.Literal(password)))
        # The migration creates the three roles.
        connection.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(OWNER)))
        for login in replicate:
            connection.execute(sql.SQL("ALTER ROLE {} REPLICATION").format(sql.Identifier(login)))
        if not _exists(connection, "pg_database", "datname", DATABASE):
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))


def grant(superuser_url: str, roles: Mapping[str, str]) -> None:
    """Grant each login (key) its role (value), which the migration has created. Raises psycopg.Error."""
    with _connected(superuser_url) as connection:
        for login, role in roles.items():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login)))


def _connected(superuser_url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(superuser_url, autocommit=True, connect_timeout=5)


def _exists(connection: psycopg.Connection[Any], catalog: str, column: str, name: str) -> bool:
    query = sql.SQL("SELECT 1 FROM {} WHERE {} = {}").format(
        sql.Identifier(catalog), sql.Identifier(column), sql.Literal(name)
    )
    return connection.execute(query).fetchone() is not None

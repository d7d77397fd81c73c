"""PostgreSQL: a cluster of its own from Debian's binaries, and who may log in to it."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from stack.errors import StackError
from stack.home import Home, write_private
from stack.ports import Ports
from stack.supervision import DIES_WITH_US

BIN = Path("/usr/lib/postgresql/15/bin")
DATABASE = "rowbell"

SUPERUSER = "postgres"
OWNER = "rowbell"
"""Owns the database and the tables: migrates, and is what a person gets."""

LOGINS = {"gateway": "rowbell_gateway", "app": "rowbell_app", "connector": "rowbell_connector"}
"""Login role → the role, made by the migration, whose rights it gets."""

ELSEWHERE = Path("/var/lib/rowbell")
"""For the data of a home that the account cannot reach."""


def account() -> str:
    """The user that runs the server: ourselves, or as root, which PostgreSQL refuses, Debian's `postgres`."""
    name = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else SUPERUSER
    try:
        pwd.getpwnam(name)
    except KeyError:
        raise StackError(
            f"As root, PostgreSQL runs as the system user {name}, which does not exist. "
            "The package makes it: apt-get install postgresql-15"
        ) from None
    return name


def data_directory(home: Home) -> Path:
    """Where the cluster is, or will be: in the home, unless the account cannot get there.

    It cannot in a checkout below a directory of mode 0700; we do not change directories that we did not make.
    """
    data = home.path / "postgres"
    if (data / "PG_VERSION").exists():
        return data.resolve()
    if os.geteuid() or _account_reaches(home.path):
        return data
    return ELSEWHERE / hashlib.sha256(os.fsencode(home.path.resolve())).hexdigest()[:16]


def prepare(home: Home) -> None:
    """Make the cluster, once. A start that was killed midway leaves no half of one."""
    data = home.path / "postgres"
    if (data / "PG_VERSION").exists():
        return
    if data.is_symlink():
        data.unlink()
    real = data_directory(home)
    if real != data:
        ELSEWHERE.mkdir(mode=0o711, parents=True, exist_ok=True)
    partial = real.with_name(f"{real.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    _give(partial)
    _initdb(partial, home.secret(SUPERUSER))
    partial.replace(real)
    if real != data:
        data.symlink_to(real)


def remove(home: Home) -> None:
    """Delete the cluster, where it really is."""
    data = home.path / "postgres"
    if data.is_symlink():
        shutil.rmtree(data.resolve(), ignore_errors=True)
        data.unlink()
    shutil.rmtree(data, ignore_errors=True)


def answers(home: Home, ports: Ports) -> bool:
    try:
        with _superuser(home, ports):
            return True
    except psycopg.OperationalError:
        return False


def url(home: Home, ports: Ports, login: str, database: str = DATABASE) -> str:
    return f"postgresql://{login}:{home.secret(login)}@127.0.0.1:{ports['STACK_POSTGRES_PORT']}/{database}"


def create_logins(home: Home, ports: Ports) -> None:
    """Make the login roles and the database, or give the roles their passwords again."""
    with _superuser(home, ports) as connection:
        for login in (OWNER, *LOGINS):
            if not _exists(connection, "pg_roles", "rolname", login):
                connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(login)))
            statement = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(statement.format(sql.Identifier(login), sql.Literal(home.secret(login))))
        # The migration makes the three roles.
        connection.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(OWNER)))
        connection.execute("ALTER ROLE connector REPLICATION")
        if not _exists(connection, "pg_database", "datname", DATABASE):
            statement = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(statement.format(sql.Identifier(DATABASE), sql.Identifier(OWNER)))


def grant_roles(home: Home, ports: Ports) -> None:
    """Give each login the rights of its role; after the migration, which makes the roles."""
    with _superuser(home, ports) as connection:
        for login, role in LOGINS.items():
            connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(role), sql.Identifier(login)))


def _superuser(home: Home, ports: Ports) -> psycopg.Connection:
    return psycopg.connect(url(home, ports, SUPERUSER, SUPERUSER), autocommit=True, connect_timeout=5)


def _exists(connection: psycopg.Connection, catalog: str, column: str, name: str) -> bool:
    query = sql.SQL("SELECT 1 FROM {} WHERE {} = {}").format(
        sql.Identifier(catalog), sql.Identifier(column), sql.Literal(name)
    )
    return connection.execute(query).fetchone() is not None


def _account_reaches(directory: Path) -> bool:
    return _as_account(["test", "-x", str(directory)]).returncode == 0


def _initdb(data: Path, password: str) -> None:
    password_file = data.with_name(f"{data.name}.password")
    write_private(password_file, password)
    _give(password_file)
    try:
        made = _as_account(
            [
                f"{BIN}/initdb",
                f"--pgdata={data}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ]
        )
    except FileNotFoundError:
        raise StackError(f"{BIN}/initdb is missing. Install it: apt-get install postgresql-15") from None
    finally:
        password_file.unlink()
    if made.returncode:
        raise StackError(f"initdb could not make the PostgreSQL cluster in {data}:\n{made.stderr.strip()}")


def _give(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, account(), pwd.getpwnam(account()).pw_gid)


def _as_account(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command as the account, from a directory that it can be in."""
    command = [*DIES_WITH_US, *command]
    if os.geteuid():
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    entry = pwd.getpwnam(account())
    return subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=os.getgrouplist(entry.pw_name, entry.pw_gid),
    )

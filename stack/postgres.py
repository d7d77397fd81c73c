"""PostgreSQL: a cluster of its own from Debian's binaries, and who may log in to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from rowbell.embedded import logins
from rowbell.embedded.account import Account
from rowbell.embedded.cluster import SUPERUSER, Cluster
from rowbell.embedded.logins import DATABASE, OWNER
from rowbell.errors import RowbellError
from stack.errors import StackError
from stack.home import Home
from stack.ports import Ports

BIN = Path("/usr/lib/postgresql/15/bin")

LOGINS = {"gateway": "rowbell_gateway", "app": "rowbell_app", "connector": "rowbell_connector"}
"""Login role → the role, made by the migration, whose rights it gets."""


def account() -> str:
    """The user that runs the server: ourselves, or as root, which PostgreSQL refuses, Debian's `postgres`."""
    with _said_for_the_stack():
        return Account.usual().name


def data_directory(home: Home) -> Path:
    """Where the cluster is, or will be: in the home, unless the account cannot get there."""
    with _said_for_the_stack():
        return _cluster(home).data


def prepare(home: Home) -> None:
    """Make the cluster, once. A start that was killed midway leaves no half of one."""
    if not (BIN / "initdb").exists():
        raise StackError(f"{BIN}/initdb is missing. Install it: apt-get install postgresql-15")
    with _said_for_the_stack():
        _cluster(home).make(BIN, "--locale=C.UTF-8")


def remove(home: Home) -> None:
    """Delete the cluster, where it really is."""
    with _said_for_the_stack():
        _cluster(home).remove()


def answers(home: Home, ports: Ports) -> bool:
    try:
        psycopg.connect(_superuser_url(home, ports), connect_timeout=5).close()
        return True
    except psycopg.OperationalError:
        return False


def url(home: Home, ports: Ports, login: str, database: str = DATABASE) -> str:
    return f"postgresql://{login}:{home.secret(login)}@127.0.0.1:{ports['STACK_POSTGRES_PORT']}/{database}"


def create_logins(home: Home, ports: Ports) -> None:
    """Make the login roles and the database, or give the roles their passwords again."""
    passwords = {login: home.secret(login) for login in (OWNER, *LOGINS)}
    logins.create(_superuser_url(home, ports), passwords, replicate=["connector"])


def grant_roles(home: Home, ports: Ports) -> None:
    """Give each login the rights of its role; after the migration, which makes the roles."""
    logins.grant(_superuser_url(home, ports), LOGINS)


def _cluster(home: Home) -> Cluster:
    return Cluster(home, "postgres")


def _superuser_url(home: Home, ports: Ports) -> str:
    return url(home, ports, SUPERUSER, SUPERUSER)


@contextmanager
def _said_for_the_stack() -> Iterator[None]:
    try:
        yield
    except RowbellError as error:
        raise StackError(str(error)) from error

"""PostgreSQL: a separate cluster with Debian's binaries, and its logins."""

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
"""Login → its role, which the migration creates."""


def account() -> str:
    """Return the user that runs the server: ours or, as root, which PostgreSQL refuses, Debian's `postgres`. Raises
    StackError.
    """
    with _said_for_the_stack():
        return Account.usual().name


def data_directory(home: Home) -> Path:
    """Return where the data is, or will be: in the home, unless the account cannot access it. Raises StackError."""
    with _said_for_the_stack():
        return _cluster(home).data


def prepare(home: Home) -> None:
    """Create the cluster unless it exists; if that is interrupted, no partial data is left. Raises StackError."""
    if not (BIN / "initdb").exists():
        raise StackError(f"{BIN}/initdb is missing. Install it: apt-get install postgresql-15")
    with _said_for_the_stack():
        _cluster(home).make(BIN, "--locale=C.UTF-8")


def remove(home: Home) -> None:
    """Delete the cluster, following the link in the home. Raises StackError."""
    with _said_for_the_stack():
        _cluster(home).remove()


def answers(home: Home, ports: Ports) -> bool:
    """Return whether the server accepts connections."""
    try:
        psycopg.connect(_superuser_url(home, ports), connect_timeout=5).close()
        return True
    except psycopg.OperationalError:
        return False


def url(home: Home, ports: Ports, login: str, database: str = DATABASE) -> str:
    """Return the URL of a database for a login."""
    return f"postgresql://{login}:{home.secret(login)}@127.0.0.1:{ports['STACK_POSTGRES_PORT']}/{database}"


def create_logins(home: Home, ports: Ports) -> None:
    """Create the logins and the database, or reset the passwords of existing logins."""
    passwords = {login: home.secret(login) for login in (OWNER, *LOGINS)}
    logins.create(_superuser_url(home, ports), passwords, replicate=["connector"])


def grant_roles(home: Home, ports: Ports) -> None:
    """Grant each login its role; call it after the migration, which creates the roles."""
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

"""The three ways to run Rowbell, each as real processes on real servers, for one set of tests."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rowbell.auth import Tokens
from rowbell.embedded import Home
from stack import Stack
from tests.integration.processes import Dispatcher, EmbeddedGateway, Gateway, running
from tests.integration.subscriber import Subscriber
from tests.postgres_server import PostgresServer, debian, migrated
from tests.postgres_server import running as postgres_running


@dataclass
class System:
    """Gateways, and what one needs to write rows and to come in."""

    gateways: Sequence[Gateway]
    env: Mapping[str, str]
    """`ROWBELL_*` of whoever owns the tables."""
    settings: Mapping[str, str]
    """`ROWBELL_*` of a gateway; of another one, where there may be several."""

    @property
    def database_url(self) -> str:
        """The owner's."""
        return self.env["ROWBELL_DATABASE_URL"]

    def token(self, user: str) -> str:
        return Tokens(self.env["ROWBELL_JWT_SECRET"]).issue(user, 3600)

    def gateway(self, number: int) -> Gateway:
        """Where there are fewer, an earlier one."""
        return self.gateways[number % len(self.gateways)]

    def subscriber(
        self, user: str, gateway: int = 0, ack: str = "auto", reconnect: bool = True, badge: bool = False
    ) -> Subscriber:
        return Subscriber(self.gateway(gateway).url, self.token(user), ack, reconnect, badge)


@dataclass
class Pipeline(System):
    stack: Stack
    dispatcher: Dispatcher


@contextmanager
def pipeline(stack: Stack, logs: Path) -> Iterator[Pipeline]:
    """One dispatcher and two gateways on the stack."""
    dispatcher = Dispatcher(stack.settings_env, logs / "dispatcher.log")
    gateways = [Gateway(stack.settings_env, logs / f"gateway-{n}.log") for n in (1, 2)]
    with running(dispatcher, *gateways):
        yield Pipeline(gateways, stack.owner_env, stack.settings_env, stack, dispatcher)


@dataclass
class PostgresOnly(System):
    server: PostgresServer


@contextmanager
def postgres_only(logs: Path) -> Iterator[PostgresOnly]:
    """Two gateways beside one PostgreSQL, and nothing else."""
    with postgres_running(debian(15), wal_sender_timeout="5s") as server, migrated(server) as database:
        with server.connect() as connection:
            connection.execute("ALTER ROLE a_gateway REPLICATION")
        secret = {"ROWBELL_JWT_SECRET": secrets.token_hex(32)}
        settings = secret | {"ROWBELL_DATABASE_URL": server.url(database, "a_gateway")}
        gateways = [Gateway(settings, logs / f"postgres-only-{n}.log") for n in (1, 2)]
        with running(*gateways):
            yield PostgresOnly(gateways, secret | {"ROWBELL_DATABASE_URL": server.url(database)}, settings, server)


@contextmanager
def embedded(logs: Path) -> Iterator[System]:
    """Everything in one process."""
    directory = Path(tempfile.mkdtemp(prefix="rowbell-embedded-"))
    directory.chmod(0o711)  # as root, PostgreSQL runs as somebody else
    home = Home(directory / "home")
    gateway = EmbeddedGateway(home, logs / "embedded.log")
    try:
        with running(gateway):
            yield System([gateway], gateway.env_of_a_person(), {})
    finally:
        shutil.rmtree(directory)

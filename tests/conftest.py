"""The real servers, and Rowbell on them in its three modes: one set for the whole run. A missing one is an error."""

from __future__ import annotations

import logging
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import psycopg
import pytest
import structlog
from xdist.scheduler import LoadScopeScheduling

from stack import Stack
from tests.integration import systems
from tests.integration.rows import Database
from tests.integration.systems import Pipeline, PostgresOnly, System

MODES = ("system", "two_gateways", "postgres_only", "embedded")
"""The fixtures that say in which mode a test runs."""

SHARING = {
    "stack": (
        "tests/bus", "tests/changes", "tests/chaos", "tests/clients/test_modes.py", "tests/connector", "tests/dispatch",
        "tests/integration", "tests/presence", "tests/stack",
    ),
    "embedded": ("tests/embedded", "tests/page"),
    "": ("",),
}  # fmt: skip
"""Servers → where the tests are that use them; one elsewhere would start a set of its own."""


def pytest_configure() -> None:
    """Have Ctrl-C heard in the background too, where shells let it be ignored: all that tests start would ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that a test runs in this process sets up its logs, on a stream that ends with the test."""
    before = logging.root.handlers[:]
    yield
    structlog.reset_defaults()
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL with the tables, Redis, RabbitMQ, Kafka, and Connect with the connector; no process of Rowbell."""
    with Stack.temporary() as stack:
        stack.start_servers()
        yield stack


@pytest.fixture(scope="session")
def pipeline(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with systems.pipeline(stack, tmp_path_factory.mktemp("pipeline")) as pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def postgres_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresOnly]:
    with systems.postgres_only(tmp_path_factory.mktemp("postgres-only")) as postgres_only:
        yield postgres_only


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with systems.embedded(tmp_path_factory.mktemp("embedded")) as embedded:
        yield embedded


@pytest.fixture(params=["embedded", "postgres_only", "pipeline"])
def system(request: pytest.FixtureRequest) -> System:
    """Each mode in turn."""
    system: System = request.getfixturevalue(request.param)
    return system


@pytest.fixture(params=["postgres_only", "pipeline"])
def two_gateways(request: pytest.FixtureRequest) -> System:
    """Each mode in which there may be several."""
    system: System = request.getfixturevalue(request.param)
    return system


@pytest.fixture
async def database(request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """The owner of the tables, in autocommit: in the system that the test names, or else in the pipeline."""
    name = next((name for name in MODES if name in request.fixturenames), "pipeline")
    url = request.getfixturevalue(name).database_url
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names that no other test has: `user("alice")`."""
    suffix = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{suffix}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the whole stack begins, as it takes longest; and in it faults come last: what tests the servers in
    their calm must not find them just recovering.
    """
    order = list(SHARING)
    items.sort(key=lambda item: (order.index(_sharing(item.nodeid)), "chaos" in item.path.parts))


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return BySharing(config, log)


class BySharing(LoadScopeScheduling):
    """Where several processes run the tests: those that share servers are for the same one, others file by file."""

    def _split_scope(self, nodeid: str) -> str:
        return _sharing(nodeid) or nodeid.partition("::")[0]


def _sharing(nodeid: str) -> str:
    """Which servers a test may share with those of other files; empty: none."""
    return next(name for name, paths in SHARING.items() if nodeid.startswith(paths))

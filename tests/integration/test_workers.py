"""`rowbell serve --workers N`: several gateways on one port, as processes that are looked after."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.processes import Gateway, eventually, free_port, running
from tests.integration.rows import Database, insert
from tests.integration.subscriber import Subscriber, assert_nothing_twice
from tests.integration.systems import PostgresOnly, System

Names = Callable[[str], str]
WORKERS = 2
CLIENTS = 24
"""That all of them come to the same worker of two has a probability of one in eight million."""


ADOPT = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
orphan = subprocess.check_output(["sh", "-c", "sleep 600 >&2 & echo $!"], text=True)
print("orphan:", orphan, flush=True)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Becomes a program to which every descendant goes whose parent has ended, as to the first process of a container."""


class Workers(Gateway):
    more_metrics_ports = WORKERS - 1

    def __init__(self, system: System, log: Path) -> None:
        super().__init__(system.settings, log, None, "--workers", str(WORKERS))

    def pids(self) -> set[int]:
        """The processes of the gateways."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return set(map(int, children))

    def sessions(self) -> list[float]:
        """Of each gateway."""
        first = self.metrics_port
        try:
            found = []
            for self.metrics_port in range(first, first + WORKERS):
                found.append(self.metric("rowbell_sessions"))
            return found
        finally:
            self.metrics_port = first

    def client(self, system: System, user: str, reconnect: bool = True) -> Subscriber:
        return Subscriber(self.url, system.token(user), reconnect=reconnect)


@asynccontextmanager
async def workers(system: System, log: Path) -> AsyncIterator[Workers]:
    serving = await asyncio.to_thread(Workers, system, log)
    with running(serving):
        await eventually("all of them are there", lambda: len(serving.pids()) == WORKERS)
        await eventually("both are up", lambda: log.read_text().count("bus_connected") == WORKERS)
        yield serving
        assert await asyncio.to_thread(serving.stop) == 0, serving.tail()


@asynccontextmanager
async def all_there(clients: list[Subscriber]) -> AsyncIterator[None]:
    for client in clients:
        client.start()
    try:
        for client in clients:
            await client.until(lambda client=client: client.subscriptions and client.subscriptions[-1].receipt, "live")
        yield
    finally:
        for client in clients:
            await client.stop()


class Adopting(Workers):
    """With a child from the beginning that is not a worker."""

    def start(self) -> None:
        self._command = [sys.executable, "-c", ADOPT, *self._command]
        super().start()

    @property
    def orphan(self) -> int:
        [line] = [line for line in self.log.read_text().splitlines() if line.startswith("orphan: ")]
        return int(line.split()[1])


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_clients_of_all_gateways_on_one_port_get_what_is_theirs(
    two_gateways: System, database: Database, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    async with workers(two_gateways, tmp_path / "workers.log") as serving:
        clients = [serving.client(two_gateways, alice) for _ in range(CLIENTS)]
        async with all_there(clients):
            shares = serving.sessions()
            assert min(shares) > 0
            assert sum(shares) == CLIENTS
            ids = [await insert(database, alice) for _ in range(20)]
            for client in clients:
                await client.until(lambda client=client: set(ids) <= client.seen, "all rows")
                assert client.subscriptions[0].ids("created") == ids


async def test_one_that_is_killed_is_started_again_and_the_others_do_not_notice(
    postgres_only: PostgresOnly, database: Database, user: Names, tmp_path: Path
) -> None:
    alice = user("alice")
    async with workers(postgres_only, tmp_path / "workers.log") as serving:
        clients = [serving.client(postgres_only, alice) for _ in range(CLIENTS)]
        async with all_there(clients):
            before = serving.pids()
            killed = min(before)
            os.kill(killed, signal.SIGKILL)
            ids = [await insert(database, alice) for _ in range(10)]
            for client in clients:
                await client.until(lambda client=client: set(ids) <= client.seen, "all rows")
                assert_nothing_twice(client)
            assert 0 < sum(len(client.subscriptions) == 1 for client in clients) < CLIENTS
            await eventually("another one is there", lambda: len(serving.pids() - {killed}) == WORKERS, 30)
            assert before - {killed} < serving.pids()
            assert "worker_died" in serving.log.read_text()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
async def test_stopping_it_closes_every_session_with_1012_and_leaves_no_process(
    postgres_only: PostgresOnly, user: Names, tmp_path: Path, sig: signal.Signals
) -> None:
    async with workers(postgres_only, tmp_path / "workers.log") as serving:
        clients = [serving.client(postgres_only, user("alice"), reconnect=False) for _ in range(CLIENTS)]
        async with all_there(clients):
            pids = serving.pids()
            if sig == signal.SIGTERM:  # as systemd does it, which tells every process of the unit
                for pid in pids:
                    os.kill(pid, sig)
            os.kill(serving.pid, sig)
            await eventually("it has ended", lambda: not serving.alive)
            for client in clients:
                await client.until(lambda client=client: client.subscriptions[-1].closed, "the close")
                assert client.subscriptions[-1].closed == 1012
            assert all(map(gone, pids))


async def test_a_child_that_is_not_a_worker_may_end(postgres_only: PostgresOnly, tmp_path: Path) -> None:
    serving = await asyncio.to_thread(Adopting, postgres_only, tmp_path / "workers.log")
    with running(serving):
        await eventually("both are up", lambda: serving.log.read_text().count("bus_connected") == WORKERS)
        everybody = serving.pids()
        assert serving.orphan in everybody

        os.kill(serving.orphan, signal.SIGKILL)

        await eventually("it is buried", lambda: gone(serving.orphan))
        assert serving.alive, serving.tail()
        assert serving.pids() == everybody - {serving.orphan}
        assert await asyncio.to_thread(serving.stop) == 0, serving.tail()
        assert "worker_died" not in serving.log.read_text()


async def test_a_second_signal_does_not_wait(postgres_only: PostgresOnly, user: Names, tmp_path: Path) -> None:
    serving = await asyncio.to_thread(Workers, postgres_only, tmp_path / "workers.log")
    await eventually("all of them are there", lambda: len(serving.pids()) == WORKERS)
    pids = serving.pids()
    async with all_there([serving.client(postgres_only, user("alice"), reconnect=False)]):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # so that nothing but a kill ends them
        os.kill(serving.pid, signal.SIGTERM)
        await eventually("it has heard", lambda: "workers_stop" in serving.log.read_text())
        os.kill(serving.pid, signal.SIGTERM)
        await eventually("it has ended", lambda: not serving.alive)
        assert all(map(gone, pids))


async def test_they_stop_when_the_supervisor_is_gone(postgres_only: PostgresOnly, user: Names, tmp_path: Path) -> None:
    serving = await asyncio.to_thread(Workers, postgres_only, tmp_path / "workers.log")
    await eventually("all of them are there", lambda: len(serving.pids()) == WORKERS)
    async with all_there([serving.client(postgres_only, user("alice"), reconnect=False)]):
        pids = serving.pids()
        serving.kill()
        await eventually("they have ended", lambda: all(map(gone, pids)))


class TestWhatIsWrong:
    def rowbell(self, system: System, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **system.settings, **settings}
        return subprocess.run(
            [sys.executable, "-m", "rowbell", "serve", "--workers", "2", *options],
            env=env,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def test_a_port_that_is_taken_is_said_once(self, postgres_only: PostgresOnly) -> None:
        result = self.rowbell(postgres_only, "--port", str(postgres_only.gateways[0].port))
        assert result.returncode == 2
        assert result.stderr.count("cannot listen") == 1

    def test_a_database_that_cannot_be_reached_is_said_once(self, postgres_only: PostgresOnly) -> None:
        """In pipeline mode: in the other the supervisor itself looks at the database."""
        unused = f"127.0.0.1:{free_port()}"
        result = self.rowbell(
            postgres_only,
            "--port",
            "0",
            ROWBELL_DATABASE_URL=f"postgresql://nobody@{unused}/none",
            ROWBELL_REDIS_URL=f"redis://{unused}",
            ROWBELL_RABBITMQ_URL=f"amqp://{unused}",
        )
        assert result.returncode == 1
        assert result.stderr.count("A gateway does not start without its database") == 1

    def test_no_worker_starts_when_a_metrics_port_is_taken(self, postgres_only: PostgresOnly) -> None:
        port = free_port(following=1)
        with socket.create_server(("127.0.0.1", port + 1)):
            result = self.rowbell(postgres_only, "--port", "0", ROWBELL_METRICS_PORT=str(port))
        assert result.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port + 1}" in result.stderr
        assert "set ROWBELL_METRICS_PORT to another" in result.stderr
        assert "worker_started" not in result.stderr

    @pytest.mark.parametrize("number", ["0", "-1", "two", "257"])
    def test_a_number_of_workers_that_is_none(self, postgres_only: PostgresOnly, number: str) -> None:
        result = self.rowbell(postgres_only, "--workers", number)
        assert result.returncode == 2
        assert "it must be a whole number from 1 to 256" in result.stderr

    def test_embedded_has_one(self, postgres_only: PostgresOnly) -> None:
        result = self.rowbell(postgres_only, "--embedded")
        assert result.returncode == 2
        assert "omit --workers" in result.stderr

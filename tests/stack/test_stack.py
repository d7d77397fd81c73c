"""The stack itself, as a person starts and stops it, and as tests use it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stack import Home, Stack
from stack.pipeline import PROCESSES, SERVERS
from stack.ports import free_ports, is_busy
from stack.supervision import processes_of


class Person:
    """Runs `python -m stack`, in a home and on ports of their own."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ports = free_ports()

    def __call__(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command, env = self.command(*arguments), self.environ | environ
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def killed_start(self, when: str = "redis") -> None:
        """A start that is killed when one of its servers is up; Redis is the quickest."""
        with subprocess.Popen(self.command("start"), env=self.environ, stdout=subprocess.DEVNULL) as start:
            try:
                deadline = time.monotonic() + 30
                while not (self.supervisord_pid.exists() and self.stack().answers(when)):
                    assert start.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            finally:
                start.kill()

    @property
    def supervisord_pid(self) -> Path:
        return self.home.path / "supervisord.pid"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "stack", "--home", str(self.home.path), *arguments]

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, **{name: str(port) for name, port in self.ports.items()}}

    def stack(self) -> Stack:
        return Stack(self.home, self.ports)


@pytest.fixture
def person() -> Iterator[Person]:
    person = Person(Home(Path(tempfile.gettempdir()) / f"rowbell-{os.getpid()}-{secrets.token_hex(4)}"))
    yield person
    person.stack().remove()


def test_everything_starts_once_and_stops_without_leaving_a_process(person: Person) -> None:
    # Given a start that was killed on its way
    person.killed_start()
    # When
    started, again = person("start"), person("start")
    status = person("status")
    # Then
    assert started.returncode == 0, started.stdout + started.stderr
    assert "rowbell listen alice" in started.stdout
    assert "Everything is already up." in again.stdout
    assert (status.returncode, status.stdout.count("RUNNING")) == (0, len(SERVERS) + len(PROCESSES)), status.stdout
    # And it works for whoever sources the environment
    script = f'. {person.home.env_file}; psql -qAt "$ROWBELL_DATABASE_URL" -c "$1"; rowbell connector status'
    insert = "INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello') RETURNING id"
    ran = subprocess.run(["sh", "-c", script, "sh", insert], capture_output=True, text=True, check=False)
    assert ran.stdout == "1\nnotification-postgres: RUNNING\ntask 0: RUNNING\n", ran.stderr
    # When
    stopped, nothing = person("stop"), person("stop")
    # Then
    assert stopped.stdout.startswith("Stopped, after "), stopped.stdout + stopped.stderr
    assert nothing.stdout == "Nothing is running.\n"
    assert processes_of(person.home) == []
    assert [name for name, port in person.ports.items() if is_busy(port)] == []


def test_a_stop_ends_what_a_killed_supervisord_left(person: Person) -> None:
    # Given
    person.killed_start()
    os.kill(int(person.supervisord_pid.read_text()), signal.SIGKILL)
    assert person.stack().answers("redis")
    # When
    ran = person("stop")
    # Then
    assert (ran.returncode, ran.stdout) == (
        0,
        "Only leftovers of a killed supervisord were running; they are stopped.\n",
    )
    assert processes_of(person.home) == []
    assert [name for name, port in person.ports.items() if is_busy(port)] == []


def test_postgres_runs_in_a_home_below_a_directory_that_is_its_owners_alone(tmp_path: Path) -> None:
    # Given
    tmp_path.chmod(0o700)
    person = Person(Home(tmp_path / "home"))
    try:
        # When
        person.killed_start(when="postgres")
        # Then
        assert person.stack().answers("postgres")
        assert tmp_path.stat().st_mode & 0o777 == 0o700
    finally:
        person.stack().remove()


def test_a_busy_port_ends_the_start_before_anything_runs(person: Person) -> None:
    # Given
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = str(somebody.getsockname()[1])
        # When
        ran = person("start", STACK_CONNECT_PORT=port)
    # Then
    assert ran.returncode == 1
    assert f"Port {port} is busy, and connect needs it." in ran.stderr
    assert processes_of(person.home) == []


def test_a_server_that_is_killed_comes_back_by_itself(stack: Stack) -> None:
    # Given
    before = stack.programs()["redis"].pid
    # When
    stack.kill("redis", signal.SIGKILL)
    stack.wait_until_answers("redis")
    # Then
    assert stack.programs()["redis"].pid != before


def test_of_a_server_that_is_halted_no_thread_runs_any_more(stack: Stack) -> None:
    group = stack.programs()["rabbitmq"].pid
    # When
    stack.kill("rabbitmq", signal.SIGSTOP)
    # Then
    try:
        listed = subprocess.run(["ps", "-eLo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    finally:
        stack.kill("rabbitmq", signal.SIGCONT)
    states = [state for its_group, state in map(str.split, listed.splitlines()) if int(its_group) == group]
    assert len(states) > 10
    assert {state[0] for state in states} == {"T"}


def test_a_server_that_is_stopped_stays_away_until_it_is_started(stack: Stack) -> None:
    # When
    stack.stop_program("redis")
    # Then
    assert not stack.answers("redis")
    assert stack.programs()["redis"].state == "STOPPED"
    # When
    stack.start_program("redis")
    # Then
    assert stack.answers("redis")


@pytest.mark.parametrize("login", ["gateway", "app"])
def test_a_login_can_do_what_its_role_may_and_no_more(stack: Stack, login: str) -> None:
    with psycopg.connect(stack.database_url(login), autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM notification").fetchone()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE notification")


def test_no_program_of_the_stack_can_be_reached_from_another_machine(stack: Stack) -> None:
    # Given every listening socket of our processes
    ours = {inode for pid in processes_of(stack.home) for inode in sockets_of(pid)}
    # When
    addresses = [address for address, inode in listening() if inode in ours]
    # Then
    assert len(addresses) >= len(SERVERS)
    assert {host for host, _, _ in (address.partition(":") for address in addresses)} <= LOOPBACK


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same mapped into IPv6, and ::1, as /proc/net writes them."""


def listening() -> Iterator[tuple[str, str]]:
    """(address:port in hexadecimal, inode) of each listening TCP socket."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield fields[1], fields[9]


def sockets_of(pid: int) -> Iterator[str]:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(descriptor)
        if target.startswith("socket:["):
            yield target[len("socket:[") : -1]

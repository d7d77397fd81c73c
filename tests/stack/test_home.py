"""The home: secrets, and data that the account of PostgreSQL can reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from stack import Home, StackError, postgres


def test_a_secret_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    # Given
    home = Home(tmp_path / "home")
    home.create()
    # When
    first, second, other = home.secret("redis"), home.secret("redis"), home.secret("jwt")
    # Then
    assert first == second != other
    assert len(first) == 64
    assert (home.path / "secrets" / "redis").stat().st_mode & 0o777 == 0o600


def test_a_home_whose_path_is_too_long_for_a_socket_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="give a shorter directory"):
        Home(tmp_path / ("x" * 100)).create()


def test_a_cluster_is_made_where_its_account_can_reach_it_and_nobody_elses_directory_changes() -> None:
    # Given a home below a directory that is its owner's alone
    closed = Path(tempfile.mkdtemp(prefix="rowbell-closed-"))
    home = Home(closed / "home")
    home.create()
    try:
        # When
        postgres.prepare(home)
        # Then
        data = home.path / "postgres"
        as_root = os.geteuid() == 0
        assert closed.stat().st_mode & 0o777 == 0o700
        assert (data / "PG_VERSION").read_text() == "15\n"
        assert data.is_symlink() == as_root
        assert data.resolve().stat().st_mode & 0o777 == 0o700
        assert data.resolve().owner() == postgres.account()
    finally:
        postgres.remove(home)
        shutil.rmtree(closed)


def test_a_cluster_that_was_half_made_is_made_again() -> None:
    # Given what a start that was killed leaves
    home = Home(Path(tempfile.mkdtemp(prefix="rowbell-")) / "home")
    home.create()
    try:
        (home.path / "postgres.partial").mkdir()
        (home.path / "postgres.partial" / "base").touch()
        # When
        postgres.prepare(home)
        # Then
        control = [f"{postgres.BIN}/pg_controldata", str(home.path / "postgres")]
        assert "shut down" in subprocess.run(control, capture_output=True, text=True, check=True).stdout
    finally:
        postgres.remove(home)
        shutil.rmtree(home.path.parent)

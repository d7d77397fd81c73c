"""A home of its own for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowbell.embedded import EmbeddedPostgres, Home


@pytest.fixture
def home() -> Iterator[Home]:
    """Where the account of the server can get: the directories that pytest gives are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="rowbell-"))
    directory.chmod(0o711)
    home = Home(directory / "home")
    yield home
    EmbeddedPostgres(home).clean()
    shutil.rmtree(directory)

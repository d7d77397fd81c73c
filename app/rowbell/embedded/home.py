"""The directory of everything that is created on this machine: data, secrets, logs, and the environment file to
source.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rowbell.errors import DatabaseError

LOCK = "embedded.lock"


@dataclass(frozen=True)
class Home:
    """A directory, usually `.rowbell`. Only its owner can read the secrets in it."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.absolute())

    @property
    def env_file(self) -> Path:
        """The file that a user sources."""
        return self.path / "env"

    def log(self, program: str) -> Path:
        """Return the log file of a program."""
        return self.path / "logs" / f"{program}.log"

    def create(self) -> None:
        """Create the directory unless it exists. Raises DatabaseError if it is another user's."""
        if not self.path.exists():
            # As root, PostgreSQL runs as another user, who must be able to reach its data.
            make_directory(self.path, 0o711 if os.geteuid() == 0 else 0o700)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise DatabaseError(f"{self.path} is not writable: run this as its owner, or as root")
        self.directory("logs")

    def directory(self, name: str) -> Path:
        """Return the directory of a server, created if needed, accessible to us alone."""
        directory = self.path / name
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    def secret(self, name: str) -> str:
        """Return a password or key of 64 hexadecimal digits, created when it is first requested.

        Hexadecimal, because it is inserted unquoted into URLs, shell scripts and four configuration formats.
        """
        file = self.directory("secrets") / name
        if not file.exists():
            candidate = file.with_name(f"{name}.{secrets.token_hex(4)}")
            write_private(candidate, secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # another thread was faster: use its secret
                os.link(candidate, file)
            candidate.unlink()
        return file.read_text()

    def lock(self) -> TextIO:
        """Lock this home's embedded server until the returned file is closed or this process ends.

        Raises DatabaseError, which names the process that holds the lock.
        """
        file = os.fdopen(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "unknown"
            file.close()
            raise DatabaseError(
                f"another process (pid {holder}) uses the embedded PostgreSQL in {self.path}. Stop it first: "
                f"kill {holder}"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        return file


def make_directory(directory: Path, mode: int) -> None:
    """Create a directory with this mode, whatever the umask, and missing parents with the default mode."""
    directory.mkdir(parents=True)
    directory.chmod(mode)


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read, atomically."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    partial.replace(file)


def exports(environ: Mapping[str, str]) -> str:
    """Return lines for a shell to source."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items())

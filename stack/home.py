"""The directory that holds everything a stack makes: data, secrets, logs, and the environment to source."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError

CHECKOUT = Path(__file__).resolve().parent.parent

SOCKET = "supervisor.sock"

LONGEST_HOME = 107 - len(f"/{SOCKET}.4194304")
"""Bytes. Linux takes 107 for the path of a socket, and supervisor first binds its own with its pid appended."""


@dataclass(frozen=True, slots=True)
class Home:
    """One directory, by default `.rowbell` in the checkout. What is secret in it is readable by its owner alone."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        return cls(CHECKOUT / ".rowbell")

    @property
    def socket(self) -> Path:
        """Where supervisord answers."""
        return self.path / SOCKET

    @property
    def env_file(self) -> Path:
        """What a person sources."""
        return self.path / "env"

    @property
    def processes_env_file(self) -> Path:
        """What the dispatcher and the gateways run with."""
        return self.path / "processes.env"

    @property
    def ports_file(self) -> Path:
        """The ports of what runs, whatever stack/ports.env says by now."""
        return self.path / "ports.env"

    def log(self, program: str) -> Path:
        return self.path / "logs" / f"{program}.log"

    def create(self) -> None:
        """Make the directory. StackError if its path is too long for a socket."""
        if (size := len(os.fsencode(self.path))) > LONGEST_HOME:
            raise StackError(
                f"{self.path} has {size} bytes, and a socket in it can have at most {LONGEST_HOME}: "
                "give a shorter directory, as in: python -m stack --home ~/.rowbell start"
            )
        if not self.path.exists():
            # As root, Postgres runs as another user who must pass through to its data.
            self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True)
        self.directory("logs")

    def directory(self, name: str) -> Path:
        """A directory of one server, ours alone."""
        directory = self.path / name
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    def secret(self, name: str) -> str:
        """A password or key of 64 hexadecimal digits, made when it is first asked for.

        Hexadecimal, because it goes into URLs, shell scripts and four configuration formats, unquoted.
        """
        file = self.directory("secrets") / name
        if not file.exists():
            candidate = file.with_name(f"{name}.{secrets.token_hex(4)}")
            write_private(candidate, secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # another thread was quicker: its secret counts
                os.link(candidate, file)
            candidate.unlink()
        return file.read_text()


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(text)
    partial.replace(file)


def exports(environ: Mapping[str, str]) -> str:
    """Lines for a shell to source."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environ.items())

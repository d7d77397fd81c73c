"""Whom PostgreSQL runs as: ourselves, or as root, which it refuses, an account without rights."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rowbell.errors import DatabaseError

UNPRIVILEGED = ("postgres", "nobody")
"""For root, the first that this system has. Debian's package makes `postgres`; `nobody` is everywhere."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this system, and running commands as it."""

    uid: int
    gid: int

    @classmethod
    def usual(cls) -> Account:
        """For data that is still to be made."""
        if os.geteuid():
            return cls(os.geteuid(), os.getegid())
        for name in UNPRIVILEGED:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise DatabaseError(
            f"as root, PostgreSQL runs as another user, and this system has none of {', '.join(UNPRIVILEGED)}. "
            "Run this as an ordinary user"
        )

    @classmethod
    def owner_of(cls, data: Path) -> Account:
        """For data that exists. DatabaseError if we cannot run as its owner."""
        status = data.stat()
        account = cls(status.st_uid, status.st_gid)
        if os.geteuid() not in (0, account.uid):
            raise DatabaseError(f"{data} belongs to {account.name}: run this as {account.name}, or as root")
        if account.uid == 0:
            usual = cls.usual().name
            raise DatabaseError(f"{data} belongs to root, which PostgreSQL refuses: chown -R {usual} {data}")
        return account

    @property
    def name(self) -> str:
        """The number if the system has no name for it."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def reaches(self, directory: Path) -> bool:
        """May it pass through to what is in the directory?"""
        return self.run(["test", "-x", str(directory)]).returncode == 0

    def give(self, path: Path) -> None:
        """Make the account the owner of one file or directory of ours."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, from a directory that the account can be in. It does not outlive us."""
        return subprocess.run(
            [*_dies_with_us(signal.SIGKILL), *command],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._identity(),
        )

    def spawn(self, command: Sequence[str], log: IO[bytes], last: signal.Signals) -> subprocess.Popen[bytes]:
        """Start a server that gets the signal `last` when the calling thread is gone, even by kill -9.

        In a session of its own: Ctrl-C is for us, who stop the server when nothing needs it any more.
        """
        return subprocess.Popen(
            [*_dies_with_us(last), *command],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            **self._identity(),
        )

    def _identity(self) -> dict[str, Any]:
        """For `subprocess`. Another user's process does not get our environment, which may hold secrets."""
        if os.geteuid():
            return {}
        try:
            groups = os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)
        except KeyError:
            groups = []
        return {"user": self.uid, "group": self.gid, "extra_groups": groups, "env": {"PATH": os.defpath}}


def _dies_with_us(last: signal.Signals) -> tuple[str, ...]:
    """What stands before a command. The credentials are set before it: setting them clears this wish."""
    setpriv = shutil.which("setpriv")  # util-linux, so not on macOS: there it may outlive a kill -9
    return (setpriv, f"--pdeathsig={last.name.removeprefix('SIG')}") if setpriv else ()

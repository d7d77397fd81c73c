"""The account that PostgreSQL runs as: ours or, since it refuses root, an unprivileged one."""

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
"""As root, the first of these that exists is used. Debian's package creates `postgres`; `nobody` is everywhere."""


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this system, and how to run commands as that user."""

    uid: int
    gid: int

    @classmethod
    def usual(cls) -> Account:
        """Return the account for data that does not exist yet. Raises DatabaseError if there is none."""
        if os.geteuid():
            return cls(os.geteuid(), os.getegid())
        for name in UNPRIVILEGED:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise DatabaseError(
            f"as root, PostgreSQL must run as another user, and this system has none of {', '.join(UNPRIVILEGED)}. "
            "Run this as an ordinary user"
        )

    @classmethod
    def owner_of(cls, data: Path) -> Account:
        """Return the account for existing data. Raises DatabaseError if we cannot run as its owner."""
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
        """The user's name, or the uid if there is none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def reaches(self, directory: Path) -> bool:
        """Return whether the account may access the contents of the directory."""
        return self.run(["test", "-x", str(directory)]).returncode == 0

    def give(self, path: Path) -> None:
        """Make the account the owner of a file or directory of ours."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid)

    def run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in a directory that the account can access. It does not outlive us."""
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
        """Start a server that is sent the signal `last` when the calling thread ends, even by kill -9.

        It runs in its own session: Ctrl-C is for us, and we stop the server once nothing needs it any more.
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
        """Return arguments for `subprocess`. Another user's process does not inherit our environment, which may contain
        secrets.
        """
        if os.geteuid():
            return {}
        try:
            groups = os.getgrouplist(pwd.getpwuid(self.uid).pw_name, self.gid)
        except KeyError:
            groups = []
        return {"user": self.uid, "group": self.gid, "extra_groups": groups, "env": {"PATH": os.defpath}}


def _dies_with_us(last: signal.Signals) -> tuple[str, ...]:
    """Return the prefix of a command that dies with us. The credentials must be set before, since setting them clears
    the request.
    """
    setpriv = shutil.which("setpriv")  # util-linux, so not on macOS: there the command may outlive a kill -9
    return (setpriv, f"--pdeathsig={last.name.removeprefix('SIG')}") if setpriv else ()

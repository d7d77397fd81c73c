"""A cluster: the directory of data of one PostgreSQL, where it is, how it is made and deleted, and what uses it."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rowbell.embedded.account import Account
from rowbell.embedded.home import Home, make_directory, write_private
from rowbell.errors import DatabaseError

SUPERUSER = "postgres"

ELSEWHERE = Path("/var/lib/rowbell")
"""For the data of a home that the account cannot reach."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server that uses a cluster."""

    pid: int
    status: str
    """`starting`, `ready`, `stopping` or `standby`, as in postmaster.pid; empty in its first moments."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One in a home. Its superuser is `postgres`, with the home's secret of that name as the password."""

    home: Home
    name: str
    """Of its directory in the home."""

    @property
    def path(self) -> Path:
        """In the home: the directory, or a link to it."""
        return self.home.path / self.name

    @property
    def account(self) -> Account:
        """Whom its server runs as. DatabaseError if we cannot."""
        return Account.owner_of(self.path) if self.path.exists() else Account.usual()

    @property
    def data(self) -> Path:
        """Where it is, or will be: in the home, unless the account cannot get there. DatabaseError as for `account`.

        It cannot in a checkout below a directory of mode 0700; we do not change directories that we did not make.
        """
        account = self.account
        if self.path.exists():
            return self.path.resolve()
        if os.geteuid() or account.reaches(self.home.path):
            return self.path
        if not ELSEWHERE.exists():
            make_directory(ELSEWHERE, 0o711)
        # Named after a secret that goes with the home: a later home on the same path gets other data.
        return ELSEWHERE / f"{self.name}-{hashlib.sha256(self.home.secret(SUPERUSER).encode()).hexdigest()[:16]}"

    @property
    def version(self) -> str | None:
        """The major version of PostgreSQL that made it; None if it is still to be made."""
        file = self.data / "PG_VERSION"
        return file.read_text().strip() if file.exists() else None

    def make(self, binaries: Path, *locale: str) -> None:
        """Make it, once. A start that was killed midway leaves no half of one.

        `binaries` is a directory with initdb, `locale` what initdb is told about it.
        """
        if not self.path.exists():
            self.path.unlink(missing_ok=True)  # a link to data that somebody deleted
        data = self.data
        if self.version is None:
            partial = data.with_name(f"{data.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            make_directory(partial, 0o700)
            self.account.give(partial)
            self._initdb(partial, binaries, locale)
            partial.replace(data)
        if not self.path.exists():
            self.path.symlink_to(data)

    def remove(self) -> None:
        """Delete it, where it really is; no server may use it. DatabaseError if we did not put it there."""
        if not self.home.path.exists():
            return
        data = self.data
        if self.path.is_symlink() and self.path.exists() and data.parent != ELSEWHERE:
            raise DatabaseError(f"{self.path} is a link to {data}, which Rowbell did not make: delete it yourself")
        partial = data.with_name(f"{data.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if data.exists():
            data.replace(partial)  # what a kill leaves here is never used
            shutil.rmtree(partial)
        if self.path.is_symlink():
            self.path.unlink()

    def server(self) -> Postmaster | None:
        """The server that uses the data, whoever started it."""
        lines = self._postmaster_pid()
        pid = _pid(lines)
        if not _may_be_ours(pid) or self._is_somebody_else(pid):
            return None
        return Postmaster(pid, lines[7].strip() if len(lines) > 7 else "")

    def forget_reused_pid(self) -> None:
        """Delete a postmaster.pid whose number another process has by now; after a reboot, or in a new container.

        PostgreSQL ignores a dead one, but would take that process for its server. The data stay safe: it also looks
        for processes that hold its shared memory, whose key follows from the data directory.
        """
        pid = _pid(self._postmaster_pid())
        if _may_be_ours(pid) and self._is_somebody_else(pid):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _postmaster_pid(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _is_somebody_else(self, pid: int) -> bool:
        """A server's working directory is its data. Where we cannot see that, we assume the worst."""
        if not Path("/proc/self/cwd").exists():
            return False
        try:
            return not Path(f"/proc/{pid}/cwd").samefile(self.data)
        except FileNotFoundError:  # it ended
            return True
        except PermissionError:
            return False

    def _initdb(self, data: Path, binaries: Path, locale: tuple[str, ...]) -> None:
        password = data.with_name(f"{data.name}.password")
        write_private(password, self.home.secret(SUPERUSER))
        self.account.give(password)
        try:
            made = self.account.run(
                [
                    f"{binaries}/initdb",
                    f"--pgdata={data}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    *locale,
                ]
            )
        finally:
            password.unlink()
        if made.returncode:
            raise DatabaseError(f"initdb could not make the PostgreSQL cluster in {data}:\n{made.stderr.strip()}")


def _pid(lines: list[str]) -> int:
    """The first line of a postmaster.pid, negative for a server with a single session; 0 if it is not written yet."""
    return abs(int(lines[0])) if lines else 0


def _may_be_ours(pid: int) -> bool:
    """As PostgreSQL judges it: a process of another user cannot have opened the data."""
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True

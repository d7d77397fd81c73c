"""A PostgreSQL cluster, i.e. a data directory: where it is, how it is created and deleted, and which server uses it."""

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
"""Where the data of a home goes if the account cannot access the home."""


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server that uses a cluster."""

    pid: int
    status: str
    """`starting`, `ready`, `stopping` or `standby`, as in postmaster.pid; empty in its first moments."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in a home. Its superuser is `postgres`, whose password is the home's secret of that name."""

    home: Home
    name: str
    """Name of its directory in the home."""

    @property
    def path(self) -> Path:
        """Path in the home: the data directory, or a link to it."""
        return self.home.path / self.name

    @property
    def account(self) -> Account:
        """The account that its server runs as. Raises DatabaseError if we cannot run as that account."""
        return Account.owner_of(self.path) if self.path.exists() else Account.usual()

    @property
    def data(self) -> Path:
        """Where the data is, or will be: in the home, unless the account cannot access it. Raises DatabaseError as
        `account` does.

        The account cannot access a checkout below a directory of mode 0700, and we do not change directories that we
        did not create.
        """
        account = self.account
        if self.path.exists():
            return self.path.resolve()
        if os.geteuid() or account.reaches(self.home.path):
            return self.path
        if not ELSEWHERE.exists():
            make_directory(ELSEWHERE, 0o711)
        # Named after a secret that is deleted with the home: a later home with the same path gets other data.
        return ELSEWHERE / f"{self.name}-{hashlib.sha256(self.home.secret(SUPERUSER).encode()).hexdigest()[:16]}"

    @property
    def version(self) -> str | None:
        """The major version of PostgreSQL that created the data, or None if it does not exist yet."""
        file = self.data / "PG_VERSION"
        return file.read_text().strip() if file.exists() else None

    def make(self, binaries: Path, *locale: str) -> None:
        """Create the data unless it exists; if that is interrupted, no partial data is left in its place.

        `binaries` is a directory with initdb, `locale` its locale options. Raises DatabaseError if initdb fails.
        """
        if not self.path.exists():
            self.path.unlink(missing_ok=True)  # a dangling link, if the data was deleted
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
        """Delete the data, following the link; no server may be using it. Raises DatabaseError if we did not put it
        there.
        """
        if not self.home.path.exists():
            return
        data = self.data
        if self.path.is_symlink() and self.path.exists() and data.parent != ELSEWHERE:
            raise DatabaseError(f"{self.path} is a link to {data}, which Rowbell did not make: delete it yourself")
        partial = data.with_name(f"{data.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if data.exists():
            data.replace(partial)  # leftovers of an interrupted removal are never used
            shutil.rmtree(partial)
        if self.path.is_symlink():
            self.path.unlink()

    def server(self) -> Postmaster | None:
        """Return the server that uses the data, whoever started it, or None."""
        lines = self._postmaster_pid()
        pid = _pid(lines)
        if not _may_be_ours(pid) or self._is_somebody_else(pid):
            return None
        return Postmaster(pid, lines[7].strip() if len(lines) > 7 else "")

    def forget_reused_pid(self) -> None:
        """Delete a postmaster.pid whose pid now belongs to another process, as after a reboot or in a new container.

        PostgreSQL ignores the pid of a dead process, but would take another process for a server. The data stays safe:
        PostgreSQL also checks for processes attached to its shared memory, whose key follows from the data directory.
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
        """Return whether the process is not a server of this cluster, whose working directory would be the data.

        If we cannot tell, assume that it is one.
        """
        if not Path("/proc/self/cwd").exists():
            return False
        try:
            return not Path(f"/proc/{pid}/cwd").samefile(self.data)
        except FileNotFoundError:  # it has ended
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
            raise DatabaseError(f"initdb could not create the PostgreSQL cluster in {data}:\n{made.stderr.strip()}")


def _pid(lines: list[str]) -> int:
    """Return the pid in a postmaster.pid, which is negative for a single-user server; 0 if it is not written yet."""
    return abs(int(lines[0])) if lines else 0


def _may_be_ours(pid: int) -> bool:
    """Return whether the process may be a server of ours, by PostgreSQL's rule: another user's process cannot use the
    data.
    """
    if not pid:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True

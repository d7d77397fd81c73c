"""The directory of everything that a stack creates: data, secrets, logs, and the environment file to source."""

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
"""Bytes. Linux allows 107 for the path of a socket, and supervisor first binds its socket with its pid appended."""


class Home(embedded.Home):
    """A home, by default `.rowbell` in the checkout, that also holds a stack."""

    @classmethod
    def default(cls) -> Home:
        """Return the home in the checkout."""
        return cls(CHECKOUT / ".rowbell")

    @property
    def socket(self) -> Path:
        """The socket that supervisord listens on."""
        return self.path / SOCKET

    @property
    def processes_env_file(self) -> Path:
        """The settings of the dispatcher and the gateways."""
        return self.path / "processes.env"

    @property
    def ports_file(self) -> Path:
        """The ports of the running stack, whatever stack/ports.env says by now."""
        return self.path / "ports.env"

    def create(self) -> None:
        """Create the directory. Raises StackError if that is not permitted, or if its path is too long for a socket."""
        if (size := len(os.fsencode(self.path))) > LONGEST_HOME:
            raise StackError(
                f"{self.path} has {size} bytes, but at most {LONGEST_HOME} are possible with a socket in it: "
                "give a shorter directory, for example: python -m stack --home ~/.rowbell start"
            )
        try:
            super().create()
        except RowbellError as error:
            raise StackError(str(error)) from error

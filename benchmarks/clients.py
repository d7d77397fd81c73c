"""Connected users, in a process of their own: see `benchmarks.counting_client`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from benchmarks import machine

ADDRESSES = 8
"""Of this machine, from which users connect in turn."""


class Clients:
    """`with Clients() as clients:` starts the process, and ends it. RuntimeError says what a server did to them."""

    def __enter__(self) -> Clients:
        command = [sys.executable, "-m", "benchmarks.counting_client"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    def come(self, places: Sequence[tuple[str, str | None]], at_once: int = 50, badge: bool = False) -> float:
        """Connect to each URL, with a token CONNECT and subscribe too, so many at a time; seconds until the last one
        was ready: its receipt came, or without a token the answer to its handshake.

        With `badge` each subscribes to the number of its unread rows, too.
        """
        seconds: float = self._ask(
            "come", places=places, at_once=at_once, addresses=ADDRESSES, subscriptions=2 if badge else 1
        )["seconds"]
        return seconds

    def warm_up(self, pid: int, places: Sequence[tuple[str, str | None]]) -> int:
        """Come and leave; the bytes of memory of the server with this process id, when it is at rest afterwards."""
        self.come(places)
        self.leave()
        return machine.settled_pss(pid)

    def expect(self, frames: int) -> None:
        """Count anew; `counted` waits for so many."""
        self._ask("expect", frames=frames)

    def counted(self) -> dict[str, Any]:
        """When the last message has come: `first` and `last` (when they came), `frames`, `distinct` (ids), `replayed`,
        `numbers` (of unread rows, beside the frames), `bytes`; and `cpu`, the seconds of processor time that the
        clients themselves took since `expect`.
        """
        return self._ask("counted")

    def leave(self) -> None:
        """Close all connections."""
        self._ask("leave")

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the clients' process ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

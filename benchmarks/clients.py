"""Connected users, in a separate process: see `benchmarks.counting_client`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from benchmarks import machine

ADDRESSES = 8
"""Local addresses that users connect from, in turn."""


class Clients:
    """Controls the client process: `with Clients() as clients:` starts and ends it.

    Methods raise RuntimeError with what a server did wrong.
    """

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
        """Process id of the clients."""
        return self._process.pid

    def come(self, places: Sequence[tuple[str, str | None]], at_once: int = 50, badge: bool = False) -> float:
        """Connect to each URL, and with a token also send CONNECT and subscribe; `at_once` connections at a time.

        Return the seconds until the last one was ready: its receipt had arrived or, without a token, the answer to its
        handshake. With `badge` each also subscribes to the number of its unread rows.
        """
        seconds: float = self._ask(
            "come", places=places, at_once=at_once, addresses=ADDRESSES, subscriptions=2 if badge else 1
        )["seconds"]
        return seconds

    def warm_up(self, pid: int, places: Sequence[tuple[str, str | None]]) -> int:
        """Connect and disconnect. Return the bytes of memory of the server with this process id, once it is idle
        again.
        """
        self.come(places)
        self.leave()
        return machine.settled_pss(pid)

    def expect(self, frames: int) -> None:
        """Restart counting; `counted` waits for this many frames."""
        self._ask("expect", frames=frames)

    def counted(self) -> dict[str, Any]:
        """Wait for the last message, and return the counts.

        These are `first` and `last` (when they arrived), `frames`, `distinct` (ids), `replayed`, `numbers` (of unread
        rows, not included in the frames), `bytes`, and `cpu`, the seconds of processor time of the clients since
        `expect`.
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

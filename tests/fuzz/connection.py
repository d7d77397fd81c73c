"""Carries out one plan on a socket, and says what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fuzz import wire
from tests.fuzz.plan import (
    Answer,
    AwaitHead,
    AwaitTexts,
    Deafness,
    Farewell,
    Linger,
    Pause,
    Plan,
    Reset,
    Send,
    ShutDown,
    Step,
)

SEND_PATIENCE = 3.0
"""Seconds that a gateway may leave what is sent unread: then the client gives up, as it may read slowly on purpose."""
LAST_WORDS = 1.0
"""Seconds between the last step and the end of the connection, for answers to come."""


@dataclass
class Outcome:
    seed: int
    attack: str
    target: int
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    sent: int = 0
    """Steps that were sent; each may hold many frames."""
    received: int = 0
    statuses: list[int] = field(default_factory=list)
    code: int | None = None
    problems: list[str] = field(default_factory=list)


class Connection:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._socket = socket.socket()
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._incoming = wire.Incoming(plan.user, plan.json)
        self._came = asyncio.Event()
        self._hears = asyncio.Event()
        self._hears.set()
        self._ended_at: float | None = None
        """Tracks when the gateway ended the TCP connection."""
        self._gives_up = False
        """Tracks whether it is the client who ended it, or does not listen."""
        self.outcome = Outcome(plan.seed, plan.attack, plan.target)

    async def run(self, address: tuple[str, int]) -> Outcome:
        began = time.monotonic()
        reader: asyncio.Task[None] | None = None
        try:
            await self._loop.sock_connect(self._socket, address)
            reader = self._loop.create_task(self._read())
            for step in self._plan.steps:
                if self._ended_at is not None or self._gives_up:
                    break
                await self._carry_out(step)
            if not self._gives_up:
                await self._until(lambda: False, LAST_WORDS if self._incoming.code is None else SEND_PATIENCE)
        except (OSError, TimeoutError):
            pass  # the gateway has ended it, or does not read
        finally:
            if reader is not None:
                reader.cancel()
                await asyncio.wait([reader])
            self._socket.close()
        self._judge(began)
        return self.outcome

    # Doing.

    async def _carry_out(self, step: Step) -> None:
        match step:
            case Send(data):
                await self._send(data)
            case Pause(seconds):
                await self._until(lambda: False, seconds)
            case AwaitHead(within):
                await self._until(lambda: bool(self._incoming.statuses), within)
            case AwaitTexts(count, within):
                wanted = self._incoming.texts + count
                await self._until(lambda: self._incoming.texts >= wanted, within)
            case Answer(template, most):
                await self._answer(template, most)
            case Deafness(seconds):
                self._hears.clear()
                await asyncio.sleep(seconds)
                self._hears.set()
            case ShutDown(direction):
                self._gives_up = direction == socket.SHUT_RD
                self._socket.shutdown(direction)
            case Reset():
                self._gives_up = True
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case Farewell(within):
                await self._send(wire.frame(wire.CLOSE, b"\x03\xe8"))
                await self._until(lambda: False, within)
            case Linger(seconds):
                await self._until(lambda: False, seconds)

    async def _send(self, data: bytes) -> None:
        self.outcome.sent += 1
        async with asyncio.timeout(SEND_PATIENCE):
            await self._loop.sock_sendall(self._socket, data)

    async def _answer(self, template: bytes, most: int) -> None:
        waiting, self._incoming.unanswered = self._incoming.unanswered, []
        for id in waiting[-most:]:
            await self._send(wire.frame(wire.TEXT, template.replace(b"%b", id)))

    async def _until(self, condition: Callable[[], bool], within: float) -> None:
        """Or until the gateway ends the connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition() and self._ended_at is None:
                    self._came.clear()
                    await self._came.wait()

    async def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(self._socket, 1 << 16):
                self._incoming.receive(data)
                self._came.set()
                await self._reply()
                await self._hears.wait()
        self._ended_at = time.monotonic()
        self._came.set()

    async def _reply(self) -> None:
        """What RFC 6455 demands of a client."""
        if self._plan.answers_close and self._incoming.code is not None:
            await self._loop.sock_sendall(self._socket, wire.frame(wire.CLOSE, b"\x03\xe8"))
        for payload in self._incoming.pings:
            await self._loop.sock_sendall(self._socket, wire.frame(wire.PONG, payload))
        self._incoming.pings.clear()

    # Judging.

    def _judge(self, began: float) -> None:
        came, plan = self._incoming, self._plan
        self.outcome.ended = time.time()
        self.outcome.received, self.outcome.statuses, self.outcome.code = came.texts, came.statuses, came.code
        self.outcome.problems = [*came.problems]
        if self._gives_up:
            return
        if plan.keeps_websocket and came.upgraded and self._ended_at is not None and came.code is None:
            self.outcome.problems.append("the gateway ended the TCP connection without a close frame (1006)")
        if plan.ended_within is not None and not (self._ended_at and self._ended_at - began <= plan.ended_within):
            self.outcome.problems.append(f"the gateway did not end the connection within {plan.ended_within} s")


async def carry_out(plan: Plan, address: tuple[str, int]) -> Outcome:
    return await Connection(plan).run(address)

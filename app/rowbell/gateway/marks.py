"""Marks rows as read for clients, for as long as it takes: what a client has asked for outlives its session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from rowbell.gateway.retry import until_answered

AT_ONCE = 2
"""Marks in work at a time, of the pool's connections: a client with a million rows must not take all of them."""

Mark = Callable[[], Awaitable[None]]


class Marks:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        """Tracks what has been asked for and does not stand yet."""
        self._turns = asyncio.Semaphore(AT_ONCE)
        """Held while PostgreSQL works, not between attempts: who waits for a locked row holds up nobody else."""
        self._group = asyncio.TaskGroup()

    async def run(self) -> None:
        """Until cancelled; an error that trying again does not mend is raised here."""
        async with self._group:
            await asyncio.Event().wait()

    def add(self, *marks: Mark) -> asyncio.Task[None]:
        """Carry these out one after the other; done when they stand. `run` must run."""
        task = self._group.create_task(self._carry_out(marks), name="mark")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def drain(self, within: float) -> int:
        """Wait for everything that has been asked for, so many seconds; how many do not stand then."""
        if not self._tasks:
            return 0
        _, late = await asyncio.wait(self._tasks, timeout=within)
        return len(late)

    async def _carry_out(self, marks: tuple[Mark, ...]) -> None:
        for mark in marks:
            await until_answered(partial(self._in_turn, mark))

    async def _in_turn(self, mark: Mark) -> None:
        async with self._turns:
            await mark()

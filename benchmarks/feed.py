"""Feeds a server under test: a pipe of bundles, each of which wakes the server once.

The benchmark makes and encodes a bundle; the server reads and decodes it, and then either delivers or discards it. The
difference between the two is the cost of delivery.

A bundle is its length in four bytes, DELIVER or DROP, and what the server decodes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable

DELIVER, DROP = b"+", b"-"


class Feed:
    """The benchmark's end. `reader` is the file descriptor for the server to inherit."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def close(self) -> None:
        """Close both ends."""
        os.close(self.reader)
        os.close(self._writer)

    def run(self, bodies: Iterable[bytes], interval: float, do: bytes) -> None:
        """Write these bundles, one every `interval` seconds."""
        due = time.perf_counter()
        for body in bodies:
            due += interval
            if (pause := due - time.perf_counter()) > 0:
                time.sleep(pause)
            os.write(self._writer, len(body).to_bytes(4, "big") + do + body)


async def bundles(file_descriptor: int) -> AsyncIterator[tuple[bool, bytes]]:
    """Yield, at the server's end, whether to deliver a bundle, and the bundle."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(file_descriptor, "rb")
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    while True:
        head = await reader.readexactly(5)
        yield head[4:] == DELIVER, await reader.readexactly(int.from_bytes(head[:4], "big"))
        await asyncio.sleep(0)  # as every bus does: let sockets have their turn between bundles

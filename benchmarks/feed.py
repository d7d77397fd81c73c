"""What feeds a server under measurement: a pipe of bundles, each of which wakes it once.

The one who measures makes and encodes a bundle; the server reads and decodes it, and then either delivers it or throws
it away. The difference of the two is what delivering costs.

A bundle is its length in four bytes, DELIVER or DROP, and what the server decodes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable

DELIVER, DROP = b"+", b"-"


class Feed:
    """The end of whoever measures. `reader` is the file descriptor that the server is to inherit."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()

    def close(self) -> None:
        os.close(self.reader)
        os.close(self._writer)

    def run(self, bodies: Iterable[bytes], interval: float, do: bytes) -> None:
        """Write these, one every `interval` seconds."""
        due = time.perf_counter()
        for body in bodies:
            due += interval
            if (pause := due - time.perf_counter()) > 0:
                time.sleep(pause)
            os.write(self._writer, len(body).to_bytes(4, "big") + do + body)


async def bundles(file_descriptor: int) -> AsyncIterator[tuple[bool, bytes]]:
    """The end of the server: whether to deliver it, and a bundle."""
    reader = asyncio.StreamReader()
    pipe = os.fdopen(file_descriptor, "rb")
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    while True:
        head = await reader.readexactly(5)
        yield head[4:] == DELIVER, await reader.readexactly(int.from_bytes(head[:4], "big"))
        await asyncio.sleep(0)  # as every bus does: sockets have their turn between bundles

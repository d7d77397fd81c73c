"""A gateway whose bus is a pipe: `python -m benchmarks.fed_gateway FD`, with the settings of any gateway.

Everything but the bus is real: sockets, sessions, ledgers, sweeps and the table. Bundles in the pipe are encoded as in
RabbitMQ.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvloop

from benchmarks import feed
from rowbell import logs
from rowbell.auth import Tokens
from rowbell.bus import Bundle
from rowbell.bus.rabbitmq import decode_bundle
from rowbell.config import Settings
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.server import listen, serve
from rowbell.inbox import Inbox
from rowbell.notification import Change
from rowbell.presence.memory import MemoryPresence


class PipeBus:
    """The bus as a gateway sees it: what arrives through the pipe."""

    gateway = "fed"

    def __init__(self, file_descriptor: int) -> None:
        self._file_descriptor = file_descriptor

    async def publish(self, bundles: Sequence[Bundle]) -> set[str]:
        raise NotImplementedError("the benchmark writes to the pipe")

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[PipeBus]:
        yield self

    async def bundles(self) -> AsyncIterator[list[Change]]:
        async for deliver, body in feed.bundles(self._file_descriptor):
            changes = decode_bundle(body)
            if deliver:
                yield changes

    async def close(self) -> None:
        pass


async def main(file_descriptor: int) -> None:
    settings = Settings.from_env(os.environ)
    logs.configure(settings)
    inbox = Inbox.connect(str(settings.database_url))
    bus = PipeBus(file_descriptor)
    gateway = Gateway(inbox, MemoryPresence(), bus, Tokens.of(settings), settings=settings)
    await serve(gateway, listen(settings.host, settings.port))
    await inbox.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

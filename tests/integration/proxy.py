"""A TCP link that a test can cut: in front of a server, on a port of its own."""

from __future__ import annotations

import asyncio


class Proxy:
    """`async with Proxy(port) as proxy:` forwards 127.0.0.1:`proxy.port` to 127.0.0.1:`port`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._links: set[asyncio.StreamWriter] = set()
        self._frozen: set[asyncio.StreamWriter] = set()
        self.accepted = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection there is now."""
        for writer in tuple(self._links):
            writer.transport.abort()

    def freeze(self) -> None:
        """Carry nothing more on the connections there are now, and keep them open: behind each is nobody."""
        self._frozen |= self._links

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self.accepted += 1
        pair = {writer, there_writer}
        self._links |= pair
        await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer), return_exceptions=True)
        for end in pair:
            end.transport.abort()
        self._links -= pair

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if writer not in self._frozen:
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

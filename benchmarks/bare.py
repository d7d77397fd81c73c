"""The baseline for the gateway: the same uvicorn with a minimal application.

python -m benchmarks.bare PORT            accept, and wait
python -m benchmarks.bare PORT starlette  the same, as a WebSocketRoute of Starlette
python -m benchmarks.bare PORT FD         accept, and send what `benchmarks.feed` writes to the pipe FD:
                                          a list of [number of a socket, in the order of connecting; text]
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import requests
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks import feed

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BACKLOG = 4096


@dataclass(frozen=True)
class Bare:
    """A running baseline server."""

    pid: int
    url: str
    """URL of its WebSockets."""


@contextmanager
def bare(port: int, *arguments: str, pass_fds: Sequence[int] = ()) -> Iterator[Bare]:
    """Run a baseline server. Raises RuntimeError if it does not start."""
    command = [sys.executable, "-m", "benchmarks.bare", str(port), *arguments]
    process = subprocess.Popen(command, pass_fds=pass_fds)
    try:
        _wait_until_it_answers(process, port)
        yield Bare(process.pid, f"ws://127.0.0.1:{port}/ws")
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    while process.poll() is None:
        try:
            requests.get(f"http://127.0.0.1:{port}/", timeout=5)
            return
        except requests.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError("uvicorn did not start; see its output above")


class Accept:
    """An ASGI application that accepts, and waits for the end of the connection."""

    def __init__(self) -> None:
        self._sends: list[Send] = []
        """Tracks the sockets, in the order of connecting."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0]})
        self._sends.append(send)
        while (await receive())["type"] == "websocket.receive":
            pass

    async def send(self, file_descriptor: int) -> None:
        """Send what arrives through the pipe."""
        decode = msgspec.msgpack.Decoder(list[tuple[int, str]]).decode
        async for deliver, body in feed.bundles(file_descriptor):
            frames = decode(body)
            if deliver:
                for number, text in frames:
                    await self._sends[number]({"type": "websocket.send", "text": text})


async def _accept_in_starlette(websocket: WebSocket) -> None:
    await websocket.accept(websocket.scope["subprotocols"][0])
    while (await websocket.receive())["type"] == "websocket.receive":
        pass


def _config(app: Any, port: int) -> uvicorn.Config:
    """Return the same configuration as a gateway's, see `rowbell.gateway.server`."""
    return uvicorn.Config(
        app,
        port=port,
        backlog=BACKLOG,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        proxy_headers=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
    )


async def _serve_fed(port: int, file_descriptor: int) -> None:
    app = Accept()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(app.send(file_descriptor))
        tasks.create_task(uvicorn.Server(_config(app, port)).serve())


def main(port: int, kind: str = "") -> None:
    if kind.isdigit():
        uvloop.run(_serve_fed(port, int(kind)))
    else:
        app = Starlette(routes=[WebSocketRoute("/ws", _accept_in_starlette)]) if kind == "starlette" else Accept()
        uvicorn.Server(_config(app, port)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])

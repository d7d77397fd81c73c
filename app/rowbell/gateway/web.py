"""HTTP and WebSocket paths: the ASGI application.

WebSocket scopes go to the sessions directly (a detour through Starlette costs 5 KiB a connection), the rest to
Starlette.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route

from rowbell.auth import bearer
from rowbell.errors import KeysUnavailable, TokenError
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.session import Receive, Send, Session
from rowbell.stomp.server import choose_subprotocol

Scope = MutableMapping[str, Any]

PATHS = frozenset({"/ws", "/ws/websocket", "/stomp"})
"""Where STOMP is spoken. `/ws/websocket` is what SockJS clients call the raw WebSocket."""

NO_SOCKJS = (
    "SockJS is not supported: every browser has WebSockets. Connect a WebSocket to /ws, "
    "with the subprotocol v12.stomp, v11.stomp or v10.stomp.\n"
)


class Web:
    """The ASGI application of one gateway."""

    def __init__(self, gateway: Gateway, routes: Sequence[BaseRoute] = ()) -> None:
        """`routes` are served besides the gateway's own."""
        self._gateway = gateway
        self._http = Starlette(
            routes=[
                Route("/live", self._live),
                Route("/ready", self._ready),
                Route("/ws/info", self._no_sockjs),
                *routes,
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        if scope["path"] not in PATHS:
            await _refuse(send, 404, f"There is no WebSocket at {scope['path']}: connect to /ws.")
            return
        if self._gateway.stopping:
            await _refuse(send, 503, "This gateway is stopping: connect again, to another one.")
            return
        try:
            token = token_of(scope)
            identity = None if token is None else await self._gateway.identify(None, token)
        except KeysUnavailable as error:
            await _refuse(send, 503, str(error))
            return
        except TokenError as error:
            await _refuse(send, 401, str(error))
            return
        subprotocol = choose_subprotocol(scope["subprotocols"])
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        await self._gateway.serve(Session(self._gateway, subprotocol, identity, receive, send))

    async def _live(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("live\n")

    async def _ready(self, request: Request) -> JSONResponse:
        reason = await self._gateway.ready()
        return JSONResponse({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    async def _no_sockjs(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(NO_SOCKJS, 404)


def token_of(scope: Scope) -> str | None:
    """The handshake's token: `?token=`, `?access_token=`, or the header `Authorization: Bearer`."""
    query: dict[str, list[str]] = parse_qs(scope["query_string"].decode("latin-1"))
    for name in ("token", "access_token"):
        if name in query:
            return query[name][0]
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bearer(value.decode("latin-1"))
    return None


async def _refuse(send: Send, status: int, reason: str) -> None:
    """An HTTP answer instead of the handshake's. A plain close would be a 403 without a word."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": (reason + "\n").encode()})

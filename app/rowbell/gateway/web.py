"""The ASGI application: HTTP and WebSocket paths.

WebSocket scopes go directly to the sessions, because the detour through Starlette costs 5 KiB per connection; all other
requests go to Starlette.
"""

from __future__ import annotations

import math
import time
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route

from rowbell.auth import Identity, bearer
from rowbell.errors import KeysUnavailable, Refused, TokenError
from rowbell.gateway.admission import Admission, Seat
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.json_session import JsonSession
from rowbell.gateway.origins import Origins
from rowbell.gateway.session import Receive, Send, Session
from rowbell.gateway.stomp_session import StompSession
from rowbell.logs import get_logger
from rowbell.metrics import REFUSED
from rowbell.stomp.server import choose_subprotocol

if TYPE_CHECKING:
    from rowbell.gateway.http_protocol import HttpProtocol

log = get_logger("gateway.web")

Scope = MutableMapping[str, Any]

PATHS = frozenset({"/ws", "/ws/websocket", "/stomp"})
"""WebSocket paths: STOMP, and on /ws also plain JSON. SockJS clients use `/ws/websocket` for a raw WebSocket."""

IN_QUERY = ("token", "access_token")
"""The query parameters that may hold a token."""

NO_SOCKJS = (
    "SockJS is not supported: every browser has WebSockets. Connect a WebSocket to /ws, "
    "with the subprotocol v12.stomp, v11.stomp or v10.stomp.\n"
)

NO_UPGRADE = (
    "This is a WebSocket endpoint, and the request is not an upgrade: the header `Upgrade: websocket` is missing. "
    "If the client sent it, a proxy on the way has removed it.\n"
)

SOCKET = "rowbell.socket"
"""The ASGI extension with which `websocket.WebSocketProtocol` offers `write`, see `session.Write`, and `ping`, which
sends a WebSocket ping unless the socket is full."""

ORIGIN_INTERVAL = 60.0
"""Seconds between two log lines about pages that may not connect, which their browsers do not tell the reason."""
COMPLAINT_CHARACTERS = 300
"""The most characters of the reason in such a line."""

SOON = 1.0
"""Seconds after which a client should try again that was refused because of the gateway's state."""


class Web:
    """The ASGI application of one gateway. Created by `server.serve`."""

    def __init__(self, gateway: Gateway, routes: Sequence[BaseRoute] = ()) -> None:
        """`routes` are served besides the gateway's own."""
        self.settings = settings = gateway.settings
        self._gateway = gateway
        self._origins = Origins(settings.allowed_origins)
        self._told_of_origin = -ORIGIN_INTERVAL
        self._admission = Admission(settings)
        self.http_connections: dict[HttpProtocol, None] = {}
        """Tracks connections that are not WebSockets; first the one whose last request is the oldest. HttpProtocol
        maintains it."""
        self._http = Starlette(
            routes=[
                Route("/live", self._live),
                Route("/ready", self._ready),
                Route("/ws/info", self._no_sockjs),
                *(Route(path, self._no_upgrade) for path in sorted(PATHS)),
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
        try:
            self._admission.count(scope["client"][0] if scope["client"] else None)
            self._examine(scope)
            seat = self._admission.admit()
        except Refused as refused:
            await _refuse(send, refused)
            return
        with seat:
            try:
                identity = await self._identify(scope, seat)
            except Refused as refused:
                await _refuse(send, refused)
                return
            subprotocol = choose_subprotocol(scope["subprotocols"])
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            await self._gateway.serve(self._session(scope, identity, receive, send, subprotocol, seat))

    def _examine(self, scope: Scope) -> None:
        """Raise Refused if the path, the gateway's state or the origin does not allow the handshake."""
        if scope["path"] not in PATHS:
            raise Refused("path", 404, f"There is no WebSocket at {scope['path']}: connect to /ws.")
        self._check_that_it_goes_on()
        origin, host = _headers(scope, b"origin"), _headers(scope, b"host")
        if complaint := self._origins.complaint(origin, host, secure=scope["scheme"] == "wss"):
            self._tell_of_origin(complaint)
            raise Refused("origin", 403, complaint)

    def _tell_of_origin(self, complaint: str) -> None:
        now = time.monotonic()
        if now - self._told_of_origin > ORIGIN_INTERVAL:
            self._told_of_origin = now
            log.warning("origin_refused", reason=complaint[:COMPLAINT_CHARACTERS])

    async def _identify(self, scope: Scope, seat: Seat) -> Identity | None:
        """Return the identity that the handshake's token names; None if it has none.

        Refused if the token is not valid, or its user has too many sessions.
        """
        try:
            token = token_of(scope)
            if token is None:
                return None
            identity = await self._gateway.identify(None, token)
        except KeysUnavailable as error:
            raise Refused("keys", 503, str(error), SOON) from None
        except TokenError as error:
            raise Refused("token", 401, str(error)) from None
        self._check_that_it_goes_on()  # reading the keys may have taken a while
        seat.claim(identity.user)
        return identity

    def _check_that_it_goes_on(self) -> None:
        if self._gateway.stopping:
            raise Refused("stopping", 503, "This gateway is stopping: connect to another one.", SOON)

    def _session(
        self, scope: Scope, identity: Identity | None, receive: Receive, send: Send, subprotocol: str | None, seat: Seat
    ) -> Session:
        """Create the session: plain JSON for /ws with a token in the query and no subprotocol, otherwise STOMP."""
        query = _query(scope)
        socket = scope["extensions"][SOCKET]
        write = socket["write"]
        if identity and scope["path"] == "/ws" and not scope["subprotocols"] and not query.keys().isdisjoint(IN_QUERY):
            ack = query.get("ack", ["auto"])[0]
            return JsonSession(self._gateway, identity, receive, send, write, socket["ping"], ack)
        return StompSession(self._gateway, identity, receive, send, write, subprotocol, seat.claim)

    async def _live(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("live\n")

    async def _ready(self, request: Request) -> JSONResponse:
        reason = await self._gateway.ready()
        return JSONResponse({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    async def _no_sockjs(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(NO_SOCKJS, 404)

    async def _no_upgrade(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse(NO_UPGRADE, 426, {"upgrade": "websocket", "connection": "upgrade"})


def token_of(scope: Scope) -> str | None:
    """Return the handshake's token, from `?token=`, `?access_token=` or the header `Authorization: Bearer TOKEN`.

    None if there is none; TokenError if the header is malformed.
    """
    query = _query(scope)
    for name in IN_QUERY:
        if name in query:
            return query[name][0]
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bearer(value.decode("latin-1"))
    return None


def _query(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]


async def _refuse(send: Send, refused: Refused) -> None:
    """Answer the handshake with an HTTP response. A plain close would be a 403 without an explanation."""
    REFUSED[refused.reason].inc()
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if refused.status == 401:
        headers.append((b"www-authenticate", b'Bearer error="invalid_token"'))  # RFC 6750, 3
    if refused.retry_after is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(refused.retry_after)))
    await send({"type": "websocket.http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": f"{refused}\n".encode()})

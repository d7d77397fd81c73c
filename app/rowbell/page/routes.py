"""The page's HTTP routes: its files, tokens for any user, and rows inserted by SQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psycopg
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rowbell.auth import Tokens
from rowbell.errors import TokenError
from rowbell.inbox.connection import TRANSIENT_ERRORS
from rowbell.inbox.writing import insert, refusal
from rowbell.logs import get_logger
from rowbell.page.same_origin import complaint
from rowbell.postgres import defaults

log = get_logger("page")

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

STATIC = Path(__file__).parent / "static"

FILES = {
    "/": ("index.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/main.js": ("main.js", "text/javascript"),
    "/page/connection.js": ("connection.js", "text/javascript"),
    "/page/inbox.js": ("inbox.js", "text/javascript"),
    "/page/view.js": ("view.js", "text/javascript"),
    "/page/form.js": ("form.js", "text/javascript"),
    "/page/sql.js": ("sql.js", "text/javascript"),
    "/page/stomp.umd.min.js": ("stomp.umd.min.js", "text/javascript"),
    "/page/bell.svg": ("bell.svg", "image/svg+xml"),
    "/page/bell-unread.svg": ("bell-unread.svg", "image/svg+xml"),
}
"""Path → file and content type. Nothing else is served."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; "  # the WebSocket too: browsers since 2022
        # The timer of stompjs's heart-beats: in a background tab, the timers of the page itself stand still.
        "worker-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

TOKEN_LIFETIME = 3600
"""Seconds. The page requests a new token for each connection."""

MAX_BODY = 128 * 1024
"""Bytes of a request: enough for 16 KiB of body and 24 KiB of data with every second character escaped."""
BODY_SECONDS = 10.0
"""Seconds that a request's body may take to arrive. The page sends it all at once, and a stop waits for it."""


class Login(msgspec.Struct, forbid_unknown_fields=True):
    """A request for a token of this user."""

    user: str


class Row(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A row to insert. A member that is omitted or null keeps the table's default."""

    recipient_id: str
    title: str
    type: str | None = None
    body: str | None = None
    data: str | None = None
    """JSON as text, which PostgreSQL validates."""


MEMBERS = {field.name: field.encode_name for field in msgspec.structs.fields(Row)}
"""Column → the member of the request that holds its value."""


def routes(database_url: str, tokens: Tokens, hosts: Collection[str] = ()) -> list[BaseRoute]:
    """Return the page's routes. `database_url` names a login with the role rowbell_app; `hosts` are names of this
    machine besides localhost.
    """
    page = _Page(database_url, tokens)
    return [
        *(Route(path, _file(*file)) for path, file in FILES.items()),
        Route("/page/token", _for_the_page_only(page.token, hosts), methods=["POST"]),
        Route("/page/notifications", _for_the_page_only(page.notifications, hosts), methods=["POST"]),
    ]


class _Page:
    def __init__(self, database_url: str, tokens: Tokens) -> None:
        self._database_url = database_url
        self._tokens = tokens

    async def token(self, request: Request) -> Response:
        """Issue a token for any user, without authentication."""
        login = await _read(request, Login)
        now = int(time.time())
        try:
            token = self._tokens.issue(login.user, TOKEN_LIFETIME, issued_at=now)
        except TokenError as error:
            return _json({"error": str(error), "field": "user"}, 422)
        return _json({"token": token, "expiresAt": (now + TOKEN_LIFETIME) * 1000})

    async def notifications(self, request: Request) -> Response:
        """Insert a row, on a connection of its own: the page serves one person, who does not notice 5 ms."""
        row = await _read(request, Row)
        values = {column: value for column in MEMBERS if (value := getattr(row, column)) is not None}
        try:
            return _json({"id": await self._insert(values)}, 201)
        except TRANSIENT_ERRORS as error:
            log.warning("database_unavailable", reason=str(error))
            return _json({"error": f"PostgreSQL cannot be used at present: {error}"}, 503)
        except psycopg.Error as error:
            refused = refusal(error)
            if not refused.by_row:
                log.error("insert_failed", reason=str(refused))
                return _json({"error": str(refused)}, 500)
            return _json({"error": refused.reason, "field": MEMBERS.get(refused.column or "")}, 422)

    async def _insert(self, values: dict[str, str]) -> int:
        parameters: dict[str, Any] = defaults(self._database_url, "rowbell-page")
        async with await psycopg.AsyncConnection.connect(self._database_url, **parameters) as connection:
            cursor = await connection.execute(insert(values), values)
            inserted = await cursor.fetchone()
            assert inserted is not None, "a row without dedup_key cannot conflict"
            return int(inserted[0])


def _file(name: str, media_type: str) -> Handler:
    headers = HEADERS | {"Cache-Control": "no-cache"}

    async def serve(request: Request) -> Response:
        return FileResponse(STATIC / name, headers=headers, media_type=media_type)

    return serve


def _for_the_page_only(handler: Handler, hosts: Collection[str]) -> Handler:
    names = frozenset(map(str.lower, hosts))

    async def serve(request: Request) -> Response:
        if reason := complaint(request.headers, names):
            return _json({"error": reason}, 403)
        try:
            return await handler(request)
        except HTTPException as refused:
            return _json({"error": refused.detail}, refused.status_code, refused.headers)
        except ClientDisconnect:
            return _json({"error": "The request was incomplete."}, 400)  # the client is gone and does not read it
        except asyncio.CancelledError:
            # The server is stopping and no longer waits. Nothing else cancels a handler, which has nothing to clean up.
            return _json({"error": "The gateway is stopping."}, 503)

    return serve


async def _read(request: Request, what: type[T]) -> T:
    """Decode the request's JSON. HTTPException if it is too long, too slow, not JSON, or not of this type."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "The request must be JSON, with Content-Type: application/json.")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _body(request)
    except TimeoutError:
        # RFC 9110, 15.5.9: close the connection, as the rest of this request could be mistaken for the next one.
        problem = f"The request was not complete after {BODY_SECONDS:.0f} seconds."
        raise HTTPException(408, problem, {"Connection": "close"}) from None
    try:
        return msgspec.json.decode(body, type=what)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"The request is not valid: {error}") from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"The request is longer than {MAX_BODY} bytes.")
    return bytes(body)


def _json(content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(content, status, HEADERS | {"Cache-Control": "no-store"} | dict(headers or {}))

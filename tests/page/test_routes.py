"""The page's HTTP: what is served, who is let in, and what a request must be."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from starlette.applications import Starlette

from rowbell.page import routes
from rowbell.page.routes import FILES, MAX_BODY, STATIC
from tests.integration import processes
from tests.integration.processes import Gateway
from tests.page.conftest import SECRET, TOKENS, Served

page = importlib.import_module("rowbell.page.routes")
"""The module: in its package the function of the same name stands before it."""

NPM = Path(__file__).parents[1] / "clients" / "node_modules" / "@stomp" / "stompjs"

NOWHERE = "postgresql://u@127.0.0.1:1/app"
"""Nothing listens on port 1."""

PART = 65536
"""Bytes of a request that come at once."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks an application without a network, so that every header is the test's to say."""

    def __init__(self, database_url: str = NOWHERE, **options: Any) -> None:
        self._app = Starlette(routes=routes(database_url, TOKENS, **options))

    async def get(self, path: str) -> Answer:
        return await self._ask("GET", path, b"", {"host": "localhost"})

    async def post(self, path: str, content: object, **headers: str) -> Answer:
        """`content` as JSON unless it is bytes. Headers as keywords; an empty one is left out."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        said = {"host": "localhost:8114", "content-type": "application/json"}
        said |= {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._ask("POST", path, body, {name: value for name, value in said.items() if value})

    async def post_half(self, path: str, then: Callable[[], Awaitable[Any]]) -> Answer:
        """Half a request; `then` is awaited for what comes next."""
        messages = [{"type": "http.request", "body": b'{"user": ', "more_body": True}]

        async def receive() -> Any:
            return messages.pop() if messages else await then()

        headers = {"host": "localhost:8114", "content-type": "application/json"}
        return await self._answer(_scope("POST", path, headers), receive)

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        messages = [
            *(
                {"type": "http.request", "body": body[n : n + PART], "more_body": True}
                for n in range(0, len(body), PART)
            ),
            {"type": "http.request", "body": b"", "more_body": False},
        ]
        received = iter(messages)

        async def receive() -> Any:
            if (message := next(received, None)) is None:
                await asyncio.Event().wait()  # a client that stays until it has the answer
            return message

        return await self._answer(_scope(method, path, headers), receive)

    async def _answer(self, scope: dict[str, Any], receive: Callable[[], Awaitable[Any]]) -> Answer:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        start, *rest = sent
        answered = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], answered, b"".join(message.get("body", b"") for message in rest))


def _scope(method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def writer(served: Served) -> Client:
    """With the login of an application."""
    return Client(served.app_url)


class TestFiles:
    @pytest.mark.parametrize("path", FILES)
    async def test_each_is_served_with_its_type_and_is_not_kept(self, client: Client, path: str) -> None:
        name, media_type = FILES[path]

        answer = await client.get(path)

        assert (answer.status, answer.body) == (200, (STATIC / name).read_bytes())
        assert answer.headers["content-type"].partition(";")[0] == media_type
        assert answer.headers["cache-control"] == "no-cache"

    async def test_none_may_run_or_load_anything_but_these_files(self, client: Client) -> None:
        headers = (await client.get("/")).headers

        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"

    @pytest.mark.parametrize("path", ["/page/README.md", "/page/../routes.py", "/page/", "/page/missing.js"])
    async def test_no_other_is_served(self, client: Client, path: str) -> None:
        assert (await client.get(path)).status == 404

    def test_every_file_of_the_directory_is_served_but_words_about_them(self) -> None:
        served = {name for name, _ in FILES.values()}
        assert {path.name for path in STATIC.iterdir()} == served | {"README.md", "stomp.LICENSE"}

    def test_every_file_that_the_page_and_its_modules_name_is_served(self) -> None:
        html = (STATIC / "index.html").read_text()
        named = set(re.findall(r'(?:src|href)="(/[^"#]*)"', html))
        for module in STATIC.glob("*.js"):
            named |= {f"/page/{name}" for name in re.findall(r"from '\./([^']+)'", module.read_text())}
        assert named <= set(FILES)

    def test_stompjs_is_the_one_that_the_tests_install_unchanged(self) -> None:
        version = json.loads((NPM / "package.json").read_text())["version"]

        assert (STATIC / "stomp.umd.min.js").read_bytes() == (NPM / "bundles" / "stomp.umd.min.js").read_bytes()
        assert (STATIC / "stomp.LICENSE").read_bytes() == (NPM / "LICENSE").read_bytes()
        assert f"`@stomp/stompjs` {version}," in (STATIC / "README.md").read_text()


class TestTokens:
    async def test_whoever_asks_is_whom_they_want_to_be(self, client: Client) -> None:
        answer = await client.post("/page/token", {"user": "Zoë"})

        assert answer.status == 200
        identity = TOKENS.verify(answer.json["token"])
        assert identity.user == "Zoë"
        assert identity.expires_at is not None
        assert answer.json["expiresAt"] == identity.expires_at * 1000
        assert answer.headers["cache-control"] == "no-store"

    @pytest.mark.parametrize("user", ["", "a/b", "topic:x", "x" * 256])
    async def test_whom_no_row_can_be_for_nobody_can_be(self, client: Client, user: str) -> None:
        answer = await client.post("/page/token", {"user": user})

        assert (answer.status, answer.json["field"]) == (422, "user")
        assert answer.json["error"].startswith("the user's id")


class TestRows:
    @pytest.fixture
    def reader(self, served: Served) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        with psycopg.connect(served.database_url, autocommit=True) as connection:
            yield connection

    async def test_one_is_inserted_with_what_is_given(
        self, writer: Client, reader: psycopg.Connection[tuple[object, ...]]
    ) -> None:
        row = {"recipientId": "bob", "title": "O'Brien", "type": "T", "body": "Grüße\n", "data": '{"a": 1}'}

        answer = await writer.post("/page/notifications", row)

        assert answer.status == 201
        found = reader.execute(
            "SELECT recipient_id, title, type, body, data FROM notification WHERE id = %s", [answer.json["id"]]
        )
        assert found.fetchone() == ("bob", "O'Brien", "T", "Grüße\n", {"a": 1})

    async def test_what_is_left_out_or_null_is_the_tables_to_say(
        self, writer: Client, reader: psycopg.Connection[tuple[object, ...]]
    ) -> None:
        answer = await writer.post("/page/notifications", {"recipientId": "bob", "title": "Hello", "data": None})

        assert answer.status == 201
        found = reader.execute("SELECT type, body, data FROM notification WHERE id = %s", [answer.json["id"]])
        assert found.fetchone() == ("GENERIC", None, {})

    @pytest.mark.parametrize(
        ("member", "value", "reason"),
        [
            ("recipientId", "a/b", "recipient_id must be 1 to 255 characters"),
            ("title", "", "title must be 1 to 500 characters"),
            ("type", "a b", "type must be 1 to 100 of"),
            ("body", "é" * 8193, "body must be at most 16384 bytes"),
            ("data", "[1]", "data must be a JSON object"),
            ("data", "{postId: 1}", "data must be a JSON object"),
        ],
    )
    async def test_what_a_check_refuses_is_said_by_the_member_with_what_it_takes(
        self, writer: Client, member: str, value: str, reason: str
    ) -> None:
        answer = await writer.post("/page/notifications", {"recipientId": "bob", "title": "Hello", member: value})

        assert (answer.status, answer.json["field"]) == (422, member)
        assert answer.json["error"].startswith(reason)

    async def test_text_that_postgresql_cannot_hold_is_refused(self, writer: Client) -> None:
        answer = await writer.post("/page/notifications", {"recipientId": "bob", "title": "a\0b"})

        assert (answer.status, answer.json["field"]) == (422, None)
        assert "NUL" in answer.json["error"]

    async def test_a_database_that_is_away_is_said_with_503(self, client: Client) -> None:
        answer = await client.post("/page/notifications", {"recipientId": "bob", "title": "Hello"})

        assert answer.status == 503
        assert answer.json["error"].startswith("PostgreSQL cannot be used at present: ")

    async def test_a_login_without_the_right_is_told_which_role_it_needs(self, served: Served) -> None:
        client = Client(served.app_url.replace("an_app@", "a_connector@"))

        answer = await client.post("/page/notifications", {"recipientId": "bob", "title": "Hello"})

        assert answer.status == 500
        assert "rowbell_app" in answer.json["error"]


LOGIN = {"user": "alice"}

HALF = (
    b"POST /page/token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Content-Length: 100\r\n\r\n{"user": '
)


class TestStrangers:
    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8114", "127.0.0.1:8114", "192.168.1.7", "[::1]:8114"])
    async def test_this_machine_is_its_name_or_an_address(self, client: Client, host: str) -> None:
        assert (await client.post("/page/token", LOGIN, host=host)).status == 200

    @pytest.mark.parametrize(
        "host",
        ["", "rowbell.example", "localhost.example", "127.0.0.1.example:80", "a@localhost", "localhost:x", "[x]"],
    )
    async def test_any_other_name_may_have_been_made_to_point_here(self, client: Client, host: str) -> None:
        answer = await client.post("/page/token", LOGIN, host=host)

        assert answer.status == 403
        assert answer.json["error"].endswith(".")

    async def test_a_name_that_was_given_is_this_machines_too(self) -> None:
        client = Client(hosts=["Dev.Example"])

        assert (await client.post("/page/token", LOGIN, host="dev.example:8114")).status == 200

    @pytest.mark.parametrize(
        ("origin", "status"),
        [
            ("http://localhost:8114", 200),
            ("https://LocalHost:8114", 200),  # TLS may end before us
            ("http://localhost:3000", 403),
            ("http://localhost", 403),
            ("http://rowbell.example", 403),
            ("null", 403),
            ("", 200),  # none
            ("localhost:8114", 403),
            ("http://localhost:8114/", 403),
            ("http://a@localhost:8114", 403),
            ("capacitor://localhost:8114", 403),
            ("http://[", 403),
            ("http://[::1", 403),
            ("http://a\u00bd", 403),
        ],
    )
    async def test_an_origin_must_be_the_host(self, client: Client, origin: str, status: int) -> None:
        assert (await client.post("/page/token", LOGIN, origin=origin)).status == status

    @pytest.mark.parametrize(
        ("site", "status"), [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
    )
    async def test_the_browsers_word_for_another_site_is_heard(self, client: Client, site: str, status: int) -> None:
        assert (await client.post("/page/token", LOGIN, sec_fetch_site=site)).status == status

    async def test_rows_are_for_the_page_only_too(self, client: Client) -> None:
        assert (await client.post("/page/notifications", {}, origin="http://rowbell.example")).status == 403


class TestRequests:
    @pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
    async def test_only_json_is_taken(self, client: Client, content_type: str) -> None:
        answer = await client.post("/page/token", LOGIN, content_type=content_type)

        assert answer.status == 415
        assert "application/json" in answer.json["error"]

    async def test_json_may_say_its_encoding(self, client: Client) -> None:
        answer = await client.post("/page/token", LOGIN, content_type="Application/JSON; charset=utf-8")

        assert answer.status == 200

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"{",
            b"\xff",
            b'"\\ud800"',
            b"[" * 100_000,
            [],
            {},
            {"user": 1},
            {"user": "alice", "admin": True},
        ],
    )
    async def test_what_is_malformed_is_refused_in_json(self, client: Client, content: object) -> None:
        answer = await client.post("/page/token", content)

        assert answer.status == 400
        assert answer.json["error"].startswith("The request is not valid: ")

    async def test_what_is_too_long_is_refused(self, client: Client) -> None:
        answer = await client.post("/page/token", b" " * (MAX_BODY + 1))

        assert answer.status == 413

    async def test_what_takes_too_long_to_come_is_refused_and_the_connection_closed(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(page, "BODY_SECONDS", 0.1)

        async def a_space() -> Any:
            await asyncio.sleep(0.01)
            return {"type": "http.request", "body": b" ", "more_body": True}

        answer = await client.post_half("/page/token", a_space)

        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert answer.json["error"].startswith("The request was not complete after ")

    async def test_one_that_breaks_off_is_no_error_of_ours(self, client: Client) -> None:
        async def broken() -> Any:
            return {"type": "http.disconnect"}

        assert (await client.post_half("/page/token", broken)).status == 400

    async def test_one_that_is_cancelled_because_the_server_stops_is_answered(self, client: Client) -> None:
        reading = asyncio.Event()

        async def nothing() -> Any:
            reading.set()
            await asyncio.Event().wait()

        asking = asyncio.create_task(client.post_half("/page/token", nothing))
        await reading.wait()
        asking.cancel()

        assert (await asking).status == 503

    def test_a_gateway_stops_in_the_midst_of_one_without_a_traceback(self, served: Served, tmp_path: Path) -> None:
        env = {
            "ROWBELL_DATABASE_URL": served.app_url.replace("an_app@", "a_gateway@"),
            "ROWBELL_PAGE_DATABASE_URL": served.app_url,
            "ROWBELL_JWT_SECRET": SECRET,
        }
        gateway = Gateway(env, tmp_path / "gateway.log")
        with processes.running(gateway), socket.create_connection(("127.0.0.1", gateway.port)) as half:
            half.sendall(HALF)
            assert gateway.ready()  # by then it has read that

            assert gateway.stop(within=10) == 0

            half.settimeout(1)
            assert half.recv(1000).startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 400 "))
        assert "Traceback" not in gateway.log.read_text()

    async def test_the_longest_row_fits(self, writer: Client) -> None:
        row = {"recipientId": "bob", "title": "t" * 500, "body": '"' * 16384, "data": json.dumps({"a": "\\" * 12000})}

        assert (await writer.post("/page/notifications", row)).status == 201

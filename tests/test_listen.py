"""`rowbell listen`, as a process, against a WebSocket server that says what each test wants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from rowbell.auth import Identity, Tokens, bearer
from rowbell.cli.listen import coloured, one_line, plain
from rowbell.cli.listener import Known, Listener
from rowbell.stomp import server as stomp
from tests.gateway.certificates import Certificate

SECRET = "0123456789abcdef0123456789abcdef"
PATIENCE = 30.0
"""Seconds for anything to happen: a process starts within one, but machines are busy."""


def shown(id: int, version: int = 1, event: str = "created", **members: Any) -> dict[str, Any]:
    """What a client sees of a row."""
    return {
        "event": event, "id": id, "version": version, "recipientId": "alice", "type": "COMMENT", "title": f"Title {id}",
        "body": None, "data": {}, "actorId": None, "channel": "IN_APP", "createdAt": 0, "expiresAt": None,
        "readAt": None, **members,
    }  # fmt: skip


DELETED = {"event": "deleted", "id": 1, "recipientId": "alice"}


@dataclass
class Client:
    """One connection of `rowbell listen`, subscribed."""

    socket: ServerConnection
    connection: stomp.Connection
    user: str
    topics: tuple[str, ...]
    """Those that its token allows."""
    subscribe: stomp.Subscribe
    acknowledged: asyncio.Queue[object] = field(default_factory=asyncio.Queue)
    beaten: asyncio.Event = field(default_factory=asyncio.Event)
    """It sent a heart-beat."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, row: dict[str, Any], replayed: bool = False) -> None:
        headers = f"event:{row['event']}\nnotification-id:{row['id']}\n" + ("replayed:true\n" if replayed else "")
        token = (row["id"], row.get("version"))
        await self.socket.send(self.connection.message(self.subscribe.id, headers, json.dumps(row), token))

    async def live(self) -> None:
        assert self.subscribe.receipt is not None
        await self.socket.send(self.connection.receipt(self.subscribe.receipt))

    async def acknowledgement(self) -> object:
        async with asyncio.timeout(PATIENCE):
            return await self.acknowledged.get()


PASSING = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


class Gateway:
    """Lets clients in and hands them to the test; `beat` in milliseconds."""

    def __init__(self, beat: tuple[int, int] = (0, 0)) -> None:
        self.url = ""
        self.refusal: str | None = None
        """What CONNECT is refused with."""
        self.forbidden: str | None = None
        """The destination to which nobody may subscribe."""
        self.retry_after: str | None = None
        """What a handshake that is refused is told with `Retry-After`."""
        self.status: HTTPStatus | None = None
        """What the next handshake is refused with; those of `PASSING` once, others always."""
        self._beat = beat
        self._clients: asyncio.Queue[Client] = asyncio.Queue()

    async def client(self) -> Client:
        """The next that has subscribed."""
        async with asyncio.timeout(PATIENCE):
            return await self._clients.get()

    async def serve(self, socket: ServerConnection) -> None:
        connection = stomp.Connection("s", subprotocol=socket.subprotocol, beat=self._beat)
        client: Client | None = None
        identity = Identity("", None)
        try:
            async for data in socket:
                connection.receive_data(data)
                if data == stomp.HEART_BEAT and client is not None:
                    client.beaten.set()
                while event := connection.next_event():
                    match event:
                        case stomp.Connect() if self.refusal:
                            await socket.send(connection.error(self.refusal))
                            await socket.close(1008)
                        case stomp.Connect():
                            identity = Tokens(SECRET).verify(bearer(event.headers["Authorization"]))
                            await socket.send(connection.connected(identity.user))
                        case stomp.Subscribe(destination=destination) if destination == self.forbidden:
                            await socket.send(connection.error("not for you", "The topics are in the token."))
                            await socket.close(1008)
                        case stomp.Subscribe():
                            client = Client(socket, connection, identity.user, identity.topics, event)
                            self._clients.put_nowait(client)
                        case stomp.Ack():
                            assert client is not None
                            for token in event.tokens:
                                client.acknowledged.put_nowait(token)
        except ConnectionClosed:
            pass
        finally:
            if client is not None:
                client.ended.set()

    def answer(self, socket: ServerConnection, request: Request) -> Response | None:
        if (status := self.status) is None:
            return None
        if status in PASSING:
            self.status = None
        response = socket.respond(status, "This is why.\n")
        if self.retry_after is not None:
            response.headers["Retry-After"] = self.retry_after
        return response


@asynccontextmanager
async def gateway(beat: tuple[int, int] = (0, 0), certificate: Certificate | None = None) -> AsyncIterator[Gateway]:
    running = Gateway(beat)
    tls = None if certificate is None else ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls is not None and certificate is not None:
        tls.load_cert_chain(certificate.certfile, certificate.keyfile)
    protocols = [Subprotocol("v12.stomp")]
    async with serve(
        running.serve, "127.0.0.1", 0, process_request=running.answer, subprotocols=protocols, ssl=tls
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        running.url = f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}/ws"
        yield running


class Listening:
    """The process, its output line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """The next line on standard output."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stdout.readline()).decode().rstrip("\n")

    async def says(self, words: str) -> str:
        """The next line on standard error that holds `words`."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            async for line in self.process.stderr:
                if words in line.decode():
                    return line.decode()
        raise AssertionError(f"it ended without saying: {words}")

    async def status(self) -> int:
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()


@asynccontextmanager
async def listening(url: str, *options: str, **environ: str) -> AsyncIterator[Listening]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROWBELL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rowbell", "listen", "alice", "--url", url, *options,
        env=kept | {"ROWBELL_JWT_SECRET": SECRET} | environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Listening(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_connects_as_the_user_and_prints_a_line_for_each_notification() -> None:
    async with gateway() as server, listening(server.url) as alice:
        client = await server.client()
        assert client.user == "alice"
        assert client.subscribe.destination == "/user/queue/notifications"

        await client.send(shown(1, title="Hello\n\x1b[31m", body="there"), replayed=True)
        await client.live()
        await client.send(shown(2, event="updated", version=3))

        first = (await alice.line()).split("\t")
        assert first[:3] + first[4:] == ["created (replayed)", "#1", "v1", "COMMENT", "Hello \\x1b[31m", "there"]
        assert (await alice.line()).startswith("updated\t#2\tv3\t")
        await alice.says("connected to ws://127.0.0.1")
        await alice.says("live")


async def test_as_json_each_body_is_printed_as_it_came() -> None:
    async with gateway() as server, listening(server.url, "--json") as alice:
        client = await server.client()

        await client.send(shown(1))
        await client.send(DELETED)

        assert await alice.line() == json.dumps(shown(1))
        assert await alice.line() == json.dumps(DELETED)


async def test_what_was_printed_is_acknowledged() -> None:
    async with gateway() as server, listening(server.url, "--json") as alice:
        client = await server.client()
        assert client.subscribe.ack == "client-individual"

        await client.send(shown(1))
        await client.send(shown(2))

        assert await client.acknowledgement() == (1, 1)
        assert await client.acknowledgement() == (2, 1)
        assert json.loads(await alice.line())["id"] == 1


async def test_with_ack_auto_nothing_is_acknowledged() -> None:
    async with gateway() as server, listening(server.url, "--json", "--ack", "auto") as alice:
        client = await server.client()
        assert client.subscribe.ack == "auto"

        await client.send(shown(1))
        await alice.line()
        await client.socket.close()

        async with asyncio.timeout(PATIENCE):
            await client.ended.wait()
        assert client.acknowledged.empty()


async def test_after_a_reconnect_what_it_has_shown_is_acknowledged_and_not_shown_again() -> None:
    async with gateway() as server, listening(server.url, "--json") as alice:
        # given a row that was shown, and a gateway that went away
        client = await server.client()
        await client.send(shown(1))
        await alice.line()
        await client.socket.close(1012)
        await alice.says("connection closed (1012); reconnecting in")

        # when it comes again, with others
        client = await server.client()
        await client.send(shown(1), replayed=True)
        await client.send(shown(1, version=2, event="updated"), replayed=True)
        await client.send(shown(2), replayed=True)

        # then
        assert [json.loads(await alice.line())["version"] for _ in range(2)] == [2, 1]
        assert [await client.acknowledgement() for _ in range(3)] == [(1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize("status", PASSING)
async def test_it_waits_for_a_gateway_that_does_not_let_it_in_yet(status: HTTPStatus) -> None:
    async with gateway() as server:
        server.status = status
        async with listening(server.url, "--json") as alice:
            assert str(status.value) in await alice.says("reconnecting in")

            client = await server.client()
            await client.send(shown(1))

            assert json.loads(await alice.line())["id"] == 1


async def test_it_comes_again_when_the_gateway_says_so() -> None:
    async with gateway() as server:
        server.status, server.retry_after = HTTPStatus.SERVICE_UNAVAILABLE, "2"
        async with listening(server.url) as alice:
            said = await alice.says("503")

            assert said == "rowbell: the gateway answers 503: This is why; reconnecting in 2.0 s\n"
            await alice.says("connected")


async def test_the_end_of_a_session_is_told_with_its_reason_and_what_to_do() -> None:
    async with gateway() as server, listening(server.url) as alice:
        client = await server.client()
        await client.live()

        await client.socket.send(client.connection.error("token revoked", "Log in again, and connect with a new one."))

        assert await alice.says("ends") == (
            "rowbell: the gateway ends the connection: token revoked. Log in again, and connect with a new one.\n"
        )


async def test_a_topic_is_followed_with_a_token_that_allows_it() -> None:
    async with gateway() as server, listening(server.url, "--json", "--topic", "news.sport") as alice:
        client = await server.client()
        assert client.subscribe.destination == "/topic/news.sport"
        assert client.topics == ("news.sport",)

        await client.live()
        await client.send(shown(1, recipientId="topic:news.sport"))

        assert json.loads(await alice.line())["id"] == 1
        assert await alice.says("live") == "rowbell: live\n"


async def test_a_subscription_that_is_refused_ends_it() -> None:
    async with gateway() as server:
        server.forbidden = "/topic/secrets"
        async with listening(server.url, "--topic", "secrets") as alice:
            assert await alice.says("refuses") == (
                "rowbell: the gateway refuses the subscription: not for you. The topics are in the token.\n"
            )
            assert await alice.status() == 1


@asynccontextmanager
async def listening_here(url: str, beat: tuple[int, int]) -> AsyncIterator[None]:
    """The same in this process, with heart-beats that a test can wait for."""
    listener = Listener(url, "alice", lambda: Tokens(SECRET).issue("alice", 60), "auto", lambda *_: None, beat=beat)
    task = asyncio.create_task(listener.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_gateway_that_falls_silent_is_left_for_another_connection() -> None:
    # given one that promises a heart-beat every 100 ms and never sends one
    async with gateway(beat=(100, 0)) as server, listening_here(server.url, beat=(0, 100)):
        silent = await server.client()

        again = await server.client()

        assert again is not silent
        async with asyncio.timeout(PATIENCE):
            await silent.ended.wait()


async def test_it_sends_the_heart_beats_it_promised() -> None:
    async with gateway(beat=(0, 100)) as server, listening_here(server.url, beat=(100, 0)):
        client = await server.client()

        async with asyncio.timeout(PATIENCE):
            await client.beaten.wait()


async def test_a_refused_token_ends_it_with_the_gateways_reason() -> None:
    async with gateway() as server:
        server.refusal = "the token is refused: it has expired"
        async with listening(server.url) as alice:
            said = await alice.says("refuses")

            assert said == "rowbell: the gateway refuses the connection: the token is refused: it has expired\n"
            assert await alice.status() == 1


@pytest.mark.parametrize("status", [HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND])
async def test_a_handshake_that_will_never_succeed_ends_it(status: HTTPStatus) -> None:
    async with gateway() as server:
        server.status = status
        async with listening(server.url) as alice:
            assert await alice.says("answers") == f"rowbell: the gateway answers {status}: This is why.\n"
            assert await alice.status() == 1


async def test_a_url_that_is_no_websockets_ends_it_without_showing_its_token() -> None:
    async with listening("ws://127.0.0.1/ws?token=hunter2#top") as alice:
        assert await alice.says("not a WebSocket URL") == (
            "rowbell: ws://127.0.0.1/ws?token=******** is not a WebSocket URL such as ws://host:port/ws\n"
        )
        assert await alice.status() == 1


async def test_a_certificate_that_nobody_vouches_for_ends_it_with_how_to_trust_it(tmp_path: Path) -> None:
    certificate = Certificate.made(tmp_path)
    async with gateway(certificate=certificate) as server:
        async with listening(server.url) as alice:
            assert await alice.says("certificate") == (
                f"rowbell: the certificate of {server.url} cannot be trusted: self-signed certificate. "
                "To trust its issuer: SSL_CERT_FILE=ca.pem\n"
            )
            assert await alice.status() == 1
        async with listening(server.url, SSL_CERT_FILE=str(certificate.certfile)) as alice:
            await alice.says("connected")


async def test_a_certificate_that_has_expired_ends_it(tmp_path: Path) -> None:
    certificate = Certificate.made(tmp_path, lasts=-timedelta(hours=1))
    async with (
        gateway(certificate=certificate) as server,
        listening(server.url, SSL_CERT_FILE=str(certificate.certfile)) as alice,
    ):
        assert (await alice.says("certificate")).endswith("cannot be trusted: certificate has expired\n")
        assert await alice.status() == 1


async def test_a_gateway_that_speaks_tls_may_be_meant_where_none_answers(tmp_path: Path) -> None:
    async with (
        gateway(certificate=Certificate.made(tmp_path)) as server,
        listening(server.url.replace("wss://", "ws://")) as alice,
    ):
        assert "; if it uses TLS, the URL begins with wss://); reconnecting in" in await alice.says("no connection")


async def test_a_gateway_that_speaks_no_tls_ends_it() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # as a gateway does
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        async with listening(url) as alice:
            assert (await alice.says("does not use TLS")).endswith(": use ws:// instead of wss://\n")
            assert await alice.status() == 1


async def test_a_token_from_elsewhere_is_used() -> None:
    token = Tokens(SECRET).issue("alice", 60, topics=["elsewhere"])
    async with gateway() as server, listening(server.url, "--token", token):
        assert (await server.client()).topics == ("elsewhere",)


async def test_an_empty_token_is_shown_to_the_gateway_and_none_is_made_instead() -> None:
    async with gateway() as server:
        server.refusal = "the token is missing"
        async with listening(server.url, "--token", "", ROWBELL_JWT_SECRET="") as alice:
            assert await alice.says("missing") == "rowbell: the gateway refuses the connection: the token is missing\n"


async def test_a_token_of_somebody_else_ends_it() -> None:
    token = Tokens(SECRET).issue("bob", 60)
    async with gateway() as server, listening(server.url, "--token", token) as alice:
        said = await alice.says("token")

        assert said == "rowbell: the token names bob, not alice: rowbell listen bob --token TOKEN\n"
        assert await alice.status() == 1


async def test_ctrl_c_ends_it_and_closes_the_connection() -> None:
    async with gateway() as server, listening(server.url) as alice:
        client = await server.client()

        alice.process.send_signal(signal.SIGINT)

        assert await alice.status() == 130
        async with asyncio.timeout(PATIENCE):
            await client.ended.wait()
        assert client.socket.close_code == 1000


async def test_it_ends_when_nobody_reads_what_it_prints() -> None:
    # given a pipe whose reader has gone, as after `rowbell listen alice | head -1`
    reader, writer = os.pipe()
    os.close(reader)
    async with gateway() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rowbell", "listen", "alice", "--url", server.url,
            env=os.environ | {"ROWBELL_JWT_SECRET": SECRET}, stdout=writer, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(writer)
        client = await server.client()

        await client.send(shown(1))

        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()
        assert process.returncode == 128 + signal.SIGPIPE
        assert b"Traceback" not in err


def test_only_a_newer_version_of_a_row_counts() -> None:
    known = Known()

    rows = [shown(1), shown(1), shown(1, 3), shown(1, 2), DELETED, DELETED, shown(1, 4), shown(2)]

    assert [known.is_newer(row) for row in rows] == [True, False, True, False, True, False, False, True]


def test_a_deletion_is_a_line_with_its_id() -> None:
    assert plain(DELETED, replayed=False) == "deleted\t#1"


def test_on_a_terminal_the_title_stands_first_and_data_is_json() -> None:
    row = shown(1, title="[red]Hello", body="one\ntwo", data={"postId": "p-100"}, readAt=0)

    first, *below = coloured(row, replayed=True).plain.splitlines()

    assert first.startswith("created #1 v1  ")
    assert first.endswith("  [red]Hello  COMMENT, replayed, read")
    assert below == ["        one two", '        {"postId": "p-100"}']


def test_on_a_terminal_a_deletion_is_its_id() -> None:
    assert coloured(DELETED, replayed=False).plain == "deleted #1"


def test_a_text_cannot_break_the_line_or_command_the_terminal() -> None:
    assert one_line("a\tb\r\nc\x1b]0;x\x07\x9b31m\u202eé👋") == "a b  c\\x1b]0;x\\x07\\x9b31m\\u202eé👋"

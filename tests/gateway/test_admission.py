"""The gateway's edge: who is let in by address, rate, number and origin, over TLS and behind proxies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import requests
from prometheus_client import REGISTRY
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rowbell.bus.memory import MemoryBus
from rowbell.config import Settings
from rowbell.errors import Refused, SettingsError
from rowbell.gateway import admission, http_protocol, tls
from rowbell.gateway.admission import ADDRESSES, Admission, Seat
from rowbell.gateway.gateway import Gateway
from rowbell.gateway.rate import RateLimiter
from rowbell.gateway.server import listen, serve
from rowbell.inbox import Inbox
from rowbell.metrics import REFUSED
from rowbell.presence.memory import MemoryPresence
from tests.gateway.certificates import Certificate
from tests.gateway.conftest import TOKENS
from tests.integration.processes import eventually
from tests.integration.wire import upgrade
from tests.postgres_server import PostgresServer

LIVE = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"

CHUNKED = b"GET /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

ELSEWHERE = "203.0.113.9"
"""An address that is not of this machine."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("rowbell_refused_total", {"reason": reason}) or 0.0


def connections() -> float:
    return REGISTRY.get_sample_value("rowbell_connections") or 0.0


def http_connections() -> float:
    return REGISTRY.get_sample_value("rowbell_http_connections") or 0.0


class TestRateLimiter:
    def test_two_seconds_worth_come_at_once_and_then_so_many_a_second(self) -> None:
        # Given
        clock = Clock()
        rate = RateLimiter(10, clock=clock)
        # When
        at_once = [rate.take() for _ in range(21)]
        # Then
        assert at_once[:20] == [0.0] * 20
        assert at_once[20] == pytest.approx(0.1)
        # When
        clock.now += 1
        later = [rate.take() == 0 for _ in range(20)]
        # Then
        assert later == [True] * 10 + [False] * 10

    def test_what_is_refused_does_not_count(self) -> None:
        clock = Clock()
        rate = RateLimiter(1, clock=clock)
        taken = [rate.take() == 0 for _ in range(100)]
        assert taken == [True] * 2 + [False] * 98
        clock.now += 1
        assert rate.take() == 0

    def test_after_the_time_that_was_told_one_more_may_come(self) -> None:
        clock = Clock()
        rate = RateLimiter(7, clock=clock)
        while not (wait := rate.take()):
            clock.now += 0.01
        clock.now += wait
        assert rate.take() == 0

    def test_zero_is_no_limit_and_remembers_nothing(self) -> None:
        rate = RateLimiter(0, keys=10)
        assert [rate.take(bytes([n])) for n in range(100)] == [0.0] * 100
        assert len(rate) == 0

    def test_each_key_has_its_own_and_the_one_that_was_used_longest_ago_is_forgotten(self) -> None:
        # Given
        clock = Clock()
        rate = RateLimiter(1, keys=2, clock=clock)
        for key in (b"a", b"b"):
            assert [rate.take(key) == 0 for _ in range(3)] == [True, True, False]
        # When
        rate.take(b"a")
        rate.take(b"c")
        # Then
        assert rate.take(b"a") > 0
        assert rate.take(b"b") == 0
        assert len(rate) == 2


class TestAdmission:
    def test_an_address_that_comes_too_often_is_told_when_to_come_again(self) -> None:
        admission = Admission(Settings(max_connect_rate_per_address=1), Clock())
        for _ in range(2):
            come(admission, ELSEWHERE)
        with pytest.raises(Refused, match="ROWBELL_MAX_CONNECT_RATE_PER_ADDRESS") as refused:
            come(admission, ELSEWHERE)
        assert (refused.value.status, refused.value.reason) == (429, "address_rate")
        assert refused.value.retry_after == pytest.approx(1)
        come(admission, "203.0.113.10")

    @pytest.mark.parametrize(
        ("addresses", "are_one"),
        [
            (["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"], True),
            (["2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:0:3::1"], False),
            (["::ffff:203.0.113.9", "203.0.113.9", "::ffff:cb00:7109"], True),
            (["fe80::1%eth0", "fe80::2%eth1", "fe80::3"], True),
            (["unknown", "_hidden", "203.0.113.9, x"], True),
            (["127.0.0.1", "127.0.0.1", "127.0.0.1"], False),
            (["::1", "::1", "::1"], False),
            (["::ffff:127.0.0.1"] * 3, False),
        ],
    )
    def test_an_ipv6_network_is_one_address_and_this_machine_none(self, addresses: list[str], are_one: bool) -> None:
        admission = Admission(Settings(max_connect_rate_per_address=1), Clock())
        assert admits(admission, addresses) == [True, True, not are_one]

    def test_those_without_an_address_share_one(self) -> None:
        admission = Admission(Settings(max_connect_rate_per_address=1), Clock())
        assert admits(admission, [None, "", "x" * 100_000]) == [True, True, False]

    def test_what_is_remembered_of_addresses_is_bounded(self) -> None:
        admission = Admission(Settings(max_connect_rate=0, max_connections=0), Clock())
        for n in range(ADDRESSES + 1000):
            with come(admission, f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"):
                pass
        assert len(admission._address_rate) == ADDRESSES

    def test_a_flood_from_one_address_takes_nothing_from_the_others(self) -> None:
        admission = Admission(Settings(max_connect_rate=10, max_connect_rate_per_address=1), Clock())
        assert admits(admission, [ELSEWHERE] * 1000) == [True] * 2 + [False] * 998
        assert admits(admission, [f"10.0.0.{n}" for n in range(19)]) == [True] * 18 + [False]

    def test_the_rate_of_the_gateway_holds_for_all_addresses_together(self) -> None:
        admission = Admission(Settings(max_connect_rate=1), Clock())
        assert admits(admission, ["127.0.0.1"] * 2) == [True] * 2
        with pytest.raises(Refused, match="ROWBELL_MAX_CONNECT_RATE") as refused:
            come(admission, ELSEWHERE)
        assert (refused.value.status, refused.value.reason) == (503, "rate")

    def test_a_full_gateway_takes_the_next_when_one_has_gone(self) -> None:
        admission = Admission(Settings(max_connections=2), Clock())
        first, _second = come(admission, ELSEWHERE), come(admission, ELSEWHERE)
        with pytest.raises(Refused, match="ROWBELL_MAX_CONNECTIONS") as refused:
            come(admission, ELSEWHERE)
        assert (refused.value.status, refused.value.reason) == (503, "connections")
        with first:
            pass
        come(admission, ELSEWHERE)

    def test_a_user_has_so_many_sessions_and_no_more_until_one_ends(self) -> None:
        admission = Admission(Settings(max_sessions_per_user=2), Clock())
        admission.enter("alice")
        admission.enter("alice")
        with pytest.raises(Refused, match="ROWBELL_MAX_SESSIONS_PER_USER") as refused:
            admission.enter("alice")
        assert (refused.value.status, refused.value.reason) == (429, "sessions_per_user")
        admission.enter("bob")
        admission.leave("alice")
        admission.enter("alice")

    def test_nothing_is_left_of_a_user_who_has_gone(self) -> None:
        admission = Admission(Settings(), Clock())
        with come(admission, ELSEWHERE) as seat:
            seat.claim("alice")
            seat.claim("alice")
            assert admission._sessions == {"alice": 1}
        assert admission._sessions == {}

    def test_a_seat_whose_claim_was_refused_takes_no_session_away(self) -> None:
        admission = Admission(Settings(max_sessions_per_user=1), Clock())
        admission.enter("alice")
        with pytest.raises(Refused), come(admission, ELSEWHERE) as seat:
            seat.claim("alice")
        assert admission._sessions == {"alice": 1}

    def test_zero_is_no_limit(self) -> None:
        none = dict.fromkeys(
            ("max_connections", "max_sessions_per_user", "max_connect_rate", "max_connect_rate_per_address"), 0
        )
        admission = Admission(Settings(**none), Clock())
        for _ in range(20_000):
            come(admission, ELSEWHERE).claim("alice")

    def test_every_reason_has_a_counter(self) -> None:
        code = "".join(path.read_text() for path in Path(admission.__file__ or "").parents[1].rglob("*.py"))
        ways = (
            r'Refused\(\s*"(\w+)"|reason="(\w+)"|reason: str = "(\w+)"|"(revoked|frame_rate|marks)"|REFUSED\["(\w+)"\]'
        )
        said = re.findall(ways, code)
        assert {word for words in said for word in words if word} - {"slow", "unacknowledged"} == set(REFUSED)


def come(admission: Admission, address: str | None) -> Seat:
    admission.count(address)
    return admission.admit()


def admits(admission: Admission, addresses: Iterable[str | None]) -> list[bool]:
    """Whether each of them gets a seat, which it keeps."""

    def admitted(address: str | None) -> bool:
        try:
            come(admission, address)
        except Refused:
            return False
        return True

    return [admitted(address) for address in addresses]


@asynccontextmanager
async def gateway(server: PostgresServer, **settings: str | int) -> AsyncIterator[str]:
    """A gateway with these settings; the result is its host and port."""
    inbox = Inbox.connect(server.url("postgres"))
    used = Settings(**settings)  # type: ignore[arg-type]
    served = Gateway(inbox, MemoryPresence(), MemoryBus(), TOKENS, lambda: False, used)
    listener = listen("127.0.0.1", 0)
    started = asyncio.Event()
    serving = asyncio.create_task(serve(served, listener, started=lambda _: started.set()))
    async with asyncio.timeout(20):
        await asyncio.wait([asyncio.create_task(started.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
    try:
        if serving.done():
            await serving
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        if not serving.done():
            os.kill(os.getpid(), signal.SIGTERM)
            await serving
        await inbox.close()


def token(user: str = "alice") -> str:
    return TOKENS.issue(user, 60)


async def hello(opened: ClientConnection, user: str = "alice") -> str:
    """CONNECT; the result is the answer's command."""
    await opened.send(f"CONNECT\naccept-version:1.2\nAuthorization:Bearer {token(user)}\n\n\0")
    async with asyncio.timeout(10):
        return str(await opened.recv()).partition("\n")[0]


async def refusal(url: str, **headers: str) -> InvalidStatus:
    """The answer to a handshake that is refused."""
    with pytest.raises(InvalidStatus) as error:
        async with connect(url, additional_headers={name.replace("_", "-"): value for name, value in headers.items()}):
            pass
    return error.value


class TestOrigins:
    async def test_a_page_of_the_gateways_host_and_a_listed_one_come_in_and_others_do_not(
        self, server: PostgresServer
    ) -> None:
        async with gateway(server, allowed_origins="https://app.example.org") as address:
            url = f"ws://{address}/ws"
            for origin in (f"http://{address}", "https://app.example.org"):
                async with connect(url, origin=origin) as opened:  # type: ignore[arg-type]
                    assert await hello(opened) == "CONNECTED"
            before = refused("origin")
            with capture_logs() as logged:
                for origin in ("https://evil.example", "null", "\xff"):
                    response = (await refusal(url, Origin=origin)).response
                    assert response.status_code == 403
                    assert b"ROWBELL_ALLOWED_ORIGINS" in response.body
            assert refused("origin") == before + 3
            [told] = [event for event in logged if event["event"] == "origin_refused"]
            assert "https://evil.example" in told["reason"], "a browser shows it to nobody"

    async def test_behind_a_believed_proxy_that_speaks_tls_a_page_of_plain_http_is_another(
        self, server: PostgresServer
    ) -> None:
        async with gateway(server, trusted_proxies="127.0.0.1") as address:
            headers = {"X-Forwarded-Proto": "https"}
            async with connect(f"ws://{address}/ws", origin=f"https://{address}", additional_headers=headers):  # type: ignore[arg-type]
                pass
            response = (
                await refusal(f"ws://{address}/ws", Origin=f"http://{address}", X_Forwarded_Proto="https")
            ).response
            assert response.status_code == 403


class TestLimits:
    async def test_a_full_gateway_says_503_and_when_to_come_again(self, server: PostgresServer) -> None:
        async with gateway(server, max_connections=1) as address:
            url = f"ws://{address}/ws"
            before, had = refused("connections"), connections()
            async with connect(url):
                response = (await refusal(url)).response
                assert (response.status_code, response.headers["Retry-After"]) == (503, "10")
                assert b"ROWBELL_MAX_CONNECTIONS" in response.body
                assert connections() == had + 1
            assert refused("connections") == before + 1
            await eventually("the seat is given back", lambda: connections() == had)
            async with connect(url) as opened:
                assert await hello(opened) == "CONNECTED"

    async def test_a_refused_token_gives_its_seat_back(self, server: PostgresServer) -> None:
        async with gateway(server, max_connections=1) as address:
            before = refused("token")
            for _ in range(3):
                assert (await refusal(f"ws://{address}/ws?token=nonsense")).response.status_code == 401
            assert refused("token") == before + 3
            async with connect(f"ws://{address}/ws"):
                pass

    async def test_a_user_with_too_many_sessions_is_told_at_the_handshake(self, server: PostgresServer) -> None:
        async with gateway(server, max_sessions_per_user=1) as address:
            url = f"ws://{address}/ws?token="
            before = refused("sessions_per_user")
            async with connect(url + token("alice")), connect(url + token("bob")):
                response = (await refusal(url + token("alice"))).response
                assert (response.status_code, response.headers["Retry-After"]) == (429, "60")
                assert b"ROWBELL_MAX_SESSIONS_PER_USER" in response.body
            assert refused("sessions_per_user") == before + 1

            async def comes_in() -> bool:
                try:
                    async with connect(url + token("alice")):
                        return True
                except InvalidStatus:
                    return False

            await eventually("the session is over", comes_in)

    async def test_a_user_with_too_many_sessions_is_told_at_connect(self, server: PostgresServer) -> None:
        async with gateway(server, max_sessions_per_user=1) as address:
            url = f"ws://{address}/stomp"
            before = refused("sessions_per_user")
            async with connect(url) as first, connect(url) as second:
                assert await hello(first) == "CONNECTED"
                assert await hello(second) == "ERROR"
                with pytest.raises(ConnectionClosed):
                    await second.recv()
                assert second.close_code == 1013
            assert refused("sessions_per_user") == before + 1

    @pytest.mark.parametrize("header", ["Bearer", "Basic YTpi", "", "Bearer  "])
    async def test_a_strange_authorization_header_is_a_401(self, server: PostgresServer, header: str) -> None:
        async with gateway(server) as address:
            response = (await refusal(f"ws://{address}/ws", Authorization=header)).response
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
            assert b"Authorization header must read: Bearer TOKEN" in response.body

    async def test_too_many_at_once_are_refused_and_a_second_later_taken(self, server: PostgresServer) -> None:
        async with gateway(server, max_connect_rate=2) as address:
            url = f"ws://{address}/ws"
            for _ in range(4):
                async with connect(url):
                    pass
            response = (await refusal(url)).response
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
            await asyncio.sleep(float(response.headers["Retry-After"]))
            async with connect(url):
                pass

    async def test_a_wrong_path_is_counted(self, server: PostgresServer) -> None:
        async with gateway(server) as address:
            before = refused("path")
            assert (await refusal(f"ws://{address}/nowhere")).response.status_code == 404
            assert refused("path") == before + 1


class TestFileDescriptors:
    def room(self, soft: int, hard: int, connections: int) -> tuple[str, str]:
        """(the limit afterwards, what was logged) of a process with these limits before."""
        code = (
            "import resource\nfrom rowbell.gateway.server import _make_room\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n_make_room({connections})\n"
            "print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
        *logged, limit = ran.stdout.splitlines()
        return limit, "".join(logged)

    @pytest.mark.parametrize(
        ("soft", "hard", "connections", "limit", "is_short"),
        [
            (1024, 16384, 10_000, "16384", False),
            (16384, 16384, 10_000, "16384", False),
            (1024, 4096, 10_000, "4096", True),
            (1024, 4096, 0, "4096", False),
        ],
    )
    def test_a_gateway_gets_itself_as_many_as_it_may_have_and_says_when_they_are_few(
        self, soft: int, hard: int, connections: int, limit: str, is_short: bool
    ) -> None:
        found, logged = self.room(soft, hard, connections)
        assert found == limit
        assert ("few_file_descriptors" in logged) is is_short


class TestProxies:
    async def test_a_forwarded_address_counts_from_a_believed_proxy_alone(self, server: PostgresServer) -> None:
        async with gateway(server, max_connect_rate_per_address=1, trusted_proxies="127.0.0.0/8, ::1") as address:
            url = f"ws://{address}/ws"
            before = refused("address_rate")
            for _ in range(2):
                async with connect(url, additional_headers={"X-Forwarded-For": ELSEWHERE}):
                    pass
            response = (await refusal(url, X_Forwarded_For=ELSEWHERE)).response
            assert response.status_code == 429
            assert int(response.headers["Retry-After"]) >= 1
            assert refused("address_rate") == before + 1
            # What the client itself says of its address stands before what the proxy appends.
            assert (await refusal(url, X_Forwarded_For=f"10.9.9.9, {ELSEWHERE}")).response.status_code == 429
            async with connect(url, additional_headers={"X-Forwarded-For": "203.0.113.10"}):
                pass

    async def test_who_is_refused_for_another_reason_counts_as_well(self, server: PostgresServer) -> None:
        async with gateway(server, max_connect_rate_per_address=1, trusted_proxies="127.0.0.1") as address:
            url, headers = f"ws://{address}/nowhere", {"X_Forwarded_For": ELSEWHERE}
            answers = [(await refusal(url, **headers)).response.status_code for _ in range(3)]
            assert answers == [404, 404, 429]

    async def test_nobodys_forwarded_address_counts_by_default(self, server: PostgresServer) -> None:
        async with gateway(server, max_connect_rate_per_address=1) as address:
            for _ in range(5):
                async with connect(f"ws://{address}/ws", additional_headers={"X-Forwarded-For": ELSEWHERE}):
                    pass


class TestTls:
    def test_certificate_and_key_may_stand_in_one_file(self, tmp_path: Path) -> None:
        certificate = Certificate.made(tmp_path)
        both = tmp_path / "both.pem"
        both.write_bytes(certificate.keyfile.read_bytes() + certificate.certfile.read_bytes())
        assert tls.context(Settings(ssl_certfile=str(both))) is not None

    def test_without_a_certificate_there_is_no_tls(self) -> None:
        assert tls.context(Settings()) is None

    def test_what_is_wrong_with_the_files_is_said(self, tmp_path: Path) -> None:
        good, other = Certificate.made(tmp_path), Certificate.made(tmp_path, "other")
        encrypted = Certificate.made(tmp_path, "encrypted", b"a passphrase")
        empty = tmp_path / "empty.pem"
        empty.touch()
        missing = tmp_path / "missing.pem"
        for certfile, keyfile, said in (
            (missing, good.keyfile, rf"ROWBELL_SSL_CERTFILE: {missing} cannot be read: No such file"),
            (good.certfile, missing, rf"ROWBELL_SSL_KEYFILE: {missing} cannot be read: No such file"),
            (good.certfile, tmp_path, r"ROWBELL_SSL_KEYFILE: .* cannot be read: Is a directory"),
            (good.certfile, other.keyfile, "ROWBELL_SSL_KEYFILE: the key in .*other.key does not match"),
            (encrypted.certfile, encrypted.keyfile, "ROWBELL_SSL_KEYFILE: the key is encrypted"),
            (empty, good.keyfile, "ROWBELL_SSL_CERTFILE: .*BEGIN CERTIFICATE"),
            (good.certfile, empty, "ROWBELL_SSL_CERTFILE: .*BEGIN CERTIFICATE"),
            (good.certfile, None, "ROWBELL_SSL_CERTFILE: .*BEGIN CERTIFICATE"),
            (None, good.keyfile, "ROWBELL_SSL_KEYFILE is set but ROWBELL_SSL_CERTFILE is not"),
        ):
            settings = Settings(
                ssl_certfile=certfile and str(certfile),
                ssl_keyfile=keyfile and str(keyfile),
            )
            with pytest.raises(SettingsError, match=said):
                tls.context(settings)

    async def test_who_does_not_shake_hands_is_cut(
        self, server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rowbell.gateway.server.HEAD_TIMEOUT", 0.5)
        made = Certificate.made(tmp_path)
        async with gateway(server, ssl_certfile=str(made.certfile), ssl_keyfile=str(made.keyfile)) as address:
            assert await answer(address, b"") == b""

    async def test_who_does_not_answer_the_end_of_tls_is_cut(
        self, server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("rowbell.gateway.server.LINGER", 0.5)
        made = Certificate.made(tmp_path)

        def refused(address: str) -> bytes:
            """What TCP brings after the end of TLS."""
            host, port = address.split(":")
            context = ssl.create_default_context(cafile=made.certfile)
            context.check_hostname = False
            with (
                socket.create_connection((host, int(port)), timeout=10) as opened,
                socket.socket(fileno=os.dup(opened.fileno())) as beneath,
                context.wrap_socket(opened) as client,
            ):
                client.sendall(upgrade("/nowhere", "x"))
                while client.recv(65536):
                    pass
                beneath.settimeout(10)
                with contextlib.suppress(ConnectionError):
                    return beneath.recv(1)
                return b""

        async with gateway(server, ssl_certfile=str(made.certfile), ssl_keyfile=str(made.keyfile)) as address:
            assert await asyncio.to_thread(refused, address) == b""


class TestHttpProtocol:
    """What comes before the request is whole."""

    async def test_a_client_that_does_not_finish_its_request_is_cut(
        self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.3)
        async with gateway(server) as address:
            for begun in (b"", b"GET /live HTTP/1.1\r\nHost: x\r\n"):
                assert await answer(address, begun) == b""
            # One that has had an answer, and begins another request, too.
            assert (await answer(address, LIVE + b"GET /live")).startswith(b"HTTP/1.1 200")

    async def test_requests_that_wait_for_their_turn_are_few(self, server: PostgresServer) -> None:
        async with gateway(server) as address:
            few = await answer(
                address, LIVE * http_protocol.MAX_PIPELINED + b"GET /live HTTP/1.1\r\nConnection: close\r\n\r\n"
            )
            assert few.count(b" 200 OK") == http_protocol.MAX_PIPELINED + 1
            many = await answer(address, LIVE * 5000)
            assert many.count(b" 200 OK") <= 1
            assert many.count(b" 400 Bad Request") == 1

    @pytest.mark.parametrize(
        "request_",
        [b"GET /live HTTP/1.1\r\n" + b"a:\r\n" * 129 + b"\r\n", CHUNKED + b"0\r\n" + b"a:\r\n" * 129 + b"\r\n"],
        ids=["headers", "trailers"],
    )
    async def test_a_request_of_many_headers_is_refused(self, server: PostgresServer, request_: bytes) -> None:
        async with gateway(server) as address:
            assert b" 400 Bad Request" in await answer(address, request_)

    async def test_who_sends_a_long_body_that_nobody_needs_has_the_answer(self, server: PostgresServer) -> None:
        async with gateway(server) as address:
            size = 50 * http_protocol.MAX_HEAD
            head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(head)
            for _ in range(50):
                writer.write(b"x" * http_protocol.MAX_HEAD)
                await asyncio.sleep(0)
            assert b" 404 " in await reader.readline()
            writer.close()

    async def test_a_body_that_comes_with_its_head_is_no_head(self, server: PostgresServer) -> None:
        async with gateway(server) as address:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            for _ in range(2):
                size = 2 * http_protocol.MAX_HEAD
                writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
                assert b" 404 " in await reader.readuntil(b"\r\n\r\nNot Found")
            writer.close()

    @pytest.mark.parametrize(
        ("request_", "more"),
        [
            (LIVE, b"\r\n"),
            (b"GET /live HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"x"),
            (CHUNKED, b"5\r\n"),
            (CHUNKED, b"0\r\na:"),
        ],
        ids=["an empty line", "a byte of a body", "a part of a chunk", "a part of a trailer"],
    )
    async def test_a_client_that_has_its_answer_and_asks_for_nothing_is_cut_whatever_it_sends(
        self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, request_: bytes, more: bytes
    ) -> None:
        monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.3)
        async with gateway(server) as address:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(request_)
            await reader.readuntil(b"live\n")
            writer.write(more)
            async with asyncio.timeout(4):  # uvicorn's own time-out of an idle connection, 5 s, is stopped by `more`
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            writer.close()

    async def test_who_has_asked_for_nothing_the_longest_gives_way(self, server: PostgresServer) -> None:
        async with gateway(server, max_http_connections=2) as address:
            before, open_before = refused("http_connections"), http_connections()
            host, port = address.split(":")
            first = await asyncio.open_connection(host, int(port))
            second = await asyncio.open_connection(host, int(port))
            await eventually("both connections", lambda: http_connections() == open_before + 2)
            first[1].write(LIVE)
            await first[0].readuntil(b"live\n")  # so the second has now waited longer
            async with connect(f"ws://{address}/ws") as opened:
                assert await hello(opened) == "CONNECTED"
                with contextlib.suppress(ConnectionError):
                    assert await second[0].read() == b""
                # The WebSocket counts as one no more, so there is room.
                third = await asyncio.open_connection(host, int(port))
                for reader, writer in (first, third):
                    writer.write(LIVE)
                    assert b" 200 " in await reader.readuntil(b"live\n")
            assert refused("http_connections") == before + 1
            for _, writer in (first, second, third):
                writer.close()
            await eventually("all of them closed", lambda: http_connections() == open_before)

    async def test_a_head_without_end_is_cut(self, server: PostgresServer) -> None:
        async with gateway(server) as address:
            assert await answer(address, b"GET /live HTTP/1.1\r\nX: " + b"x" * (http_protocol.MAX_HEAD + 1)) == b""
            in_one_read = b"GET /live HTTP/1.1\r\nX: " + b"x" * http_protocol.MAX_HEAD + b"\r\n\r\n"
            assert b" 200 " not in await answer(address, in_one_read)
            assert await answer(address, b"GET /live HTTP/1.1\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 66) == b""

    async def test_a_websocket_that_is_silent_is_not_cut_by_it(
        self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.2)
        async with gateway(server) as address, connect(f"ws://{address}/ws") as opened:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.6):
                    with pytest.raises(ConnectionClosed):
                        await opened.recv()
            assert await hello(opened) == "CONNECTED"

    async def test_a_connection_becomes_a_websocket_when_all_before_is_answered(self, server: PostgresServer) -> None:
        async with gateway(server) as address:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(LIVE)
            assert b" 200 " in await reader.readuntil(b"live\n")
            writer.write(upgrade("/stomp", "x"))
            assert b" 101 " in await reader.readline()
            writer.close()
            await writer.wait_closed()
            assert b" 101 " not in await answer(address, LIVE + upgrade("/stomp", "x"))

    async def test_a_connection_whose_answers_are_not_read_becomes_no_websocket(
        self, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The WebSocket would not hear that the socket is full already, and write whatever there is into memory."""
        serving: asyncio.Queue[http_protocol.HttpProtocol] = asyncio.Queue()

        class Narrow(http_protocol.HttpProtocol):
            def data_received(self, data: bytes) -> None:
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                serving.put_nowait(self)
                super().data_received(data)

        monkeypatch.setattr("rowbell.gateway.server.HttpProtocol", Narrow)
        async with gateway(server) as address:
            host, port = address.split(":")
            with socket.socket() as opened:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                opened.connect((host, int(port)))
                opened.setblocking(False)
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(20):
                    await loop.sock_sendall(opened, LIVE)
                    protocol = await serving.get()
                    while not protocol.flow.write_paused:
                        if protocol.cycle.response_complete:
                            await loop.sock_sendall(opened, LIVE)
                            await serving.get()
                        await asyncio.sleep(0)
                    await loop.sock_sendall(opened, upgrade("/stomp", "x"))
                    with contextlib.suppress(ConnectionError):
                        while data := await loop.sock_recv(opened, 65536):
                            assert b" 101 " not in data

    async def test_many_requests_on_one_connection_are_answered_whatever_their_length_together(
        self, server: PostgresServer
    ) -> None:
        def ask(address: str) -> list[int]:
            with requests.Session() as session:
                headers = {"X-Padding": "x" * 10_000}
                return [session.get(f"http://{address}/live", headers=headers).status_code for _ in range(20)]

        async with gateway(server) as address:
            assert await asyncio.to_thread(ask, address) == [200] * 20


async def answer(address: str, request: bytes) -> bytes:
    """What comes until the gateway closes."""

    def ask() -> bytes:
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as opened:
            got = b""
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                opened.sendall(request)
                while data := opened.recv(65536):
                    got += data
            return got

    return await asyncio.to_thread(ask)

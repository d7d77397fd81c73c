"""The edge of a site as it is run: gateways that speak TLS themselves, and nginx as the document configures it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from cryptography import x509
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from rowbell.errors import SettingsError
from tests.gateway.certificates import Certificate
from tests.integration.edge import Nginx, TlsGateway
from tests.integration.processes import Gateway, eventually, free_port, running
from tests.integration.rows import Database, insert
from tests.integration.systems import PostgresOnly
from tests.test_docs import blocks

Names = Callable[[str], str]

STOMP = Subprotocol("v12.stomp")

DOCUMENT = (Path(__file__).parents[2] / "docs" / "nginx.md").read_text()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.made(tmp_path_factory.mktemp("certificate"))


async def subscribed(opened: ClientConnection, token: str | None) -> None:
    """CONNECT, with this token, and SUBSCRIBE; everything before the RECEIPT is passed over."""
    authorization = "" if token is None else f"Authorization:Bearer {token}\n"
    await opened.send(f"CONNECT\naccept-version:1.2\n{authorization}\n\0")
    await opened.send("SUBSCRIBE\nid:1\ndestination:/user/queue/notifications\nreceipt:r\n\n\0")
    async with asyncio.timeout(20):
        while not (frame := str(await opened.recv())).startswith("RECEIPT"):
            assert not frame.startswith("ERROR"), frame


async def assert_gets(opened: ClientConnection, id: int) -> None:
    async with asyncio.timeout(20):
        while f"notification-id:{id}\n" not in str(await opened.recv()):
            pass


@pytest.fixture(scope="module")
def gateway(
    postgres_only: PostgresOnly, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsGateway]:
    log = tmp_path_factory.mktemp("tls") / "gateway.log"
    with running(gateway := TlsGateway(postgres_only.settings, log, certificate)):
        yield gateway


class TestTls:
    async def test_a_row_reaches_a_client_over_tls(
        self, gateway: TlsGateway, postgres_only: PostgresOnly, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        async with connect(gateway.url, ssl=gateway.certificate.client(), subprotocols=[STOMP]) as opened:
            await subscribed(opened, postgres_only.token(alice))
            await assert_gets(opened, await insert(database, alice))

    async def test_a_page_that_came_by_plain_http_is_of_another_origin(self, gateway: TlsGateway) -> None:
        async with connect(gateway.url, ssl=gateway.certificate.client(), origin=gateway.origin("https")):
            pass
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(gateway.url, ssl=gateway.certificate.client(), origin=gateway.origin("http")):
                pass

    def test_tls_1_2_is_spoken_and_1_1_is_not(self, gateway: TlsGateway) -> None:
        client = gateway.certificate.client()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        assert shake_hands(gateway, client) == "TLSv1.2"
        client.set_ciphers("ALL:@SECLEVEL=0")  # with the default ciphers OpenSSL speaks nothing older anyhow
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            shake_hands(gateway, client)

    def test_who_speaks_no_tls_gets_no_answer_and_costs_nothing_afterwards(self, gateway: TlsGateway) -> None:
        files = Path(f"/proc/{gateway.pid}/fd")
        assert gateway.ready()
        before = len(list(files.iterdir()))
        for _ in range(30):
            with pytest.raises(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{gateway.port}/live", timeout=10)
        assert gateway.ready()
        gateway.wait_for("rid of them", lambda: len(list(files.iterdir())) <= before + 3)

    def test_wrong_files_end_it_at_the_start_with_a_sentence(
        self, postgres_only: PostgresOnly, tmp_path: Path, certificate: Certificate
    ) -> None:
        command = [sys.executable, "-m", "rowbell", "serve", "--port", "0", "--ssl-certfile"]
        env = {**os.environ, **postgres_only.settings}
        missing = [*command, str(tmp_path / "missing.pem")]
        ended = subprocess.run(missing, env=env, capture_output=True, text=True, timeout=30)
        assert ended.returncode == 2
        assert ended.stderr.splitlines()[-1].startswith("rowbell: ROWBELL_SSL_CERTFILE: ")
        assert "Traceback" not in ended.stderr
        other = Certificate.made(tmp_path, "other")
        mixed = [*command, str(certificate.certfile), "--ssl-keyfile", str(other.keyfile)]
        ended = subprocess.run(mixed, env=env, capture_output=True, text=True, timeout=30)
        assert "ROWBELL_SSL_KEYFILE: the key in" in ended.stderr

    def test_an_expired_certificate_is_served_and_warned_of(self, postgres_only: PostgresOnly, tmp_path: Path) -> None:
        expired = Certificate.made(tmp_path, lasts=-timedelta(hours=1))
        end = x509.load_pem_x509_certificate(expired.certfile.read_bytes()).not_valid_after_utc
        log = tmp_path / "gateway.log"
        with running(gateway := ExpiredGateway(postgres_only.settings, log, expired)):
            assert gateway.ready()
        warnings = [json.loads(line) for line in log.read_text().splitlines() if "certificate_expired" in line]
        assert [(each["level"], each["expired_at"]) for each in warnings] == [("warning", end.isoformat())]

    def test_a_certificate_that_is_good_is_not_warned_of(self, gateway: TlsGateway) -> None:
        assert "certificate_expired" not in gateway.log.read_text()

    def test_embedded_has_none(self, certificate: Certificate) -> None:
        from rowbell.cli import _parser
        from rowbell.config import Settings

        args = _parser().parse_args(["serve", "--embedded", "--ssl-certfile", str(certificate.certfile)])
        with pytest.raises(SettingsError, match="does not use TLS"):
            args.run(args, Settings())


class ExpiredGateway(TlsGateway):
    """Its certificate is not looked at."""

    def ready(self) -> bool:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        with contextlib.suppress(OSError):
            return shake_hands(self, client) == "TLSv1.3"
        return False


def shake_hands(gateway: TlsGateway, client: ssl.SSLContext) -> str | None:
    with (
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as opened,
        client.wrap_socket(opened, server_hostname="localhost") as secured,
    ):
        return secured.version()


class Site:
    """nginx before two gateways."""

    def __init__(self, env: dict[str, str], directory: Path, certificate: Certificate) -> None:
        self.certificate = certificate
        self.port = free_port()
        self.log = directory / "access.log"
        self.gateways = [Gateway(env, directory / f"gateway-{n}.log") for n in (1, 2)]
        (http,) = blocks(DOCUMENT, "nginx")
        for written, here in (
            ("127.0.0.1:8114", f"127.0.0.1:{self.gateways[0].port}"),
            ("127.0.0.1:8115", f"127.0.0.1:{self.gateways[1].port}"),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("/etc/rowbell/tls.pem", str(certificate.certfile)),
            ("/etc/rowbell/tls.key", str(certificate.keyfile)),
            ("/var/log/nginx/rowbell.log", str(self.log)),
            ("/var/log/nginx/rowbell-errors.log", str(directory / "errors.log")),
        ):
            assert http.count(written) == 1, written
            http = http.replace(written, here)
        self.errors = directory / "errors.log"
        self.nginx = Nginx(http, directory, f"https://127.0.0.1:{self.port}/", certificate)

    def connect(self, query: str = "", **headers: str) -> connect:
        return connect(
            f"wss://127.0.0.1:{self.port}/ws{query}",
            ssl=self.certificate.client(),
            subprotocols=[STOMP],
            additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    async def statuses(self, times: int, **headers: str) -> list[int]:
        """Of handshakes one after another; 101 if one is let in."""
        found = []
        for _ in range(times):
            try:
                async with self.connect(**headers):
                    found.append(101)
            except InvalidStatus as refused:
                found.append(refused.response.status_code)
        return found


class TestNginx:
    @pytest.fixture
    def site(self, postgres_only: PostgresOnly, certificate: Certificate, tmp_path: Path) -> Iterator[Site]:
        believed = re.search(r"^export (ROWBELL_TRUSTED_PROXIES)=(.*)$", DOCUMENT, re.MULTILINE)
        assert believed is not None
        limits = {"ROWBELL_MAX_CONNECTIONS": "2", "ROWBELL_MAX_CONNECT_RATE_PER_ADDRESS": "1"}
        env = {**postgres_only.settings, believed[1]: believed[2], **limits}
        site = Site(env, tmp_path, certificate)
        with running(*site.gateways):
            try:
                yield site
            finally:
                site.nginx.stop()

    async def test_a_row_reaches_a_client_through_nginx_and_no_token_stands_in_its_log(
        self, site: Site, postgres_only: PostgresOnly, database: Database, user: Names
    ) -> None:
        alice = user("alice")
        token = postgres_only.token(alice)
        async with site.connect(f"?token={token}", Origin=f"https://127.0.0.1:{site.port}") as opened:
            await subscribed(opened, None)
            await assert_gets(opened, await insert(database, alice))
        with pytest.raises(InvalidStatus):
            async with site.connect(f"?token={token}x"):
                pass
        site.gateways[0].wait_for("logged", lambda: '"GET /ws" 101' in site.log.read_text())
        assert token not in site.log.read_text()
        assert token not in site.errors.read_text()

    async def test_the_gateways_know_the_origin_and_that_the_client_speaks_tls(self, site: Site) -> None:
        assert await site.statuses(1, Origin=f"https://127.0.0.1:{site.port}") == [101]
        assert await site.statuses(1, Origin=f"http://127.0.0.1:{site.port}") == [403]
        assert await site.statuses(1, Origin="https://127.0.0.1") == [403]

    async def test_clients_come_to_both_gateways_and_beyond_their_limits_to_none(self, site: Site) -> None:
        connections = [await site.connect() for _ in range(4)]
        assert [gateway.metric("rowbell_connections") for gateway in site.gateways] == [2, 2]
        assert await site.statuses(2) == [503, 503]
        for each in connections:
            await each.close()

        async def let_in() -> bool:
            return await site.statuses(1) == [101]

        await eventually("their places are free", let_in)

    async def test_a_gateway_that_is_full_or_down_passes_its_clients_on(self, site: Site) -> None:
        first, second = site.gateways
        direct = [await connect(first.url), await connect(first.url)]
        async with site.connect():
            assert (first.metric("rowbell_connections"), second.metric("rowbell_connections")) == (2, 1)
        for each in direct:
            await each.close()
        second.kill()
        assert await site.statuses(4) == [101] * 4

    async def test_what_a_client_says_of_its_own_address_is_not_passed_on(self, site: Site) -> None:
        # The limit for addresses is not for this machine, so a forged address alone can meet it.
        assert await site.statuses(6, X_Forwarded_For="203.0.113.9") == [101] * 6

    def test_the_page_and_the_probes_are_not_there(self, site: Site) -> None:
        for path in ("/", "/ready", "/live", "/ws/info", "/metrics"):
            url = f"https://127.0.0.1:{site.port}{path}"
            assert requests.get(url, verify=str(site.certificate.certfile), timeout=10).status_code == 404

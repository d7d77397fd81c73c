"""Reading a list of keys, from servers that behave and from others."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from rowbell.auth import fetch
from rowbell.auth.fetch import MAX_DOCUMENT, read_file, read_url
from tests.auth.issuer import Issuer, send

Answer = Callable[[BaseHTTPRequestHandler], None]


def problem(url: str) -> str:
    with pytest.raises(OSError) as failed:  # noqa: PT011
        read_url(url)
    return str(failed.value)


def test_the_body_of_the_answer_is_the_document(issuer: Issuer) -> None:
    issuer.keys = [{"kty": "RSA"}]

    assert json.loads(read_url(issuer.url)) == {"keys": [{"kty": "RSA"}]}


def test_a_compressed_body_is_unpacked(issuer: Issuer) -> None:
    issuer.answer = lambda request: send(request, gzip.compress(b"{}"), Content_Encoding="gzip")

    assert read_url(issuer.url) == b"{}"


@pytest.mark.parametrize("status", [204, 400, 401, 404, 429, 500, 503])
def test_another_status_than_200_is_a_failure(issuer: Issuer, status: int) -> None:
    issuer.answer = lambda request: send(request, b"", status)

    assert problem(issuer.url) == f"it answers with status {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(issuer: Issuer, status: int) -> None:
    issuer.answer = lambda request: send(request, b"", status, Location="/elsewhere")

    assert "it redirects" in problem(issuer.url)
    assert len(issuer.requests) == 1


def test_a_body_that_is_too_long_is_not_read_to_its_end(issuer: Issuer) -> None:
    sent = 0

    def pour(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        request.end_headers()
        while not issuer.over.is_set():
            request.wfile.write(b" " * 65536)
            sent += 65536

    issuer.answer = pour

    assert problem(issuer.url) == f"it is longer than {MAX_DOCUMENT} bytes"
    assert sent < 100 * MAX_DOCUMENT


def test_a_small_body_that_unpacks_to_a_large_one_is_not_unpacked_to_its_end(issuer: Issuer) -> None:
    bomb = gzip.compress(b" " * 200_000_000)
    issuer.answer = lambda request: send(request, bomb, Content_Encoding="gzip")

    begun = time.monotonic()
    assert problem(issuer.url) == f"it is longer than {MAX_DOCUMENT} bytes"
    assert time.monotonic() - begun < 2


def test_a_server_that_says_nothing_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE_SECONDS", 0.1)
    issuer.answer = issuer.hang

    assert problem(issuer.url) == "it does not answer in time"


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TOTAL_SECONDS", 0.2)

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not issuer.over.wait(0.02):
            request.wfile.write(b" ")

    issuer.answer = drip

    begun = time.monotonic()
    assert "takes longer" in problem(issuer.url)
    assert time.monotonic() - begun < 2


def cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "100")
    request.end_headers()
    request.wfile.write(b"{")


def garbage(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


def not_packed(request: BaseHTTPRequestHandler) -> None:
    send(request, b"plain", Content_Encoding="gzip")


@pytest.mark.parametrize("answer", [cut, garbage, not_packed])
def test_an_answer_that_breaks_off_or_is_no_http_is_a_failure(issuer: Issuer, answer: Answer) -> None:
    issuer.answer = answer

    assert problem(issuer.url)


def test_a_server_that_is_away_is_a_failure_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    assert "Connection refused" in problem(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/k?token={}", "http://u:{}@127.0.0.1:1/", "http://[{}/"])
def test_no_failure_quotes_the_url(url: str) -> None:
    assert "hunter2" not in problem(url.format("hunter2"))


def test_tls_of_a_stranger_is_a_failure(issuer: Issuer) -> None:
    assert problem(issuer.url.replace("http://", "https://"))


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(b"{}")

    assert read_file(str(tmp_path / "jwks.json")) == b"{}"


def test_a_file_that_is_too_long_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(b" " * (MAX_DOCUMENT + 1))

    with pytest.raises(OSError, match="longer than"):
        read_file(str(tmp_path / "jwks.json"))

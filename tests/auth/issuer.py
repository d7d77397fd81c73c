"""An issuer of tokens: key pairs, what it signs with them, and the server that lists the public ones."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
K256 = ec.generate_private_key(ec.SECP256K1())
ED25519 = ed25519.Ed25519PrivateKey.generate()

SECRET = "0123456789abcdef" * 4
NOW = int(time.time())

READERS = {
    rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
    ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
    ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
}


def pem(private: Any, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> str:
    """The public half."""
    return str(private.public_key().public_bytes(Encoding.PEM, form).decode())


def jwk(private: Any, **members: Any) -> dict[str, Any]:
    """The public half as an entry of a list, with more members, or without those that are None."""
    reader = next(reader for kind, reader in READERS.items() if isinstance(private, kind))
    entry = reader.to_jwk(private.public_key(), as_dict=True) | members
    return {name: value for name, value in entry.items() if value is not None}


def part(value: object) -> str:
    """A part of a token: JSON, or bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: object, claims: object, key: Any, algorithm: str) -> str:
    """A token with this header and these claims, JSON or bytes as they are, whatever they are."""
    signed = f"{part(header)}.{part(claims)}"
    signer = jwt.get_algorithm_by_name(algorithm)
    return f"{signed}.{part(signer.sign(signed.encode(), key))}"


def token(key: Any, algorithm: str, *without: str, kid: str | None = None, **claims: Any) -> str:
    """A token that is good but for `claims`, and for the claims that it goes `without`."""
    payload = {"sub": "alice", "exp": NOW + 3600} | claims
    header = {"alg": algorithm, "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    return sign(header, {name: each for name, each in payload.items() if name not in without}, key, algorithm)


class Clock:
    """Seconds, which pass when a test says so."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Issuer:
    """Lists keys over HTTP."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_port}/jwks.json"
        self.keys: list[Any] = []
        """What it lists."""
        self.answer: Callable[[BaseHTTPRequestHandler], None] = self.list_keys
        """What it does with a request."""
        self.requests: list[BaseHTTPRequestHandler] = []
        self.over = threading.Event()
        """Set when the test ends: an answer that hangs waits for it."""

    def list_keys(self, request: BaseHTTPRequestHandler) -> None:
        send(request, json.dumps({"keys": self.keys}).encode())

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        self.over.wait(30)

    def fail(self, request: BaseHTTPRequestHandler) -> None:
        send(request, b"out of order", status=500)


def send(request: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def serving(port: int = 0) -> Iterator[Issuer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self)
            issuer.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with _Server(("127.0.0.1", port), Handler) as server:
        issuer = Issuer(server)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield issuer
        finally:
            issuer.over.set()
            server.shutdown()
            thread.join()

"""Tokens, good ones and all kinds of bad ones; made here, as the product's code makes only good ones."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from random import Random

SECRET = "the fuzzer signs with this: it is no secret"
NO_EXPIRY = 4_000_000_000
USERS = tuple(f"fuzz-{number}" for number in range(8))
TOPICS = ["news.#", "status"]


def token(claims: object, header: object = None, secret: str = SECRET) -> str:
    """Both parts may be bytes, which then need not be JSON."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    signed = f"{_part(head)}.{_part(claims)}"
    return f"{signed}.{_base64(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


def good(user: str, exp: int = NO_EXPIRY) -> str:
    return token({"sub": user, "exp": exp, "topics": TOPICS})


def bad(r: Random, now: int) -> str:
    """One that nobody may come in with: by its signature, its time, its claims or its form."""
    user = r.choice(USERS)
    fine = {"sub": user, "exp": NO_EXPIRY}
    whole = token(fine)
    kind = r.randrange(9)
    if kind == 0:
        return token({**fine, "exp": now - r.choice([6, 60, 10**9])})
    if kind == 1:
        return token({**fine, r.choice(["nbf", "iat"]): now + r.choice([60, 10**6])})
    if kind == 2:
        unsigned = f"{_part({'alg': r.choice(['none', 'None', 'NONE', ''])})}.{_part(fine)}."
        return unsigned + r.choice(["", whole.rpartition(".")[2]])
    if kind == 3:
        return token(fine, secret="another secret that has thirty-two bytes")
    if kind == 4:
        return whole[: r.randrange(len(whole) - 8)]
    if kind == 5:
        return whole + r.choice(["A" * r.choice([10, 8000, 9000]), ".", ".x", "é", "\x7f"])
    if kind == 6:
        return token(r.choice(NO_CLAIMS)) if r.random() < 0.5 else token(fine, r.choice(BAD_HEADERS))
    if kind == 7:
        return token({**fine, **r.choice(BAD_CLAIMS)})
    return r.choice(["", ".", "..", "....", "a.b.c", "null", "=.=.=", "A" * 3, "eyJ", whole.replace(".", "")])


NO_CLAIMS: list[object] = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe",
    b'"text"',
    b"1e999",
    b"[" * 4000,
    b'{"a":' * 2000,
    b"NaN",
    b'{"sub":"fuzz-0","exp":NaN}',
    b'{"sub":"fuzz-0","exp":1e999}',
    b'{"sub":"fuzz-0","exp":' + b"9" * 5000 + b"}",
    b'{"exp":4000000000}',
    b'{"sub":"fuzz-0"}',
    b'{"sub":"\\ud800","exp":4000000000}',
    b'{"sub":"fuzz-0","sub":"","exp":4000000000}',
]
BAD_HEADERS: list[object] = [
    {},
    [],
    b"",
    b"\xff",
    b"null",
    {"alg": "none"},
    {"alg": None},
    {"alg": 5},
    {"alg": ["HS256"]},
    {"alg": "RS256"},
    {"alg": "HS256", "crit": ["x"]},
    {"alg": "HS256", "b64": False},
    {"alg": "HS256", "kid": 7},
    b"[" * 3000,
    {"alg": "HS256", "crit": ["exp"], "kid": "../../dev/null"},
    {"alg": "ES256", "jwk": {"kty": "oct"}},
]
BAD_CLAIMS: list[dict[str, object]] = (
    [
        {"sub": value}
        for value in (
            [],
            {},
            5,
            True,
            1.5,
            "",
            "a\nb",
            "a\0b",
            "\x7f",
            "a/b",
            "*",
            "#",
            "topic:news.sport",
            "x" * 256,
            "é\u0085",
            "\ud800",
            ["fuzz-0"],
            None,
        )
    ]
    + [{"exp": value} for value in ("4000000000", [], {}, True, -1, 0, 10**30, -(10**30), float("nan"), 1e308, None)]
    + [
        {"topics": value}
        for value in ("news", [5], [""], ["a/b"], ["x" * 256], ["x"] * 101, {}, [None], ["a:b"], ["\n"])
    ]
    + [{"nbf": "0"}, {"iat": float("inf")}, {"iat": 10**40}, {"aud": "others"}, {"aud": []}]
)


def _part(value: object) -> str:
    return _base64(value if isinstance(value, bytes) else json.dumps(value).encode())


def _base64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()

"""Reads an issuer's list of keys, from a URL or a file. Blocking: never on the event loop.

OSError, whose text holds no password, says why a document cannot be had.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import RequestException

MAX_DOCUMENT = 256 * 1024
"""Bytes: room for hundreds of keys with their certificates; real lists have 1 to 20 KiB."""

CONNECT_SECONDS = 3.05
"""A little more than the three seconds after which TCP repeats its first packet."""
SILENCE_SECONDS = 5.0
"""How long the server may say nothing."""
TOTAL_SECONDS = 10.0
"""How long the body may take to come."""


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return _bounded(file.read(MAX_DOCUMENT + 1))


def read_url(url: str) -> bytes:
    """The body that GET answers with status 200. Redirects are not followed: one could lead anywhere, and out of TLS.

    What `requests` reads from the environment counts here as well: proxies, REQUESTS_CA_BUNDLE.
    """
    import requests  # 50 ms, which `rowbell token` need not wait for
    from urllib3.exceptions import HTTPError

    begun = time.monotonic()
    headers = {"Accept": "application/jwk-set+json, application/json", "User-Agent": "rowbell"}
    try:
        with requests.get(
            url, headers=headers, timeout=(CONNECT_SECONDS, SILENCE_SECONDS), allow_redirects=False, stream=True
        ) as answer:
            if answer.is_redirect:
                raise OSError(f"it redirects (status {answer.status_code}): set the address that it leads to")
            if answer.status_code != requests.codes.ok:
                raise OSError(f"it answers with status {answer.status_code}")
            return _body(answer.raw, begun + TOTAL_SECONDS)
    except requests.RequestException as error:
        raise OSError(_reason(error)) from None
    except HTTPError as error:
        raise OSError(f"its answer breaks off ({type(error).__name__})") from None


def _body(raw: Any, deadline: float) -> bytes:
    """All of it, by single reads of the socket: a server that sends a byte now and then must not hold us."""
    body = bytearray()
    while chunk := raw.read1(16 * 1024, decode_content=True):
        body += _bounded(chunk, so_far=len(body))
        if time.monotonic() > deadline:
            raise OSError(f"its answer takes longer than {TOTAL_SECONDS:.0f} s")
    return bytes(body)


def _bounded(data: bytes, so_far: int = 0) -> bytes:
    if so_far + len(data) > MAX_DOCUMENT:
        raise OSError(f"it is longer than {MAX_DOCUMENT} bytes")
    return data


def _reason(error: RequestException) -> str:
    """The texts of requests and urllib3 quote the URL, which may hold a password: the operating system's do not."""
    innermost: BaseException = error
    while innermost.__context__ is not None:
        innermost = innermost.__context__
    if isinstance(innermost, TimeoutError):
        return "it does not answer in time"
    if isinstance(innermost, OSError) and type(innermost).__module__ in ("builtins", "socket", "ssl"):
        return str(innermost)
    return f"the request fails ({type(error).__name__})"

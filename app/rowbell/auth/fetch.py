"""Reads an issuer's key set from a URL or a file. Blocking: never call it on the event loop.

Failures raise OSError; its text never contains a password.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import RequestException

MAX_DOCUMENT = 256 * 1024
"""Bytes. Enough for hundreds of keys with certificates; real key sets have 1 to 20 KiB."""

CONNECT_SECONDS = 3.05
"""Slightly more than the three seconds after which TCP retransmits its first packet."""
SILENCE_SECONDS = 5.0
"""How long the server may stay silent between two reads."""
TOTAL_SECONDS = 10.0
"""How long the body may take to arrive."""


def read_file(path: str) -> bytes:
    """Return the file's content. Raises OSError if it cannot be read or is longer than MAX_DOCUMENT bytes."""
    with open(path, "rb") as file:
        return _bounded(file.read(MAX_DOCUMENT + 1))


def read_url(url: str) -> bytes:
    """Return the body of a GET request that is answered with status 200.

    Redirects are not followed: one could lead anywhere, and away from TLS. The environment variables that `requests`
    reads (proxies, REQUESTS_CA_BUNDLE) apply. Raises OSError on any failure, on timeouts, and if the body is longer
    than MAX_DOCUMENT bytes.
    """
    import requests  # takes 50 ms, which `rowbell token` does without
    from urllib3.exceptions import HTTPError

    begun = time.monotonic()
    headers = {"Accept": "application/jwk-set+json, application/json", "User-Agent": "rowbell"}
    try:
        with requests.get(
            url, headers=headers, timeout=(CONNECT_SECONDS, SILENCE_SECONDS), allow_redirects=False, stream=True
        ) as answer:
            if answer.is_redirect:
                raise OSError(f"it redirects (status {answer.status_code}): set the address that it redirects to")
            if answer.status_code != requests.codes.ok:
                raise OSError(f"it answers with status {answer.status_code}")
            return _body(answer.raw, begun + TOTAL_SECONDS)
    except requests.RequestException as error:
        raise OSError(_reason(error)) from None
    except HTTPError as error:
        raise OSError(f"its answer breaks off ({type(error).__name__})") from None


def _body(raw: Any, deadline: float) -> bytes:
    """Read the whole body with single socket reads, so that a server that trickles bytes cannot hold us up."""
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
    """Describe the error without the URL, which may contain a password.

    The messages of requests and urllib3 quote the URL; those of the operating system do not.
    """
    innermost: BaseException = error
    while innermost.__context__ is not None:
        innermost = innermost.__context__
    if isinstance(innermost, TimeoutError):
        return "it does not answer in time"
    if isinstance(innermost, OSError) and type(innermost).__module__ in ("builtins", "socket", "ssl"):
        return str(innermost)
    return f"the request fails ({type(error).__name__})"

"""Which pages may connect. Browsers let any page open a WebSocket to any server, and name the page in `Origin`.

Source: RFC 6454 (Origin), RFC 6455, 10.2
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rowbell.config import ORIGIN

DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/?#@,\s]+)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin in lower case, or a pattern of origins with a host such as `*.example.org`."""

    scheme: str
    host: str
    port: int | None
    """None if it is not given and the scheme has no default port, as with those of apps (`capacitor://localhost`)."""

    @classmethod
    def parse(cls, text: str) -> Origin | None:
        """Parse an origin; None if the text is not one, such as `null`."""
        match = ORIGIN.fullmatch(text.lower())
        if match is None:
            return None
        scheme, host, port = match.groups()
        return cls(scheme, host, int(port) if port else DEFAULT_PORTS.get(scheme))

    def has_subdomain(self, other: Origin) -> bool:
        """Whether this is a pattern, such as `https://*.example.org`, that matches `other`."""
        return (
            self.host.startswith("*.")
            and other.host.endswith(self.host[1:])
            and (self.scheme, self.port) == (other.scheme, other.port)
        )


class Origins:
    """The origins that may connect: the gateway's own, and those in ROWBELL_ALLOWED_ORIGINS."""

    def __init__(self, allowed: str | None) -> None:
        """`allowed` is the value of ROWBELL_ALLOWED_ORIGINS; None if it is not set."""
        listed = (allowed or "").split(",")
        self._everybody = "*" in listed
        self._listed = frozenset(origin for each in listed if (origin := Origin.parse(each)))

    def complaint(self, origin: Sequence[str], host: Sequence[str], secure: bool) -> str | None:
        """Say why a handshake with these `Origin` and `Host` headers is refused; None if it is not.

        `secure` says that the client is known to use TLS, with the gateway or with a trusted proxy.
        """
        if not origin or self._everybody:  # without Origin, the client is not a browser
            return None
        parsed = Origin.parse(origin[0]) if len(origin) == 1 else None
        if parsed is None:
            return (
                "The Origin header of this handshake does not name a site, as with a file or a sandboxed frame: "
                "only ROWBELL_ALLOWED_ORIGINS=* lets such pages connect."
            )
        if _is_same(parsed, host, secure) or self._is_listed(parsed):
            return None
        return f"Pages of {origin[0]} may not connect here: their origin is not in ROWBELL_ALLOWED_ORIGINS."

    def _is_listed(self, origin: Origin) -> bool:
        return origin in self._listed or any(pattern.has_subdomain(origin) for pattern in self._listed)


def _is_same(origin: Origin, host: Sequence[str], secure: bool) -> bool:
    """Whether the page comes from the host and port that its WebSocket connects to.

    Behind an untrusted proxy that terminates TLS, the gateway does not know its own scheme, and the origin's is used
    instead: a `Host` without a port means port 443 for a page loaded by https, and 80 for one loaded by http. Where TLS
    is known, a page loaded by http, which may have been altered on the way, is a different origin.
    """
    if len(host) != 1 or origin.scheme not in DEFAULT_PORTS or (secure and origin.scheme != "https"):
        return False
    match = _HOST.fullmatch(host[0].lower())
    if match is None:
        return False
    return (match[1], int(match[2] or DEFAULT_PORTS[origin.scheme])) == (origin.host, origin.port)

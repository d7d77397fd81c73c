"""Which pages may connect: browsers say in `Origin` whose page opens a WebSocket, and let any page open one to anybody.

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
    scheme: str
    host: str
    port: int | None
    """None if none is written and the scheme has none of its own, as those of apps (`capacitor://localhost`)."""

    @classmethod
    def parse(cls, text: str) -> Origin | None:
        """None if it is none: `null`, for instance."""
        match = ORIGIN.fullmatch(text.lower())
        if match is None:
            return None
        scheme, host, port = match.groups()
        return cls(scheme, host, int(port) if port else DEFAULT_PORTS.get(scheme))

    def has_subdomain(self, other: Origin) -> bool:
        """Is this a pattern, `https://*.example.org`, and the other one of those it stands for?"""
        return (
            self.host.startswith("*.")
            and other.host.endswith(self.host[1:])
            and (self.scheme, self.port) == (other.scheme, other.port)
        )


class Origins:
    """The gateway's own, and those of the setting."""

    def __init__(self, allowed: str | None) -> None:
        """`allowed` is the value of ROWBELL_ALLOWED_ORIGINS."""
        listed = (allowed or "").split(",")
        self._everybody = "*" in listed
        self._listed = frozenset(origin for each in listed if (origin := Origin.parse(each)))

    def complaint(self, origin: Sequence[str], host: Sequence[str], secure: bool) -> str | None:
        """Why a handshake with these headers `Origin` and `Host` is refused; None if it is not.

        `secure` says that the client is known to speak TLS, with the gateway or with a proxy that it believes.
        """
        if not origin or self._everybody:  # no browser
            return None
        parsed = Origin.parse(origin[0]) if len(origin) == 1 else None
        if parsed is None:
            return (
                "The header Origin of this handshake names no site, as that of a file or of a sandboxed frame: "
                "only ROWBELL_ALLOWED_ORIGINS=* lets such pages connect."
            )
        if _is_same(parsed, host, secure) or self._is_listed(parsed):
            return None
        return f"Pages of {origin[0]} may not connect here: their origin is not in ROWBELL_ALLOWED_ORIGINS."

    def _is_listed(self, origin: Origin) -> bool:
        return origin in self._listed or any(pattern.has_subdomain(origin) for pattern in self._listed)


def _is_same(origin: Origin, host: Sequence[str], secure: bool) -> bool:
    """Is the page from where its WebSocket goes?

    Behind a proxy that ends TLS and is not believed, the gateway does not know its own scheme. Then the origin's stands
    for it: a `Host` without a port means port 443 to a page that came by https, and 80 to one that came by http. Where
    TLS is known, a page that came by http, and so may have been changed on its way, is another origin.
    """
    if len(host) != 1 or origin.scheme not in DEFAULT_PORTS or (secure and origin.scheme != "https"):
        return False
    match = _HOST.fullmatch(host[0].lower())
    if match is None:
        return False
    return (match[1], int(match[2] or DEFAULT_PORTS[origin.scheme])) == (origin.host, origin.port)

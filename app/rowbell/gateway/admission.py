"""Admission: limits on the number of connections, on their rate, and on the sessions of one user.

All state is in memory and bounded: users are counted while they have a connection, and only the `ADDRESSES` most recent
addresses are remembered.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from types import TracebackType

from rowbell.config import Settings
from rowbell.errors import Refused
from rowbell.gateway.rate import RateLimiter
from rowbell.metrics import CONNECTIONS

ADDRESSES = 16_384
"""Addresses that are remembered, in about 3 MiB. A forgotten address starts afresh, so a client with more addresses
than that is bound only by the gateway's own limit."""
PREFIX = 64
"""Bits of an IPv6 address that identify one client: a household or a server has all addresses of such a network."""
RETRY_WHEN_FULL = 10.0
"""Seconds after which a full gateway is worth another try; load balancers go to another one at once."""
RETRY_FOR_A_USER = 60.0
"""Seconds after which a user with too many sessions should try again: some of theirs must end first."""

NO_ADDRESS = b"?"
"""The key shared by all clients whose address cannot be parsed: a proxy may forward any text."""


class Admission:
    """The limits of one gateway, and the connections and sessions that count towards them. Owned by `Web`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_connections = settings.max_connections or math.inf
        self._max_sessions = settings.max_sessions_per_user or math.inf
        self._rate = RateLimiter(settings.max_connect_rate, clock=clock)
        self._address_rate = RateLimiter(settings.max_connect_rate_per_address, ADDRESSES, clock)
        self._connections = 0
        """Tracks how many seats are taken."""
        self._sessions: dict[str, int] = {}
        """Tracks user → sessions that entered and have not left. Users without any have no entry."""

    def count(self, address: str | None) -> None:
        """Count an attempt to connect from this address. Refused if attempts come too fast.

        This check comes before any other, so that an address that connects too often takes nothing from the others.
        """
        key = _key(address)
        if key is not None and (wait := self._address_rate.take(key)):
            raise Refused(
                "address_rate",
                429,
                "Too many connections from this address: try again later. (ROWBELL_MAX_CONNECT_RATE_PER_ADDRESS; "
                "if this is the address of a proxy, add it to ROWBELL_TRUSTED_PROXIES.)",
                wait,
            )

    def admit(self) -> Seat:
        """Return a seat for one more connection. Refused if none is free, or connections come too fast."""
        if self._connections >= self._max_connections:
            raise Refused(
                "connections",
                503,
                "This gateway is full (ROWBELL_MAX_CONNECTIONS): connect to another one.",
                RETRY_WHEN_FULL,
            )
        if wait := self._rate.take():
            raise Refused(
                "rate",
                503,
                "Too many clients are connecting to this gateway at once (ROWBELL_MAX_CONNECT_RATE): try again later.",
                wait,
            )
        self._connections += 1
        CONNECTIONS.inc()
        return Seat(self)

    def give_back(self) -> None:
        """Free a seat."""
        self._connections -= 1
        CONNECTIONS.dec()

    def enter(self, user: str) -> None:
        """Count one more session of this user, until `leave`. Refused, and not counted, if there are too many."""
        if (sessions := self._sessions.get(user, 0)) >= self._max_sessions:
            raise Refused(
                "sessions_per_user",
                429,
                f"This user already has {sessions} sessions on this gateway, the most allowed "
                "(ROWBELL_MAX_SESSIONS_PER_USER): end one of them first.",
                RETRY_FOR_A_USER,
            )
        self._sessions[user] = sessions + 1

    def leave(self, user: str) -> None:
        """Uncount a session that had entered."""
        self._sessions[user] -= 1
        if not self._sessions[user]:
            del self._sessions[user]


class Seat:
    """The place of one connection, as a context manager: its exit frees the place and ends its user's session."""

    __slots__ = ("_admission", "_user")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._user: str | None = None
        """Tracks the user of the connection once known; it does not change afterwards."""

    def claim(self, user: str) -> None:
        """Assign the connection to this user, known from the handshake or CONNECT; a repeated call does nothing.

        Refused as by `enter`.
        """
        if self._user is None:
            self._admission.enter(user)
            self._user = user

    def __enter__(self) -> Seat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._user is not None:
            self._admission.leave(self._user)
        self._admission.give_back()


def _key(address: str | None) -> bytes | None:
    """Return the key under which the address is limited; None if it is exempt.

    This machine's own addresses are exempt: local programs are trusted, and an untrusted local proxy would count as one
    client.
    """
    try:
        ip = ip_address(address or "")
    except ValueError:
        return NO_ADDRESS
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return None
    return ip.packed[: PREFIX // 8]

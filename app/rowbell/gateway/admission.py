"""Who may come in: limits on connections, on how fast they come, and on the sessions of one user.

All of it is in memory, and bounded: users are counted while they have a connection, and of addresses the last
`ADDRESSES` are remembered.
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
"""That are remembered, in about 3 MiB. One that is forgotten begins anew, so whoever has more addresses than that meets
only the limit of the gateway."""
PREFIX = 64
"""Bits of an IPv6 address that are one client: a household or a server has all the addresses of such a network."""
RETRY_WHEN_FULL = 10.0
"""Seconds until a full gateway is worth another try; load balancers go to another one at once."""
RETRY_FOR_A_USER = 60.0
"""Seconds until a user with too many sessions is: some of theirs must end first."""

NO_ADDRESS = b"?"
"""The key of all those who have none that can be read: a proxy may forward any text."""


class Admission:
    """The limits of one gateway, and who is within them at present."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_connections = settings.max_connections or math.inf
        self._max_sessions = settings.max_sessions_per_user or math.inf
        self._rate = RateLimiter(settings.max_connect_rate, clock=clock)
        self._address_rate = RateLimiter(settings.max_connect_rate_per_address, ADDRESSES, clock)
        self._connections = 0
        """Tracks the seats that are taken."""
        self._sessions: dict[str, int] = {}
        """Tracks user → sessions that entered and did not leave; none is there with 0."""

    def count(self, address: str | None) -> None:
        """One more wants to connect, from this address, whether it may or not. Refused if they come too fast.

        This is looked at before anything else: who comes too often takes nothing from the others.
        """
        key = _key(address)
        if key is not None and (wait := self._address_rate.take(key)):
            raise Refused(
                "address_rate",
                429,
                "Too many connections come from this address: try again later. (ROWBELL_MAX_CONNECT_RATE_PER_ADDRESS; "
                "if it is a proxy's, name that in ROWBELL_TRUSTED_PROXIES.)",
                wait,
            )

    def admit(self) -> Seat:
        """A seat for one more connection. Refused if there is none."""
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
                "Too many clients come to this gateway at once (ROWBELL_MAX_CONNECT_RATE): try again later.",
                wait,
            )
        self._connections += 1
        CONNECTIONS.inc()
        return Seat(self)

    def give_back(self) -> None:
        """A seat is free again."""
        self._connections -= 1
        CONNECTIONS.dec()

    def enter(self, user: str) -> None:
        """One more session of this user, until `leave`. Refused if there are too many, and then it is not counted."""
        if (sessions := self._sessions.get(user, 0)) >= self._max_sessions:
            raise Refused(
                "sessions_per_user",
                429,
                f"This user has {sessions} sessions on this gateway, and may have no more "
                "(ROWBELL_MAX_SESSIONS_PER_USER): end one of them first.",
                RETRY_FOR_A_USER,
            )
        self._sessions[user] = sessions + 1

    def leave(self, user: str) -> None:
        """A session that had entered is over."""
        self._sessions[user] -= 1
        if not self._sessions[user]:
            del self._sessions[user]


class Seat:
    """The place of one connection: it is given back, and its user's session is over, at the end of its `with`."""

    __slots__ = ("_admission", "_user")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._user: str | None = None
        """Tracks whose session it is, once that is known: a connection has one user and keeps them."""

    def claim(self, user: str) -> None:
        """The connection is this user's, by its handshake or by CONNECT; again, nothing. Refused as by `enter`."""
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
    """What is one client for the limit of addresses; None if the limit is not for it.

    It is not for this machine: what is here can do as it likes, and a proxy here that is not believed would be all
    clients in one.
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

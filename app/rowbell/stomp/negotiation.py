"""What two peers agree on when they connect: the subprotocol, the version, the heart-beats."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rowbell.stomp.errors import ProtocolError
from rowbell.stomp.headers import VERSIONS

# ---- Subprotocol and version ----

SUBPROTOCOLS = {f"v{version.replace('.', '')}.stomp": version for version in VERSIONS}
"""WebSocket subprotocol → its STOMP version, best first: v12.stomp, v11.stomp, v10.stomp."""


def choose_subprotocol(offered: Iterable[str]) -> str | None:
    """Return the best supported subprotocol among those offered, not the first; None if there is none.

    `offered` has names, or header lines with names separated by commas: an offer may span several lines.
    """
    names = {name.strip() for line in offered for name in line.split(",")}
    return next((name for name in SUBPROTOCOLS if name in names), None)


def agree_on_version(accepted: str | None, subprotocol: str | None) -> str:
    """Return the best version in CONNECT's `accept-version` (None if absent) that is supported on this connection.

    The handshake's subprotocol determines the version of CONNECTED. ProtocolError if the client does not accept it, or
    if there is no common version.
    """
    if accepted is None:
        # "From STOMP 1.1 and onwards, the CONNECT frame MUST include the accept-version header", so this is 1.0,
        # unless a subprotocol says otherwise: hand-written clients consider that sufficient.
        return SUBPROTOCOLS[subprotocol] if subprotocol else "1.0"
    ours = (SUBPROTOCOLS[subprotocol],) if subprotocol else VERSIONS
    theirs = {version.strip() for version in accepted.split(",")}
    for version in ours:
        if version in theirs:
            return version
    because = f" The WebSocket subprotocol {subprotocol} determines it." if subprotocol else ""
    raise ProtocolError(
        "The client and the server have no version in common",
        f"accept-version is {accepted[:80]!r}; the server speaks {', '.join(ours)} on this connection.{because}",
        headers=(("version", ",".join(ours)),),
    )


# ---- Heart-beats ----
#
# Each peer says, in milliseconds, how often it can send heart-beats and how often it wants to receive them; 0 is never.
# A direction has beats if its sender can send and its receiver wants them, at the longer of the two periods.

HEART_BEAT = "\n"
"""A heart-beat to send: one line feed, as a text message of its own."""

NO_BEATS = (0, 0)
"""Neither sends nor wants heart-beats; also the meaning of an absent `heart-beat` header."""

SEND_AFTER = 0.8
"""The fraction of the period after which a beat is due. A gateway checks every second, so it sends at 0.9 of a period
of 10 s at the latest. Any later, a busy process would miss some beats; any earlier, they would only be traffic."""

GONE_AFTER = 2.5
"""Periods of silence after which a peer is gone. The receiver "SHOULD be tolerant and take into account an error
margin": browsers slow down the timers of background tabs, and one or two late beats mean nothing."""

_BEATS = re.compile(r"([0-9]{1,10}),([0-9]{1,10})")


def parse_beats(value: str) -> tuple[int, int]:
    """Parse the value of `heart-beat:<can send>,<wants>`, in milliseconds. ProtocolError if not two plain numbers."""
    match = _BEATS.fullmatch(value)
    if match is None:
        raise ProtocolError(
            "The heart-beat header is malformed",
            f"heart-beat is {value[:40]!r}. It must be two numbers of milliseconds separated by a comma, such as "
            "10000,10000. Omit it to have no heart-beats.",
        )
    return int(match[1]), int(match[2])


def agree_on_beats(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[float | None, float | None]:
    """Return the seconds of our own silence after which to send a beat, and those of the peer's silence after which it
    is gone; None: never.
    """
    send = _period(ours[0], theirs[1])
    receive = _period(theirs[0], ours[1])
    return send and send * SEND_AFTER, receive and receive * GONE_AFTER


def _period(can_send: int, wants: int) -> float | None:
    """Return the period in seconds. "If <cx> is 0 [...] or <sy> is 0 [...], then there will be none; otherwise, there
    will be heart-beats every MAX(<cx>,<sy>) milliseconds"."""
    return max(can_send, wants) / 1000 if can_send and wants else None

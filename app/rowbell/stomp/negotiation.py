"""What two peers agree on when they connect: the subprotocol, the version, the heart-beats."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rowbell.stomp.errors import ProtocolError
from rowbell.stomp.headers import VERSIONS

# ---- Subprotocol and version ----

SUBPROTOCOLS = {f"v{version.replace('.', '')}.stomp": version for version in VERSIONS}
"""WebSocket subprotocols and the version each stands for, best first: v12.stomp, v11.stomp, v10.stomp."""


def choose_subprotocol(offered: Iterable[str]) -> str | None:
    """The best of those offered that we speak, not the first; None if there is none.

    `offered` has names, or header lines of names with commas: an offer may be spread over several lines.
    """
    names = {name.strip() for line in offered for name in line.split(",")}
    return next((name for name in SUBPROTOCOLS if name in names), None)


def agree_on_version(accepted: str | None, subprotocol: str | None) -> str:
    """The best version in CONNECT's `accept-version` (None: there is none) that we speak on this connection.

    The handshake's subprotocol is a promise: CONNECTED's version is the same. ProtocolError if the client does
    not take it.
    """
    if accepted is None:
        # "From STOMP 1.1 and onwards, the CONNECT frame MUST include the accept-version header", so this is 1.0;
        # unless a subprotocol says otherwise, which hand-written clients take to be enough.
        return SUBPROTOCOLS[subprotocol] if subprotocol else "1.0"
    ours = (SUBPROTOCOLS[subprotocol],) if subprotocol else VERSIONS
    theirs = {version.strip() for version in accepted.split(",")}
    for version in ours:
        if version in theirs:
            return version
    because = f" The WebSocket subprotocol {subprotocol} has settled it." if subprotocol else ""
    raise ProtocolError(
        "The client and the server have no version in common",
        f"accept-version is {accepted[:80]!r}; the server speaks {', '.join(ours)} on this connection.{because}",
        headers=(("version", ",".join(ours)),),
    )


# ---- Heart-beats ----
#
# Each peer says, in milliseconds, how often it can send and how often it wants to hear; 0 is never. A direction
# has beats when its sender can send and its receiver wants to hear, with the longer of the two periods.

HEART_BEAT = "\n"
"""A beat of ours: one line feed, as a text message of its own."""

NO_BEATS = (0, 0)
"""Cannot send, does not want to hear: also what a peer means that has no `heart-beat` header."""

SEND_AFTER = 0.8
"""Of the period, and at the next look after that, which a gateway has each second: at 0.9 at the latest. Later, a busy
process would be late with some beats; earlier, they are only traffic."""

GONE_AFTER = 2.5
"""Periods of silence. The receiver "SHOULD be tolerant and take into account an error margin": a browser slows
the timers of tabs that nobody looks at, and one late beat or two mean nothing."""

_BEATS = re.compile(r"([0-9]{1,10}),([0-9]{1,10})")


def parse_beats(value: str) -> tuple[int, int]:
    """Read `heart-beat:<can send>,<wants to hear>`. ProtocolError if it is anything but two plain numbers."""
    match = _BEATS.fullmatch(value)
    if match is None:
        raise ProtocolError(
            "The heart-beat header is malformed",
            f"heart-beat is {value[:40]!r}. It must be two numbers of milliseconds and a comma between them, such as "
            "10000,10000. Leave it out for no heart-beats.",
        )
    return int(match[1]), int(match[2])


def agree_on_beats(ours: tuple[int, int], theirs: tuple[int, int]) -> tuple[float | None, float | None]:
    """After how many seconds of our silence to beat, and of theirs to give them up; None: never."""
    send = _period(ours[0], theirs[1])
    receive = _period(theirs[0], ours[1])
    return send and send * SEND_AFTER, receive and receive * GONE_AFTER


def _period(can_send: int, wants: int) -> float | None:
    """In seconds. "If <cx> is 0 [...] or <sy> is 0 [...], then there will be none; otherwise, there will be
    heart-beats every MAX(<cx>,<sy>) milliseconds"."""
    return max(can_send, wants) / 1000 if can_send and wants else None

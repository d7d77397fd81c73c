"""How large what a peer sends may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond any of them is a ProtocolError, whose `reason` is the name of the limit."""

    frame: int = 64 * 1024
    """Octets from the command to the NUL. Spring's clients and servers stop there too; acknowledgements, the bulk of
    what clients send, have 60."""

    first_frame: int = 16 * 1024
    """Octets of the frame that has not yet said who sends it, if `frame` is not less. A token has 1 to 8 KiB."""

    headers: int = 64
    """Headers in a frame. The specification defines at most seven for one; the rest are the application's."""

    header_line: int = 8 * 1024
    """Characters in a header line. nginx and Apache take no longer ones, so no longer token comes through them."""

    body: int = 32 * 1024
    """Octets of a body. A thousand ids to mark as read have 17 KiB, a token 8."""


DEFAULTS = Limits()

"""How large a peer's frames may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one peer's frames. Exceeding one is a ProtocolError, whose `reason` is the name of the limit."""

    frame: int = 64 * 1024
    """Octets from the command to the NUL. Spring's clients and servers have the same limit; acknowledgements, the bulk
    of what clients send, have 60."""

    first_frame: int = 16 * 1024
    """Octets of the first frame, whose sender is not yet known, unless `frame` is smaller. A token has 1 to 8 KiB."""

    headers: int = 64
    """Headers in a frame. The specification defines at most seven for any; the rest are for applications."""

    header_line: int = 8 * 1024
    """Characters in a header line. nginx and Apache accept no longer ones, so no longer token passes them."""

    body: int = 32 * 1024
    """Octets in a body. A thousand ids to mark as read have 17 KiB, a token up to 8."""


DEFAULTS = Limits()

"""Whose fault it was.

ProtocolError         the peer's: it carries what to answer, and ends the connection
LocalProtocolError    ours: the caller asked for a frame that may not be sent now, or cannot be written
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the protocol. Carries the ERROR frame to answer with.

    `message` is one short line. It never repeats what the peer sent, so it can be logged. `body` goes on to
    say what was wrong with the frame and what to do; it may quote the frame. `receipt` is the frame's own
    `receipt` header, if it had one; `headers` are further ones of the answer. `reason` is the limit that was
    passed, by its name in `Limits`, or `protocol`.
    """

    def __init__(
        self,
        message: str,
        detail: str = "",
        receipt: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        reason: str = "protocol",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.body = f"{message}. {detail}" if detail else f"{message}."
        self.receipt = receipt
        self.headers = headers
        self.reason = reason


class LocalProtocolError(Exception):
    """The caller asked for a frame that may not be sent in this state, or that no header can carry."""

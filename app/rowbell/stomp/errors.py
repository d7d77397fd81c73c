"""The two kinds of protocol error.

ProtocolError         the peer's fault: carries what to answer, and ends the connection
LocalProtocolError    our fault: the caller requested a frame that may not be sent now, or cannot be written
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The peer broke the protocol. Carries the content of the ERROR frame to answer with.

    `message` is one short line that never repeats what the peer sent, so it can be logged. `detail` says what was wrong
    with the frame and what to do; it may be empty, and may quote the frame. `body` is both, for the ERROR frame.
    `receipt` is the frame's `receipt` header, if it had one; `headers` are additional headers of the answer. `reason`
    is the limit that was exceeded, by its name in `Limits`, or `protocol`.
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
        self.detail = detail
        self.body = f"{message}. {detail}" if detail else f"{message}."
        self.receipt = receipt
        self.headers = headers
        self.reason = reason


class LocalProtocolError(Exception):
    """The caller requested a frame that may not be sent in this state, or whose headers cannot be written."""

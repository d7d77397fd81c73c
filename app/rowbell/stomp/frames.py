"""The codec: octets to frames and back.

    COMMAND
    name:value

    body^@

WebSocket clients send one frame in several messages or several frames in one, as text or binary, split anywhere, so the
parser takes a stream. It works on octets, because `content-length` counts octets and a split may fall inside a
character; only heads are decoded. It searches with `find`, splits with `partition`, and remembers how far it has
searched, so a frame that arrives octet by octet is scanned only once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from rowbell.stomp.errors import ProtocolError
from rowbell.stomp.headers import encode_head, no_blank_line, parse_head
from rowbell.stomp.limits import Limits

_NUL, _A, _Z = 0, ord("A"), ord("Z")
_LENGTH = re.compile(r"[0-9]{1,10}")
_NO_LINE_END = re.compile(rb"[^\r\n]")
_BLANK_LINES = (b"\n\n", b"\n\r\n")


class Frame(msgspec.Struct, frozen=True):
    """One frame as received. For a repeated header, `headers` has the first value."""

    command: str
    headers: dict[str, str]
    body: bytes = b""


class Parser:
    """Parses a stream of octets into frames, one at a time.

    A parser cannot be used after a ProtocolError: the rest of the stream has no defined meaning.
    """

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.frame
        """The most octets a frame may have. May be changed between frames, as may `version`."""
        self.limits = limits
        self.version = "1.0"
        """The version whose escapes the next head uses; 1.0 has none."""

        # Tracks the received data, the position at which the next head or body begins, and the position up to which it
        # has been searched for the end of that. A complete message is not copied; only a split frame is collected in a
        # bytearray.
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._searched = 0

        self.head_size = 0
        """Octets before the body in the latest frame."""

        # Tracks the blank line that ended the last head, and the alternative. The first is searched for in all the
        # data, the other only before it. A client ends all its heads alike; in the reverse order, each frame would cost
        # a search through all frames that arrived with it: 0.13 s for 64 KiB of small ones.
        self._blank_line, self._other_blank_line = _BLANK_LINES
        # Tracks the frame whose head has been read but whose body has not, and its content-length. If there is no
        # command, a head comes next.
        self._command = ""
        self._headers: dict[str, str] = {}
        self._length: int | None = None

    def feed(self, data: str | bytes) -> None:
        """Take received data, which may be split anywhere."""
        if isinstance(data, str):
            # A lone surrogate, which a WebSocket never delivers, becomes octets that are not UTF-8: a ProtocolError.
            data = data.encode("utf-8", "surrogatepass")
        if self._position == len(self._buffer):
            self._buffer = data
        else:
            if isinstance(self._buffer, bytes):
                self._buffer = bytearray(self._buffer)
            del self._buffer[: self._position]
            self._buffer += data
        self._searched -= self._position
        self._position = 0

    def clear(self) -> None:
        """Discard the data that has not been parsed."""
        self._buffer = b""
        self._position = self._searched = 0
        self._command = ""

    def next_frame(self) -> Frame | None:
        """Return the next frame, or None if it is not complete. ProtocolError if the data is not a valid frame."""
        if not self._command and not self._read_head():
            return None
        end = self._find_end() if self._length is None else self._check_end(self._length)
        if end is None:
            return None
        frame = Frame(self._command, self._headers, bytes(self._buffer[self._position : end]))
        self._command = ""
        self._position = self._searched = end + 1
        return frame

    def _read_head(self) -> bool:
        buffer = self._buffer
        start = self._position
        if start == len(buffer):
            # Otherwise thousands of idle connections would each keep their last message.
            self.clear()
            return False
        if not _A <= buffer[start] <= _Z and not self._skip_line_ends():
            return False
        start = self._position
        end = buffer.find(self._blank_line, self._searched)
        # The first line end of one kind of blank line may be the last of the other, hence + 1.
        other = buffer.find(self._other_blank_line, self._searched, end + 1 if end >= 0 else len(buffer))
        if other >= 0:
            end = other
            self._blank_line, self._other_blank_line = self._other_blank_line, self._blank_line
        elif end < 0:
            self._await_head()
            return False
        body = end + len(self._blank_line)
        self._command, self._headers = parse_head(_text(buffer[start:end]), self.version, self.limits)
        self.head_size = body - start
        self._position = self._searched = body
        length = self._headers.get("content-length")
        self._length = None if length is None else self._announced(length)
        return True

    def _skip_line_ends(self) -> bool:
        """Skip heart-beats, and return whether a frame begins after them.

        "The NULL octet can be optionally followed by multiple EOLs": LF or CRLF, any number. A lone carriage return is
        skipped as well, because the line feed after it may not have arrived yet.
        """
        begin = _NO_LINE_END.search(self._buffer, self._position)
        self._position = self._searched = start = begin.start() if begin else len(self._buffer)
        if begin and not _A <= self._buffer[start] <= _Z:
            # Reported at once: a client that sends JSON here would otherwise wait for an answer until it is cut off.
            first = self._buffer[start : start + 20].decode("latin-1")
            raise ProtocolError(
                "This is not a STOMP frame",
                f"It begins with {first!a}; a frame begins with a command in capitals, such as CONNECT.",
            )
        return begin is not None

    def _await_head(self) -> None:
        if self._buffer.find(_NUL, self._searched) >= 0:
            raise no_blank_line()
        if len(self._buffer) - self._position >= self.limit:
            raise self._too_large()
        # The last two octets may be the beginning of a blank line.
        self._searched = max(self._position, len(self._buffer) - 2)

    def _announced(self, value: str) -> int:
        # int() alone would accept "+5", " 5", "1_0" and the digits of other scripts.
        if not _LENGTH.fullmatch(value):
            raise self._error(
                "The content-length header is malformed",
                f"content-length is {value[:40]!r}; it must be the number of octets in the body, in 1 to 10 digits.",
            )
        length = int(value)
        self._check_size(length)
        return length

    def _find_end(self) -> int | None:
        """Return where a body without content-length ends, which is at the first NUL; None if it has not arrived."""
        end = self._buffer.find(_NUL, self._searched)
        self._searched = end if end >= 0 else len(self._buffer)
        self._check_size(self._searched - self._position)
        return end if end >= 0 else None

    def _check_end(self, length: int) -> int | None:
        # "This number of octets MUST be read, regardless of whether or not there are NULL octets in the body. The
        # frame still needs to be terminated with a NULL octet."
        end = self._position + length
        if len(self._buffer) <= end:
            return None
        if self._buffer[end] != _NUL:
            raise self._error(
                "The content-length header does not match the body",
                f"content-length is {length}, but no NUL follows {length} octets of body. Count octets of UTF-8, not "
                "characters, or omit the header.",
            )
        return end

    def _check_size(self, body: int) -> None:
        if self.head_size + body >= self.limit:
            raise self._too_large()
        if body > self.limits.body:
            raise self._error(f"The body is larger than {self.limits.body} octets", reason="body")

    def _too_large(self) -> ProtocolError:
        return self._error(f"The frame is larger than {self.limit} octets", reason="frame")

    def _error(self, message: str, detail: str = "", reason: str = "protocol") -> ProtocolError:
        return ProtocolError(message, detail, self._headers.get("receipt") if self._command else None, reason=reason)


def encode(command: str, headers: Iterable[tuple[str, str]], body: str = "", version: str = "1.2") -> str:
    """Encode a frame as text, including the NUL, with a content-length if it has a body.

    LocalProtocolError for a header that this version cannot represent.
    """
    head = encode_head(command, headers, version)
    length = f"content-length:{octets(body)}\n" if body else ""
    return f"{head}{length}\n{body}\0"


def octets(body: str) -> int:
    """Return the content-length of a body. Most bodies are ASCII, which Python knows without a scan."""
    return len(body) if body.isascii() else len(body.encode())


def _text(head: bytes | bytearray) -> str:
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(
            "The headers are not UTF-8",
            f"The octet at offset {error.start} of the frame is {head[error.start]:#04x}: {error.reason}.",
        ) from None

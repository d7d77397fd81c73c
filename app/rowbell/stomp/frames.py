"""The codec: octets to frames and back.

    COMMAND
    name:value

    body^@

WebSocket clients send one frame in several messages, several in one, as text or as binary, cut anywhere, so
the parser takes a stream. It works on octets, because `content-length` counts octets and a cut may fall inside
a character; only heads are decoded. It looks for ends with `find` and cuts with `partition`, and remembers how
far it has looked, so a frame that comes octet by octet costs no more than once over it.
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
    """One frame as it came. Of a header that was repeated, `headers` has the first value."""

    command: str
    headers: dict[str, str]
    body: bytes = b""


class Parser:
    """Frames out of a stream of octets, one at a time.

    After a ProtocolError the stream makes no sense any more: do not go on.
    """

    def __init__(self, limits: Limits) -> None:
        self.limit = limits.frame
        """Octets a frame may have. May be changed between frames, as may `version`."""
        self.limits = limits
        self.version = "1.0"
        """Which escapes the next head has; 1.0 has none."""

        # Tracks what was received, where in it the next thing to read begins, and up to where it holds no end of
        # that. A whole message stays the octets it was; only a cut frame is gathered in a bytearray.
        self._buffer: bytes | bytearray = b""
        self._position = 0
        self._searched = 0

        self.head_size = 0
        """Octets up to the body, in the frame that came last."""

        # Tracks how the last head ended, and how else one may. The first is looked for in all that came, the other only
        # before it. A client ends all its heads alike; were it not the first, each frame would cost a search through
        # all frames that came with it: 0.13 s for 64 KiB of small ones.
        self._blank_line, self._other_blank_line = _BLANK_LINES
        # Tracks the frame whose head has been read and whose body has not, and its content-length. Without a command
        # a head is what comes next.
        self._command = ""
        self._headers: dict[str, str] = {}
        self._length: int | None = None

    def feed(self, data: str | bytes) -> None:
        """Take what came, cut anywhere."""
        if isinstance(data, str):
            # A lone surrogate, which no WebSocket delivers, becomes octets that are not UTF-8: the peer's fault.
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
        """Throw away what came and was not parsed."""
        self._buffer = b""
        self._position = self._searched = 0
        self._command = ""

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None if it has not all come. ProtocolError if it never will."""
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
            # Thousands of idle connections would each keep the last message.
            self.clear()
            return False
        if not _A <= buffer[start] <= _Z and not self._skip_line_ends():
            return False
        start = self._position
        end = buffer.find(self._blank_line, self._searched)
        # The first line end of one blank line may be the last of another, hence + 1.
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
        """Is there anything behind the heart-beats?

        "The NULL octet can be optionally followed by multiple EOLs": LF or CRLF, any number. A carriage return
        passes even alone: whether a line feed follows may not be known yet.
        """
        begin = _NO_LINE_END.search(self._buffer, self._position)
        self._position = self._searched = start = begin.start() if begin else len(self._buffer)
        if begin and not _A <= self._buffer[start] <= _Z:
            # Told at once: who speaks JSON here would otherwise wait for an answer until it is cut off.
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
        # The two octets at the end may be the beginning of a blank line.
        self._searched = max(self._position, len(self._buffer) - 2)

    def _announced(self, value: str) -> int:
        # Not int() alone: it takes "+5", " 5", "1_0" and the digits of other scripts.
        if not _LENGTH.fullmatch(value):
            raise self._error(
                "The content-length header is malformed",
                f"content-length is {value[:40]!r}; it must be the number of octets in the body, 1 to 10 digits.",
            )
        length = int(value)
        self._check_size(length)
        return length

    def _find_end(self) -> int | None:
        """Where a body without content-length ends: at the first NUL."""
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
                "characters, or leave the header out.",
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
    """The whole frame as text, NUL included, with a content-length if it has a body.

    LocalProtocolError for a header that this version cannot carry.
    """
    head = encode_head(command, headers, version)
    length = f"content-length:{octets(body)}\n" if body else ""
    return f"{head}{length}\n{body}\0"


def octets(body: str) -> int:
    """For content-length. Most bodies are ASCII, of which Python knows without looking."""
    return len(body) if body.isascii() else len(body.encode())


def _text(head: bytes | bytearray) -> str:
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(
            "The headers are not UTF-8",
            f"The octet at offset {error.start} of the frame is {head[error.start]:#04x}: {error.reason}.",
        ) from None

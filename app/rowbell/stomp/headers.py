"""The head of a frame, which ends at the blank line: its command, its headers, and their escapes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rowbell.stomp.errors import LocalProtocolError, ProtocolError
from rowbell.stomp.limits import Limits

VERSIONS = ("1.2", "1.1", "1.0")
"""The supported versions, best first. They differ in their escapes; 1.0 has none."""

_UNESCAPES = {
    "1.2": {"\\n": "\n", "\\c": ":", "\\\\": "\\", "\\r": "\r"},
    "1.1": {"\\n": "\n", "\\c": ":", "\\\\": "\\"},
}
_ESCAPES = {
    version: str.maketrans({plain: escaped for escaped, plain in table.items()})
    for version, table in _UNESCAPES.items()
}
_ESCAPE = re.compile(r"\\.?", re.DOTALL)

# "In order to remain backward compatible with STOMP 1.0", these are never escaped. STOMP is another name for CONNECT.
_UNESCAPED_COMMANDS = frozenset(("CONNECT", "STOMP", "CONNECTED"))

_UNWRITABLE = re.compile(r"[\r\n\0]")

# ---- Writing ----


def encode_head(command: str, headers: Iterable[tuple[str, str]], version: str) -> str:
    """Encode the command and the headers as lines, without the blank line. LocalProtocolError as in `encode_header`."""
    if command in _UNESCAPED_COMMANDS:
        version = "1.0"
    return "\n".join([command, *(encode_header(name, value, version) for name, value in headers)]) + "\n"


def encode_header(name: str, value: str, version: str) -> str:
    """Encode `name:value`, without a line end. LocalProtocolError if this version cannot represent it.

    On 1.0, which has no escapes, an unescaped line feed would begin another header.
    """
    escapes = _ESCAPES.get(version)
    if escapes:
        name, value = name.translate(escapes), value.translate(escapes)
    if not name or ":" in name or _UNWRITABLE.search(name + value):
        raise LocalProtocolError(
            f"STOMP {version} cannot represent the header {name[:40]!r} with the value {value[:40]!r}: a name must not "
            "be empty, and colons in names, line ends and NUL need escapes that this version lacks."
        )
    return f"{name}:{value}"


# ---- Reading ----


def parse_head(text: str, version: str, limits: Limits) -> tuple[str, dict[str, str]]:
    """Return the command and headers of a head, given without its blank line. Of repeated headers, the first counts.

    A ProtocolError has the frame's receipt if that can be read.
    """
    # On 1.2 lines may end in "an OPTIONAL carriage return"; clients that write it do so on every version.
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    command, *lines = text.split("\n")
    unescapes = _UNESCAPES.get(version) if "\\" in text and command not in _UNESCAPED_COMMANDS else None
    try:
        if len(lines) > limits.headers or len(text) > limits.header_line or "\r" in text or "\0" in text:
            _check(text, lines, limits)
        return command, _parse_headers(lines, unescapes)
    except ProtocolError as error:
        error.receipt = _receipt_in(lines, unescapes)
        raise


def no_blank_line() -> ProtocolError:
    """Return the error for a NUL inside a head."""
    return ProtocolError(
        "The frame has no blank line", "A blank line must end the headers, even if no body follows before the NUL."
    )


def _check(text: str, lines: list[str], limits: Limits) -> None:
    if "\0" in text:
        raise no_blank_line()
    if "\r" in text:
        # Allowed on 1.0 and 1.1, but when sent back to the client it would look like the end of a line.
        raise ProtocolError("A header contains a carriage return", "STOMP 1.2 can escape it as \\r.")
    if len(lines) > limits.headers:
        raise ProtocolError(f"The frame has more than {limits.headers} headers", reason="headers")
    if max(map(len, lines), default=0) > limits.header_line:
        raise ProtocolError(f"A header is longer than {limits.header_line} characters", reason="header_line")


def _parse_headers(lines: list[str], unescapes: dict[str, str] | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        # Split at the first colon, before unescaping: a name may contain an escaped colon, and values contain
        # unescaped ones on every version. Nothing is trimmed.
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise ProtocolError(
                "A header is malformed",
                f"The line is {line[:80]!r}; a header is name:value, and a blank line follows the last one.",
            )
        if unescapes and "\\" in line:
            name, value = _unescape(name, unescapes), _unescape(value, unescapes)
        # "Only the first header entry SHOULD be used". Here it must be, so that what is checked is what is used.
        if name not in headers:
            headers[name] = value
    return headers


def _unescape(text: str, unescapes: dict[str, str]) -> str:
    """Unescape in one pass: replacing one escape after another would turn `\\\\n`, a backslash and an n, into a line
    feed.
    """
    try:
        return _ESCAPE.sub(lambda escape: unescapes[escape[0]], text)
    except KeyError as error:
        # "Undefined escape sequences such as \t MUST be treated as a fatal protocol error."
        raise ProtocolError(
            "A header has an undefined escape sequence",
            f"It is {error.args[0]!r}. The negotiated version has only {' '.join(unescapes)}.",
        ) from None


def _receipt_in(lines: list[str], unescapes: dict[str, str] | None) -> str | None:
    """Return the receipt requested by a frame whose headers are otherwise unreadable; None if there is none."""
    line = next((line for line in lines if line.startswith("receipt:")), None)
    if line is None or _UNWRITABLE.search(line):
        # ERROR would have to repeat it, and cannot represent it.
        return None
    try:
        return _parse_headers([line], unescapes)["receipt"]
    except ProtocolError:
        return None

"""What stands before the blank line: the command and the headers, and their escapes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rowbell.stomp.errors import LocalProtocolError, ProtocolError
from rowbell.stomp.limits import Limits

VERSIONS = ("1.2", "1.1", "1.0")
"""What we speak, best first. They differ in their escapes: 1.0 has none."""

_UNESCAPES = {
    "1.2": {"\\n": "\n", "\\c": ":", "\\\\": "\\", "\\r": "\r"},
    "1.1": {"\\n": "\n", "\\c": ":", "\\\\": "\\"},
}
_ESCAPES = {
    version: str.maketrans({plain: escaped for escaped, plain in table.items()})
    for version, table in _UNESCAPES.items()
}
_ESCAPE = re.compile(r"\\.?", re.DOTALL)

# "In order to remain backward compatible with STOMP 1.0", these are never escaped. STOMP is another name of CONNECT.
_UNESCAPED_COMMANDS = frozenset(("CONNECT", "STOMP", "CONNECTED"))

_UNWRITABLE = re.compile(r"[\r\n\0]")

# ---- Writing ----


def encode_head(command: str, headers: Iterable[tuple[str, str]], version: str) -> str:
    """The command's and the headers' lines, without the blank one. LocalProtocolError as `encode_header`."""
    if command in _UNESCAPED_COMMANDS:
        version = "1.0"
    return "\n".join([command, *(encode_header(name, value, version) for name, value in headers)]) + "\n"


def encode_header(name: str, value: str, version: str) -> str:
    """`name:value`, without a line end. LocalProtocolError if this version has no way to write it.

    Written as it is, a line feed on 1.0 would begin a header of its own.
    """
    escapes = _ESCAPES.get(version)
    if escapes:
        name, value = name.translate(escapes), value.translate(escapes)
    if not name or ":" in name or _UNWRITABLE.search(name + value):
        raise LocalProtocolError(
            f"STOMP {version} cannot carry the header {name[:40]!r} with the value {value[:40]!r}: a name is not "
            "empty, and colons in names, line ends and NUL need escapes that it does not have."
        )
    return f"{name}:{value}"


# ---- Reading ----


def parse_head(text: str, version: str, limits: Limits) -> tuple[str, dict[str, str]]:
    """The command and the headers of a head without its blank line. Of repeated headers, the first.

    ProtocolError has the frame's receipt if that much can be read.
    """
    # Lines of 1.2 end in "an OPTIONAL carriage return"; clients that write it do so on every version.
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
    """There is a NUL in what should be a head."""
    return ProtocolError(
        "The frame has no blank line", "A blank line ends the headers, even when no body comes between it and the NUL."
    )


def _check(text: str, lines: list[str], limits: Limits) -> None:
    if "\0" in text:
        raise no_blank_line()
    if "\r" in text:
        # Allowed on 1.0 and 1.1, but sent back to the client it would look like the end of a line.
        raise ProtocolError("A header holds a carriage return", "STOMP 1.2 can write it, as \\r.")
    if len(lines) > limits.headers:
        raise ProtocolError(f"The frame has more than {limits.headers} headers", reason="headers")
    if max(map(len, lines), default=0) > limits.header_line:
        raise ProtocolError(f"A header is longer than {limits.header_line} characters", reason="header_line")


def _parse_headers(lines: list[str], unescapes: dict[str, str] | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        # At the first colon, before anything is unescaped: an escaped colon may be part of a name, and values
        # hold unescaped ones, on every version. Nothing is trimmed.
        name, colon, value = line.partition(":")
        if not colon or not name:
            raise ProtocolError(
                "A header is malformed",
                f"The line is {line[:80]!r}; a header is name:value, and a blank line comes after the last one.",
            )
        if unescapes and "\\" in line:
            name, value = _unescape(name, unescapes), _unescape(value, unescapes)
        # "Only the first header entry SHOULD be used". Here it must be: what is checked is what is used.
        if name not in headers:
            headers[name] = value
    return headers


def _unescape(text: str, unescapes: dict[str, str]) -> str:
    """In one pass: replacing one escape after the other would read `\\\\n`, a backslash and an n, as a line feed."""
    try:
        return _ESCAPE.sub(lambda escape: unescapes[escape[0]], text)
    except KeyError as error:
        # "Undefined escape sequences such as \t MUST be treated as a fatal protocol error."
        raise ProtocolError(
            "A header has an undefined escape sequence",
            f"It is {error.args[0]!r}. The negotiated version has {' '.join(unescapes)} and no other.",
        ) from None


def _receipt_in(lines: list[str], unescapes: dict[str, str] | None) -> str | None:
    """The receipt that a frame asks for whose headers are otherwise unreadable."""
    line = next((line for line in lines if line.startswith("receipt:")), None)
    if line is None or _UNWRITABLE.search(line):
        # ERROR is to repeat it, and has no way to write what no frame may hold.
        return None
    try:
        return _parse_headers([line], unescapes)["receipt"]
    except ProtocolError:
        return None

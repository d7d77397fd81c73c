"""The client's side of a WebSocket by hand (RFC 6455, section 5.2), and what came from the gateway.

Broken frames must be possible to send, and what the gateway sends must not be judged by its own code.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80

CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1012, 1013}
"""Those that the gateway or its WebSocket library has a reason to send, beside an application's own, 3000 to 4999,
which are sent back to a client that closes with one. 1011 is not among them."""

STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")
COMMANDS = ("CONNECTED", "MESSAGE", "RECEIPT", "ERROR")


def frame(
    opcode: int, payload: bytes = b"", fin: bool = True, mask: bytes | None = b"\x5a\xa5\x0f\xf0", reserved: int = 0
) -> bytes:
    """One frame; without a mask, or with reserved bits, it is a broken one."""
    size = len(payload)
    bit = 0 if mask is None else 0x80
    if size < 126:
        length = bytes([bit | size])
    elif size < 1 << 16:
        length = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([bit | 127]) + size.to_bytes(8, "big")
    return bytes([(FIN if fin else 0) | reserved << 4 | opcode]) + length + (mask or b"") + masked(payload, mask)


def masked(payload: bytes, mask: bytes | None) -> bytes:
    if mask is None or mask == bytes(4) or not payload:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def upgrade(path: str, *lines: str) -> bytes:
    """The handshake; `lines` are more headers."""
    head = [
        f"GET {path} HTTP/1.1",
        "Host: gateway",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *lines,
        "",
        "",
    ]
    return "\r\n".join(head).encode("utf-8", "surrogatepass")


@dataclass
class Incoming:
    """What one connection was sent by the gateway, octets in, facts out."""

    user: str | None = None
    """Whose rows may come."""
    json: bool | None = False
    """Is it a session of plain JSON? None: it may be."""
    statuses: list[int] = field(default_factory=list)
    texts: int = 0
    code: int | None = None
    """That of the gateway's close frame; 1005 if it had none."""
    upgraded: bool = False
    unanswered: list[bytes] = field(default_factory=list)
    """Ids of messages that were not answered."""
    pings: list[bytes] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What no gateway may send."""
    _buffer: bytearray = field(default_factory=bytearray)
    _is_over: bool = False
    """Did the last message of the protocol come?"""

    def receive(self, data: bytes) -> None:
        self._buffer += data
        if not self.upgraded:
            self._read_http()
        if self.upgraded:
            self._read_frames()

    def _read_http(self) -> None:
        end = self._buffer.rfind(b"\r\n\r\n")
        if end < 0:
            return
        begin = self._buffer.find(b"HTTP/1.1 101 ")
        if begin >= 0:
            end = self._buffer.index(b"\r\n\r\n", begin)
        self.statuses += map(int, STATUS.findall(self._buffer[:end]))
        self.upgraded = 101 in self.statuses
        del self._buffer[: end + 4]
        if bad := [status for status in self.statuses if status >= 500 and status != 503]:
            self.problems.append(f"HTTP status {bad[0]}")

    def _read_frames(self) -> None:
        while len(self._buffer) >= 2:
            first, second = self._buffer[:2]
            begin, size = 2, second & 0x7F
            if size > 125:
                wide = 2 if size == 126 else 8
                begin, size = 2 + wide, int.from_bytes(self._buffer[2 : 2 + wide], "big")
            if len(self._buffer) < begin + size:
                return
            payload = bytes(self._buffer[begin : begin + size])
            del self._buffer[: begin + size]
            self._take(first, second, payload)

    def _take(self, first: int, second: int, payload: bytes) -> None:
        if second & 0x80 or first & 0x70 or not first & FIN:
            self.problems.append(f"a frame that is masked, in fragments or has reserved bits: {first:02x} {second:02x}")
        opcode = first & 0xF
        if self.code is not None and opcode < CLOSE:
            self.problems.append(f"data after the close frame: {payload[:100]!r}")
        if opcode == TEXT:
            self.texts += 1
            self._read_text(payload)
        elif opcode == CLOSE:
            self.code = int.from_bytes(payload[:2], "big") if payload else 1005
            if self.code == 1011:
                self.problems.append("close code 1011")
            elif payload and self.code not in CLOSE_CODES and not 3000 <= self.code < 5000:
                self.problems.append(f"close code {self.code}, for which there is no reason")
        elif opcode == PING:
            self.pings.append(payload)
        elif opcode != PONG:
            self.problems.append(f"a frame of opcode {opcode}")

    def _read_text(self, payload: bytes) -> None:
        if self._is_over:
            self.problems.append(f"a message after ERROR: {payload[:100]!r}")
        try:
            text = payload.decode()
            if self.json or (self.json is None and text.startswith("{")):
                self._read_json(text)
            elif text != "\n":
                self._read_stomp(text)
        except ValueError as error:
            self.problems.append(f"a message that cannot be read ({error}): {payload[:300]!r}")

    def _read_json(self, text: str) -> None:
        message = json.loads(text)
        if "event" in message:
            self._check_recipient(message)
            self.unanswered.append(b"%d" % message["id"])
        elif message["type"] == "ERROR":
            self._is_over = True

    def _read_stomp(self, text: str) -> None:
        head, blank, body = text.removesuffix("\0").partition("\n\n")
        command, *lines = head.split("\n")
        headers = dict(line.split(":", 1) for line in reversed(lines))
        if command not in COMMANDS or not blank or not text.endswith("\0") or "\0" in text[:-1]:
            raise ValueError("no frame of STOMP")
        if command == "MESSAGE":
            if len(body.encode()) != int(headers["content-length"]):
                raise ValueError("content-length")
            message = json.loads(body)
            if "unread" not in message:
                self._check_recipient(message)
            if "ack" in headers:
                self.unanswered.append(headers["ack"].encode())
        elif command == "ERROR":
            self._is_over = True

    def _check_recipient(self, message: dict[str, object]) -> None:
        recipient = str(message["recipientId"])
        if recipient != self.user and not recipient.startswith(("topic:news.", "topic:status")):
            self.problems.append(f"a row of {recipient}, sent to {self.user}")

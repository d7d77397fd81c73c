"""A WebSocket by hand, for clients that are many, or slow, or both: RFC 6455, section 5.2.

Frames go in one piece and masked with zeros; those of a gateway come unmasked, in one piece and without extensions.
"""

from __future__ import annotations

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
"""First octets of a frame in one piece."""


def upgrade(path: str, host: str, subprotocol: str | None = None) -> bytes:
    """The handshake."""
    wanted = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{wanted}\r\n"
    ).encode()


def masked(payload: bytes, kind: int = TEXT) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([kind]) + length + bytes(4) + payload


def frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Take the frames that are complete out of the buffer: kind and payload of each."""
    taken: list[tuple[int, bytes]] = []
    at = 0
    while (span := _payload(buffer, at)) is not None:
        begin, end = span
        taken.append((buffer[at], bytes(buffer[begin:end])))
        at = end
    del buffer[:at]
    return taken


def _payload(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """Where the payload of the frame at this place begins and ends; None if not all of it is here."""
    if len(buffer) - at < 2:
        return None
    length, begin = buffer[at + 1], at + 2
    if length == 126:
        length, begin = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
    elif length == 127:
        length, begin = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
    return (begin, begin + length) if begin + length <= len(buffer) else None

"""What is no WebSocket, and what is no HTTP: each function has the choices of one kind, made by chance."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutation import damage
from tests.fuzz.plan import Deafness, Send, Step
from tests.fuzz.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, upgrade

GET = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CHUNKED = b"GET /live HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

Steps = list[Step]


def websocket(r: Random, whole: bytes) -> list[Steps]:
    """After a handshake; `whole` is a frame that is right."""
    return [*_frames(r), *_fragments(r), *_floods(r), *_closes(r, whole), *_cuts(r, whole)]


def http(r: Random, token: str) -> list[bytes]:
    """Instead of a handshake."""
    requests = [*_requests(r, upgrade("/ws")), *_heads(r, token), *_bodies(), *_places(r)]
    return [*requests, *_lines(), *_other_protocols(r)]


# Of WebSocket.


def _frames(r: Random) -> list[Steps]:
    """Opcodes, reserved bits, masks, text and lengths."""
    return [
        [Send(frame(r.choice([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), b"x"))],
        [Send(frame(TEXT, b"\n", reserved=r.randint(1, 7)))],
        [Send(frame(TEXT, b"\n", mask=None))],
        [Send(frame(TEXT, r.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"a\xe2\x82", b"\xf8\x88\x80\x80\x80"])))],
        [Send(frame(TEXT, b"\xe2", fin=False)), Send(frame(CONTINUATION, b"\x28\xa1"))],
        [Send(bytes([0x81, 0xFF]) + r.choice([b"\x7f" + b"\xff" * 7, b"\xff" * 8, bytes(5) + b"\x01\0\0"]) + bytes(4))],
        [Send(bytes([0x82, 0xFE, 0, 5]) + bytes(4) + b"short")],
        [Send(frame(TEXT, b"x" * r.choice([65_536, 65_537, 300_000])))],
    ]


def _fragments(r: Random) -> list[Steps]:
    """In an order, or of a size, that messages do not have."""
    return [
        [
            Send(frame(TEXT, b"x" * 40_000, fin=False)),
            Send(frame(CONTINUATION, b"x" * 40_000, fin=r.random() < 0.5)),
        ],
        [Send(frame(CONTINUATION, b"x"))],
        [Send(frame(TEXT, b"a", fin=False)), Send(frame(TEXT, b"b"))],
        [Send(frame(TEXT, b"", fin=False)), *[Send(frame(CONTINUATION, b"", fin=False) * 2000)] * 3],
    ]


def _floods(r: Random) -> list[Steps]:
    """Of the smallest frames, and of what is answered."""
    return [
        [Send(frame(PING, b"x" * 126))],
        [Send(frame(PING, b"x", fin=False))],
        [Send(frame(PING, r.randbytes(r.choice([0, 1, 125]))) * r.choice([1, 1000, 5000]))],
        [Send(frame(PONG, b"nobody asked") * r.choice([1, 2000]))],
        [Send(frame(r.choice([PING, PONG])) * 20_000)] * r.choice([1, 10]),
        [Send(frame(r.choice([TEXT, BINARY]), b"\n") * 5_000)] * 2,
        [Send(frame(PING, b"x" * 125) * 3000), Deafness(2.0), Send(frame(PING, b"x" * 125) * 3000)],
    ]


def _closes(r: Random, whole: bytes) -> list[Steps]:
    """Wrong ones, and what comes after one."""
    return [
        [Send(frame(CLOSE, r.choice([b"", b"\x03", b"\x03\xe8\xff", b"\x03\xe7", b"\0\0", b"\x03\xed", b"\xff\xff"])))],
        [
            Send(
                frame(
                    CLOSE,
                    (r.choice([1000, 1004, 1005, 1006, 1015, 2999, 3000, 4999, 5000])).to_bytes(2, "big") + b"bye",
                )
            )
        ],
        [Send(frame(CLOSE, b"\x03\xe8" + b"x" * 124))],
        [Send(frame(CLOSE, b"\x03\xe8")), Send(whole), Send(whole)],
        [Send(frame(CLOSE, b"\x03\xe8") * 3)],
        [Send(frame(TEXT, b"CONN", fin=False)), Send(frame(CLOSE, b"\x03\xe8"))],
    ]


def _cuts(r: Random, whole: bytes) -> list[Steps]:
    """What is no frame, or none that ends."""
    return [
        [Send(whole[: r.randrange(1, len(whole))])],
        [Send(damage(r, whole * 3))],
        [Send(r.randbytes(r.choice([1, 2, 10, 1000])))],
    ]


# Of HTTP.


def _requests(r: Random, shake: bytes) -> list[bytes]:
    """Handshakes of which one thing is wrong."""
    return [
        GET * r.choice([1, 2, 200]),
        GET + shake,
        shake + frame(TEXT, b"\n"),
        shake + shake,
        shake.replace(b"GET", r.choice([b"POST", b"get", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"G\0T"])),
        shake.replace(b"HTTP/1.1", r.choice([b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"HTTP/1.1 x", b"", b"HTTP/1"])),
        shake.replace(
            b"Version: 13", r.choice([b"Version: 12", b"Version: 8", b"Version:", b"Version: 13, 8", b"V: 13"])
        ),
        shake.replace(
            b"dGhlIHNhbXBsZSBub25jZQ==",
            r.choice([b"", b"AAAA", b"!", b"\xff" * 24, b"dGhlIHNhbXBsZSBub25jZQ==" * 9]),
        ),
        shake.replace(
            b"Upgrade: websocket", r.choice([b"Upgrade: h2c", b"Upgrade:", b"Upgrade: websocket, h2c", b"X: y"])
        ),
        shake.replace(
            b"Connection: Upgrade", r.choice([b"Connection: close", b"Connection: keep-alive, Upgrade", b"C: d"])
        ),
        shake.replace(
            b"Host: gateway", r.choice([b"Host:", b"Host: a\r\nHost: b", b"Host: \xff", b"Host: " + b"h" * 9000])
        ),
    ]


def _heads(r: Random, token: str) -> list[bytes]:
    """Long ones, and strange queries."""
    return [
        upgrade("/ws", *(f"X-{n}: y" for n in range(r.choice([100, 1000, 5000])))),
        upgrade("/ws", "X: " + "y" * r.choice([8000, 60_000, 70_000, 200_000])),
        upgrade("/ws?" + "a=b&" * r.choice([100, 10_000, 20_000])),
        upgrade("/ws?token=" + "%" * r.choice([1, 3, 5000])),
        upgrade(f"/ws?token={token}&token=&access_token=%ff%fe&ack={r.choice(['', 'none', '%00', 'x' * 5000])}"),
        upgrade(f"/ws?token={token}", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99"),
    ]


def _bodies() -> list[bytes]:
    """Where a handshake has none."""
    return [
        upgrade("/ws", "Content-Length: 5") + b"hello",
        upgrade("/ws", "Content-Length: -1"),
        upgrade("/ws", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        upgrade("/ws", "Transfer-Encoding: chunked") + b"zz\r\nx",
        upgrade("/ws", "Expect: 100-continue"),
        GET_CHUNKED + b"0\r\n" + b"a:\r\n" * 1000,
        GET * 3000,
    ]


def _places(r: Random) -> list[bytes]:
    """Whose page it is, and where it wants to go."""
    return [
        upgrade(
            "/ws",
            f"Origin: {r.choice(['null', 'http://evil', 'http://gateway', '', 'x' * 9000, 'http://[', '://'])}",
        ),
        upgrade("/ws", "Origin: http://gateway", "Origin: http://evil"),
        upgrade(
            r.choice(
                [
                    "/",
                    "/ws/",
                    "/ws/info",
                    "//ws",
                    "/ws/../ws",
                    "/%2e%2e/ws",
                    "/ws%00",
                    "/metrics",
                    "*",
                    "http://x/ws",
                    "é",
                ]
            )
        ),
    ]


def _lines() -> list[bytes]:
    """Subprotocols and credentials."""
    return [
        upgrade("/ws", "Sec-WebSocket-Protocol: " + ", ".join(f"v{n}" for n in range(2000))),
        upgrade("/ws", "Sec-WebSocket-Protocol: v12.stomp\x01"),
        upgrade("/ws", "Authorization: Bearer", "Authorization: Bearer x"),
    ]


def _other_protocols(r: Random) -> list[bytes]:
    """POST, TLS, HTTP/2, and noise."""
    return [
        b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 50_000,
        b"POST /ready HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nffffffffffffffff\r\nx",
        b"\r\n" * 1000,
        b"\0" * 100,
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + r.randbytes(200),
        r.randbytes(r.choice([1, 500])),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]

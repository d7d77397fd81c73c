"""Damage to octets, and ways to cut them."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

HUGE = 200_000
"""Octets beyond which nothing grows: more than every limit of the gateway."""

INTERESTING = [
    b"\0",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\n\n\0",
    b":",
    b"::",
    b"\\",
    b"\\t",
    b"\\n",
    b"\\c",
    b"\\\\",
    b"\\r",
    b" ",
    b"\t",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\xd9\xa5",
    b"\x1b[2J",
    b"-1",
    b"+5",
    b"1_0",
    b"0x10",
    b"1e9",
    b"9" * 10,
    b"9" * 11,
    b"9" * 5000,
    b"NaN",
    b"18446744073709551616",
    "٥".encode(),
    "５".encode(),
    "²".encode(),
    "\u2028".encode(),
    "😀".encode(),
    b"content-length:5\n",
    b"content-length:0\n",
    b"content-length:99999\n",
    b"content-length:-1\n",
    b"receipt:x\n",
    b"a:b\n" * 65,
    b"destination:/user/queue/unread\n",
    b"x" * 8192 + b":y\n",
    b"x:" + b"y" * 9000 + b"\n",
    b'"',
    b"[" * 2000,
    b"{",
    b"}",
    b",",
]


def damage(r: Random, data: bytes) -> bytes:
    """One to five changes."""
    for _ in range(r.choice([1, 1, 1, 2, 3, 5])):
        data = r.choice(_CHANGES)(r, data)[:HUGE]
    return data


def _flip(r: Random, data: bytes) -> bytes:
    if not data:
        return data
    at = r.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << r.randrange(8))]) + data[at + 1 :]


def _delete(r: Random, data: bytes) -> bytes:
    begin, end = _span(r, data)
    return data[:begin] + data[end:]


def _duplicate(r: Random, data: bytes) -> bytes:
    begin, end = _span(r, data)
    return data[:end] + data[begin:end] * r.choice([1, 1, 2, 10, 100]) + data[end:]


def _insert(r: Random, data: bytes) -> bytes:
    at = r.randint(0, len(data))
    return data[:at] + r.choice(INTERESTING) + data[at:]


def _replace(r: Random, data: bytes) -> bytes:
    begin, end = _span(r, data)
    return data[:begin] + r.choice(INTERESTING) + data[end:]


def _noise(r: Random, data: bytes) -> bytes:
    at = r.randint(0, len(data))
    return data[:at] + r.randbytes(r.choice([1, 2, 8, 64])) + data[at:]


def _repeat_line(r: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = r.randrange(len(lines))
    return b"\n".join([*lines[:at], *[lines[at]] * r.choice([2, 2, 3, 70]), *lines[at + 1 :]])


def _swap_lines(r: Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    r.shuffle(lines)
    return b"\n".join(lines)


def _other_line_ends(r: Random, data: bytes) -> bytes:
    ends = r.choice([[b"\r\n"], [b"\r"], [b"\r\n", b"\n"], [b"\n\r"], [b"\r\r\n", b"\n"], [b"\0"]])
    return b"".join(line + r.choice(ends) for line in data.split(b"\n"))


def _cut(r: Random, data: bytes) -> bytes:
    return data[: r.randint(0, len(data))]


def _number(r: Random, data: bytes) -> bytes:
    """Another number in the place of one."""
    places = [at for at, octet in enumerate(data) if 48 <= octet <= 57]
    if not places:
        return data
    at = r.choice(places)
    number = r.choice(
        [b"0", b"-1", b"99999999999", b"9" * 400, "٣".encode(), b"1e5", b"1.5", b" 1", b"00000000001", b"2147483648"]
    )
    return data[:at] + number + data[at + 1 :]


_CHANGES = [
    _flip,
    _flip,
    _delete,
    _duplicate,
    _insert,
    _insert,
    _replace,
    _noise,
    _repeat_line,
    _swap_lines,
    _other_line_ends,
    _cut,
    _number,
]


def _span(r: Random, data: bytes) -> tuple[int, int]:
    begin = r.randint(0, len(data))
    return begin, min(len(data), begin + r.choice([1, 1, 2, 4, 16, 200]))


def pieces(r: Random, data: bytes, most: int = 60) -> Iterator[bytes]:
    """The same octets, in some pieces: by one octet, as long as there are not too many of them, or at random places."""
    if len(data) <= most and r.random() < 0.3:
        yield from (data[at : at + 1] for at in range(len(data)))
        return
    cuts = sorted(r.randint(0, len(data)) for _ in range(r.choice([0, 1, 2, 5, 20])))
    yield from (data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True))

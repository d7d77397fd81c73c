"""The codec: octets in, frames out, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stomp.utils import parse_frame as parse_with_stomp_py

from rowbell.stomp.errors import LocalProtocolError, ProtocolError
from rowbell.stomp.frames import Frame, Parser, encode
from rowbell.stomp.headers import VERSIONS
from rowbell.stomp.limits import Limits

LIMITS = Limits(body=Limits().frame)

READABLE = {
    "no header, no body": (b"DISCONNECT\n\n\0", Frame("DISCONNECT", {})),
    "a body up to the NUL": (b"SEND\na:b\n\nhello\nworld\0", Frame("SEND", {"a": "b"}, b"hello\nworld")),
    "a body with a NUL in it": (
        b"SEND\ncontent-length:3\n\na\0b\0",
        Frame("SEND", {"content-length": "3"}, b"a\0b"),
    ),
    "an empty body that is announced": (
        b"SEND\ncontent-length:0\n\n\0",
        Frame("SEND", {"content-length": "0"}),
    ),
    "a content-length in octets": (
        "SEND\ncontent-length:2\n\né\0".encode(),
        Frame("SEND", {"content-length": "2"}, b"\xc3\xa9"),
    ),
    "lines that end in CR LF": (b"SEND\r\na:b\r\n\r\nbody\r\n\0", Frame("SEND", {"a": "b"}, b"body\r\n")),
    "CR LF without headers": (b"DISCONNECT\r\n\r\n\0", Frame("DISCONNECT", {})),
    "CR LF, and a blank line of LF in the body": (b"SEND\r\n\r\na\n\nb\0", Frame("SEND", {}, b"a\n\nb")),
    "LF, and a blank line of CR LF in the body": (b"SEND\n\na\n\r\nb\0", Frame("SEND", {}, b"a\n\r\nb")),
    "CR LF, and a body that begins with LF": (b"SEND\r\n\r\n\nb\0", Frame("SEND", {}, b"\nb")),
    "CR LF, and a blank line of LF": (b"SEND\r\na:b\r\n\nc\0", Frame("SEND", {"a": "b"}, b"c")),
    "LF, and a blank line of CR LF": (b"SEND\na:b\n\r\n\nc\0", Frame("SEND", {"a": "b"}, b"\nc")),
    "heart-beats before it": (b"\n\r\n\n\nSEND\n\n\0", Frame("SEND", {})),
    "spaces in headers are part of them": (b"SEND\n a : b \n\n\0", Frame("SEND", {" a ": " b "})),
    "an empty value": (b"SEND\na:\n\n\0", Frame("SEND", {"a": ""})),
    "unescaped colons in a value": (b"SEND\na:b:c\n\n\0", Frame("SEND", {"a": "b:c"})),
    "a repeated header": (b"SEND\na:first\na:second\n\n\0", Frame("SEND", {"a": "first"})),
    "a header repeated behind an escape": (b"SEND\na\\c:first\na\\c:second\n\n\0", Frame("SEND", {"a:": "first"})),
    "all escapes": (b"SEND\na:\\r\\n\\c\\\\\n\n\0", Frame("SEND", {"a": "\r\n:\\"})),
    "an escaped backslash before an n": (b"SEND\na:\\\\n\n\n\0", Frame("SEND", {"a": "\\n"})),
    "escapes in a name": (b"SEND\na\\cb:c\n\n\0", Frame("SEND", {"a:b": "c"})),
    "characters of any script": ("SEND\nключ:値\n\n\0".encode(), Frame("SEND", {"ключ": "値"})),
    "backslashes in CONNECT are literal": (b"CONNECT\nlogin:a\\nb\\t\n\n\0", Frame("CONNECT", {"login": "a\\nb\\t"})),
    "and in STOMP": (b"STOMP\nlogin:\\c\n\n\0", Frame("STOMP", {"login": "\\c"})),
    "and in CONNECTED": (b"CONNECTED\nserver:a\\\n\n\0", Frame("CONNECTED", {"server": "a\\"})),
}

BROKEN = {
    "not a command": (b'{"type":"CONNECT"}', "This is not a STOMP frame"),
    "a command in small letters": (b"connect\n\n\0", "This is not a STOMP frame"),
    "a space before the command": (b" SEND\n\n\0", "This is not a STOMP frame"),
    "a NUL between frames": (b"\0", "This is not a STOMP frame"),
    "a NUL and no blank line": (b"SEND\na:b\n\0", "The frame has no blank line"),
    "a NUL, no blank line, and another frame": (b"SEND\na:b\0SEND\n\n\0", "The frame has no blank line"),
    "a header without a colon": (b"SEND\nreceipt:7\nab\n\n\0", "A header is malformed"),
    "a header without a name": (b"SEND\n:b\nreceipt:7\n\n\0", "A header is malformed"),
    "an undefined escape": (b"SEND\na:\\t\nreceipt:7\n\n\0", "A header has an undefined escape sequence"),
    "a backslash at the end": (b"SEND\na:\\\nreceipt:7\n\n\0", "A header has an undefined escape sequence"),
    "headers that are not UTF-8": (b"SEND\na:\xff\n\n\0", "The headers are not UTF-8"),
    "a carriage return alone": (b"SEND\nreceipt:7\na:b\rc\n\n\0", "A header contains a carriage return"),
    "a content-length too small": (
        b"SEND\nreceipt:7\ncontent-length:2\n\nabc\0",
        "The content-length header does not match the body",
    ),
    "a content-length too large": (
        b"SEND\nreceipt:7\ncontent-length:4\n\nabc\0\n",
        "The content-length header does not match the body",
    ),
    "a content-length in characters": (
        "SEND\nreceipt:7\ncontent-length:1\n\né\0".encode(),
        "The content-length header does not match the body",
    ),
    "too many headers": (
        b"SEND\nreceipt:7\n" + b"a:b\n" * LIMITS.headers + b"\n\0",
        f"The frame has more than {LIMITS.headers} headers",
    ),
    "a header too long": (
        b"SEND\nreceipt:7\na:" + b"b" * LIMITS.header_line + b"\n\n\0",
        f"A header is longer than {LIMITS.header_line} characters",
    ),
    **{
        f"the content-length {value!r}": (
            f"SEND\nreceipt:7\ncontent-length:{value}\n\nabcde\0".encode(),
            "The content-length header is malformed",
        )
        for value in ("", "+5", "-5", " 5", "5 ", "1_0", "٥", "0x5", "5.0", "00000000005")
    },
}


@pytest.mark.parametrize(("octets", "frame"), READABLE.values(), ids=READABLE)
def test_a_frame_is_read_however_it_is_cut(octets, frame):
    assert read([octets]) == [frame]
    assert read([octets[i : i + 1] for i in range(len(octets))]) == [frame]
    for cut in range(len(octets)):
        assert read([octets[:cut], octets[cut:]]) == [frame]


@pytest.mark.parametrize(("octets", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_frame_is_the_peers_fault_however_it_is_cut(octets, message):
    """Python's int() takes signs, spaces, underscores and digits of all scripts, so content-length has many cases."""
    for chunks in [octets], [octets[i : i + 1] for i in range(len(octets))]:
        with pytest.raises(ProtocolError) as caught:
            read(chunks)

        assert caught.value.message == message
        assert caught.value.body.startswith(message)
        assert caught.value.receipt == ("7" if b"receipt:7" in octets else None)


def test_1_0_has_no_escapes():
    assert read([b"SEND\na:\\n\\t\\\n\n\0"], version="1.0") == [Frame("SEND", {"a": "\\n\\t\\"})]


def test_1_1_has_no_escape_for_the_carriage_return():
    """It came with 1.2; on 1.1 it is an undefined escape sequence, which is a fatal error."""
    assert read([b"SEND\na:\\n\\c\\\\\n\n\0"], version="1.1") == [Frame("SEND", {"a": "\n:\\"})]
    with pytest.raises(ProtocolError, match="undefined escape"):
        read([b"SEND\na:\\r\n\n\0"], version="1.1")


def test_an_escaped_receipt_is_found_in_a_broken_frame():
    """ERROR repeats the receipt of the frame that it is about, even if its other headers are unreadable."""
    with pytest.raises(ProtocolError) as caught:
        read([b"SEND\nbroken\nreceipt:a\\cb\nreceipt:second\n\n\0"])
    assert caught.value.receipt == "a:b"


def test_a_receipt_that_is_itself_broken_is_none():
    with pytest.raises(ProtocolError) as caught:
        read([b"SEND\nreceipt:\\t\n\n\0"])
    assert caught.value.receipt is None


@pytest.mark.parametrize("head", [b"SEND\n\n", b"SEND\ncontent-length:%d\n\n"], ids=["until NUL", "announced"])
def test_a_frame_may_be_as_large_as_the_limit_and_no_larger(head):
    room = LIMITS.frame - len(head.replace(b"%d", b"65500")) - len(b"\0")
    largest = head.replace(b"%d", b"%d" % room) + b"x" * room + b"\0"
    too_large = head.replace(b"%d", b"%d" % (room + 1)) + b"x" * (room + 1) + b"\0"

    assert len(largest) == LIMITS.frame
    assert len(read([largest])) == len(read([largest[:-1], largest[-1:]])) == 1
    for chunks in [too_large], [too_large[:-1], too_large[-1:]]:
        with pytest.raises(ProtocolError, match=f"larger than {LIMITS.frame} octets"):
            read(chunks)


@pytest.mark.parametrize("head", [b"SEND\n\n", b"SEND\ncontent-length:%d\n\n"], ids=["until NUL", "announced"])
def test_a_body_has_a_limit_of_its_own(head):
    limits = Limits(body=100)
    for size in 100, 101:
        parser = Parser(limits)
        parser.feed(head.replace(b"%d", b"%d" % size) + b"x" * size + b"\0")
        if size == 100:
            assert parser.next_frame() is not None
        else:
            with pytest.raises(ProtocolError, match="body is larger than 100 octets") as caught:
                parser.next_frame()
            assert caught.value.reason == "body"


def test_who_passes_a_limit_is_told_which():
    limits = Limits(frame=300, headers=3, header_line=50)
    for reason, frame in {
        "headers": b"SEND\na:1\nb:2\nc:3\nd:4\n\n\0",
        "header_line": b"SEND\na:" + b"x" * 50 + b"\n\n\0",
        "frame": b"SEND\na:b\n\n" + b"x" * 300 + b"\0",
        "protocol": b"SEND\na\n\n\0",
    }.items():
        parser = Parser(limits)
        parser.feed(frame)
        with pytest.raises(ProtocolError) as caught:
            parser.next_frame()
        assert caught.value.reason == reason


def test_a_frame_that_will_be_too_large_is_refused_before_it_has_come():
    for beginning in b"SEND\ncontent-length:9999999999\n\n", b"S" * LIMITS.frame, b"SEND\n\n" + b"x" * LIMITS.frame:
        with pytest.raises(ProtocolError, match="larger than"):
            read([beginning])


def test_a_thousand_frames_may_come_in_one_message():
    assert read([b"ACK\nid:1\n\n\0\n" * 1000]) == [Frame("ACK", {"id": "1"})] * 1000


@pytest.mark.parametrize(
    "frames",
    [
        b"ACK\n\n\0\n" * 2000,
        b"ACK\r\n\r\n\0\r\n" * 2000,
        b"ACK\n\n\0" * 1000 + b"ACK\r\n\r\n\0" * 1000,
        b"ACK\r\n\r\n\0" * 1000 + b"ACK\n\n\0" * 1000,
        b"ACK\n\n\0\nACK\r\n\r\n\0\r\n" * 1000,
    ],
    ids=["LF", "CR LF", "LF, then CR LF", "CR LF, then LF", "in turns"],
)
def test_a_frame_costs_no_search_through_all_that_came_with_it(frames):
    """A message of 64 KiB of small frames would hold up everybody else for a tenth of a second and more."""
    parser = Parser(LIMITS)
    parser.feed(frames)
    parser._buffer = counted = CountingBytes(frames)

    while parser.next_frame() is not None:
        pass

    assert counted.looked_at < 10 * len(frames)


def test_octets_that_come_one_by_one_are_not_searched_again_and_again():
    """Of a frame of 64 KiB that comes octet by octet, each octet is looked at a few times, not 64 Ki times."""
    parser = CountingParser(LIMITS)
    for octet in b"SEND\n\n" + b"x" * 1000 + b"\0":
        parser.feed(bytes([octet]))
        frame = parser.next_frame()

    assert frame == Frame("SEND", {}, b"x" * 1000)
    assert parser.looked_at < 5000


@given(chunks=st.lists(st.one_of(st.binary(), st.text(), st.sampled_from(["SEND\n", "\n", "\0", "a:b\n"]))))
def test_garbage_is_refused_and_nothing_else_is_raised(chunks):
    try:
        frames = read(chunks)
    except ProtocolError:
        return
    assert all(frame.command.strip("\r\n") for frame in frames)


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_what_was_written_is_read(data, version):
    # Given
    carried = st.text(st.characters(exclude_characters=UNCARRIED[version], exclude_categories=["Cs"]))
    names = carried.filter(bool) if version != "1.0" else carried.map(lambda name: name.replace(":", "")).filter(bool)
    headers = st.dictionaries(names.filter(lambda name: name != "content-length"), carried, max_size=5)
    bodies = st.text(st.characters(exclude_categories=["Cs"]))
    written = data.draw(st.lists(st.tuples(st.sampled_from(["SEND", "ACK", "A-Z"]), headers, bodies), max_size=4))

    # When
    frames = [encode(command, headers.items(), body, version) for command, headers, body in written]
    between = [data.draw(st.sampled_from(["", "\n", "\r\n", "\n\r\n\n"])) for _ in frames]
    stream = "".join(map("".join, zip(between, frames, strict=True)))
    read_back = read(cut(data, stream), version=version)

    # Then
    assert read_back == [
        Frame(command, headers | ({"content-length": str(len(body.encode()))} if body else {}), body.encode())
        for command, headers, body in written
    ]


@given(data=st.data(), frames=st.lists(st.sampled_from(list(READABLE.values()))))
def test_any_cut_of_any_frames_gives_the_same_frames(data, frames):
    stream = b"\n".join(octets for octets, _ in frames).decode()

    assert read(cut(data, stream)) == [frame for _, frame in frames]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("a", "b\nc"), ("a", "b\rc"), ("a", "b\0c"), ("a:b", "c"), ("a\nb", "c"), ("", "b")],
)
def test_a_header_is_escaped_or_refused_but_never_taken_for_two(name, value, version):
    """A user or a subscription id with a line feed in it must not become a header of its own."""
    if set(name + value) & set(UNCARRIED[version]) or not name or (":" in name and version == "1.0"):
        with pytest.raises(LocalProtocolError, match=f"STOMP {version}"):
            encode("SEND", [(name, value)], version=version)
    else:
        octets = encode("SEND", [(name, value)], version=version).encode()
        assert read([octets], version=version) == [Frame("SEND", {name: value})]


def test_connected_cannot_carry_what_needs_an_escape():
    with pytest.raises(LocalProtocolError):
        encode("CONNECTED", [("user-name", "alice\nadmin:true")], version="1.2")


@given(
    st.dictionaries(st.text("abcdefgh-", min_size=1), st.text("xyzäß漢:/\\\n", min_size=1), min_size=1, max_size=5),
    st.text("abc\n{}", max_size=20),
)
def test_stomp_py_reads_what_we_write(headers, body):
    """An independent reading of 1.1, the last version whose escapes stomp.py undoes in its parser."""
    written = encode("MESSAGE", headers.items(), body, "1.1").encode()

    frame = parse_with_stomp_py(written.removesuffix(b"\0"))

    assert frame.cmd == "MESSAGE"
    assert {name: frame.headers[name] for name in headers} == headers
    assert frame.body == body.encode()


UNCARRIED = {"1.2": "\0", "1.1": "\r\0", "1.0": "\r\n\0"}
"""Characters that a header cannot have, by version."""


def read(chunks: list[bytes | str], version: str = "1.2") -> list[Frame]:
    parser = Parser(LIMITS)
    parser.version = version
    frames = []
    for chunk in chunks:
        parser.feed(chunk)
        while (frame := parser.next_frame()) is not None:
            frames.append(frame)
    return frames


def cut(data: st.DataObject, stream: str) -> list[bytes | str]:
    """A stream, cut into messages anywhere: the binary ones inside a character, too."""
    places = data.draw(st.lists(st.tuples(st.integers(0, len(stream)), st.booleans()), max_size=20).map(sorted))
    pieces: list[bytes | str] = []
    start = 0
    for end, binary in [*places, (len(stream), False)]:
        piece = stream[start:end]
        start = end
        half = data.draw(st.integers(0, len(piece.encode()))) if binary else 0
        pieces += [piece.encode()[:half], piece.encode()[half:]] if binary else [piece]
    return pieces


class CountingBytes(bytes):
    """Counts the octets that searches go through."""

    looked_at = 0

    def find(self, sought: bytes | int, start: int = 0, end: int | None = None) -> int:
        end = len(self) if end is None else end
        found = super().find(sought, start, end)
        self.looked_at += (end if found < 0 else found) - start
        return found


class CountingParser(Parser):
    """Counts the octets that are still to be searched at each step."""

    looked_at = 0

    def next_frame(self) -> Frame | None:
        self.looked_at += len(self._buffer) - self._searched
        return super().next_frame()

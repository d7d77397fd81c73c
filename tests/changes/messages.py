"""What PostgreSQL 15 streamed for writes of `notification`, byte for byte, and messages made after that pattern."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

OID = 16393

RELATION = (
    b"R\x00\x00@\tpublic\x00notification\x00i\x00\x0e"
    b"\x01id\x00\x00\x00\x00\x14\xff\xff\xff\xff"
    b"\x01recipient_id\x00\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00title\x00\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00type\x00\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00body\x00\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00data\x00\x00\x00\x0e\xda\xff\xff\xff\xff"
    b"\x00actor_id\x00\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00channel\x00\x00\x00\x00\x19\xff\xff\xff\xff"
    b"\x00created_at\x00\x00\x00\x04\xa0\xff\xff\xff\xff"
    b"\x00expires_at\x00\x00\x00\x04\xa0\xff\xff\xff\xff"
    b"\x00read_at\x00\x00\x00\x04\xa0\xff\xff\xff\xff"
    b"\x00version\x00\x00\x00\x00\x14\xff\xff\xff\xff"
    b"\x00inserted_tx\x00\x00\x00\x00\x14\xff\xff\xff\xff"
    b"\x00changed_tx\x00\x00\x00\x00\x14\xff\xff\xff\xff"
)
BEGIN = b"B\x00\x00\x00\x00\x01\x95\xaf\x08\x00\x03\x04\x13\xb3\xd0\xf0\x83\x00\x00\x02\xdc"
"""Transaction 732, committed at COMMITTED_AT."""
COMMITTED_AT = 1795592397836419
CREATED = (
    b"I\x00\x00@\tN\x00\x0e"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01"
    b"b\x00\x00\x00\x05alice"
    b"b\x00\x00\x00\x0bNew comment"
    b"b\x00\x00\x00\x07COMMENT"
    b'b\x00\x00\x00\x15Bob: "hi" \xc3\xbcn\xc3\xafc\xc3\xb6d\xc3\xa9'
    b'b\x00\x00\x00\x14\x01{"postId": "p-100"}'
    b"b\x00\x00\x00\x08user-123"
    b"b\x00\x00\x00\x06IN_APP"
    b"b\x00\x00\x00\x08\x00\x03\x03\xd8\xaa\xa3x\xfb"
    b"n"
    b"n"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x02\xdc"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x02\xdc"
)
UPDATED_WITH_TOASTED_BODY = (
    b"U\x00\x00@\tN\x00\x0e"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x02"
    b"b\x00\x00\x00\x03bob"
    b"b\x00\x00\x00\x04Long"
    b"b\x00\x00\x00\x07GENERIC"
    b"u"
    b"b\x00\x00\x00\x03\x01{}"
    b"n"
    b"b\x00\x00\x00\x06IN_APP"
    b"b\x00\x00\x00\x08\x00\x03\x03\xd8\xaa\x97f\x00"
    b"n"
    b"b\x00\x00\x00\x08\x00\x03\x03\xd8\xae2\x8e "
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x02"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x02\xdf"
    b"b\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x02\xe0"
)
DELETED_ROW = (
    b"D\x00\x00@\tK\x00\x0eb\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01b\x00\x00\x00\x05alicennnnnnnnnnnn"
)
COMMIT = b"C\x00\x00\x00\x00\x00\x01\x95\xaf\x08\x00\x00\x00\x00\x01\x95\xaf8\x00\x03\x04\x13\xb3\xd0\xf0\x83"

HEARTBEAT_RELATION = (
    b"R\x00\x00@Mpublic\x00rowbell_heartbeat\x00d\x00\x02"
    b"\x01id\x00\x00\x00\x00\x17\xff\xff\xff\xff\x00at\x00\x00\x00\x04\xa0\xff\xff\xff\xff"
)
HEARTBEAT = b"I\x00\x00@MN\x00\x02b\x00\x00\x00\x04\x00\x00\x00\x01b\x00\x00\x00\x08\x00\x03\x04\x13\xb3\xd0\xf4\xf4"

IN_STREAM = b"w\x00\x00\x00\x00\x01\x95\xaf8\x00\x00\x00\x00\x01\x95\xaf8\x00\x03\x04\x13\xb3\xd0\xf2\xad" + COMMIT
RELATION_IN_STREAM = b"w" + bytes(16) + b"\x00\x03\x04\x13\xb3\xd1\x070" + RELATION
"""Relations have no position."""
KEEPALIVE = b"k\x00\x00\x00\x00\x01\x95\xb2@\x00\x03\x04\x13\xb3\xd0\xf4\xa1\x00"
POSITION, END = 0x195AF38, 0x195B240
"""Of IN_STREAM, and the end of the log that KEEPALIVE tells."""

BIGINT, TEXT, TIMESTAMPTZ, JSONB = 20, 25, 1184, 3802
COLUMNS = {
    "id": BIGINT,
    "recipient_id": TEXT,
    "title": TEXT,
    "type": TEXT,
    "body": TEXT,
    "data": JSONB,
    "actor_id": TEXT,
    "channel": TEXT,
    "created_at": TIMESTAMPTZ,
    "expires_at": TIMESTAMPTZ,
    "read_at": TIMESTAMPTZ,
    "version": BIGINT,
    "inserted_tx": BIGINT,
    "changed_tx": BIGINT,
}
TOASTED = object()
"""A value that is not in the stream."""
ROW: dict[str, Any] = {
    "id": 1,
    "recipient_id": "alice",
    "title": "New comment",
    "type": "COMMENT",
    "body": 'Bob: "hi" ünïcödé',
    "data": b'\x01{"postId": "p-100"}',
    "actor_id": "user-123",
    "channel": "IN_APP",
    "created_at": 1795338840791291 - 946684800000000,
    "expires_at": None,
    "read_at": None,
    "version": 1,
    "inserted_tx": 732,
    "changed_tx": 732,
}
"""That of CREATED: numbers and texts, times in microseconds since 2000."""


def relation(columns: Mapping[str, int], keys: tuple[str, ...] = ("id", "recipient_id")) -> bytes:
    described = (
        bytes([name in keys]) + name.encode() + b"\0" + struct.pack("!Ii", type, -1) for name, type in columns.items()
    )
    return (
        b"R"
        + struct.pack("!I", OID)
        + b"public\0notification\0i"
        + struct.pack("!H", len(columns))
        + b"".join(described)
    )


def values(*row: Any) -> bytes:
    """A row's values: None, TOASTED, text, numbers of 8 bytes, or bytes as they are."""
    return struct.pack("!H", len(row)) + b"".join(map(_value, row))


def inserted(**columns: Any) -> bytes:
    """CREATED with other values."""
    return b"I" + struct.pack("!I", OID) + b"N" + values(*(ROW | columns).values())


def updated(old: bytes = b"", **columns: Any) -> bytes:
    """An UPDATE to CREATED with other values; `old` is what stands before the new row."""
    return b"U" + struct.pack("!I", OID) + old + b"N" + values(*(ROW | columns).values())


def key(kind: bytes = b"K", **columns: Any) -> bytes:
    """The old values in an UPDATE or DELETE."""
    return kind + values(*(dict.fromkeys(COLUMNS) | columns).values())


def removed(old: bytes) -> bytes:
    return b"D" + struct.pack("!I", OID) + old


def _value(value: Any) -> bytes:
    if value is None:
        return b"n"
    if value is TOASTED:
        return b"u"
    if isinstance(value, int):
        value = struct.pack("!q", value)
    if isinstance(value, str):
        value = value.encode()
    return b"b" + struct.pack("!I", len(value)) + value

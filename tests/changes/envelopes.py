"""What Debezium 3.7 wrote for rows of `notification`, byte for byte, and records made after that pattern."""

from __future__ import annotations

import json
from typing import Any

SOURCE = (
    b'"source":{"version":"3.7.0.Final","connector":"postgresql","name":"rowbell","ts_ms":1795395881893,'
    b'"snapshot":"false","db":"rowbell","sequence":"[\\"26598360\\",\\"26598464\\"]","ts_us":1795395881893134,'
    b'"ts_ns":1795395881893134000,"schema":"public","table":"notification","txId":752,"lsn":26598464,"xmin":null,'
    b'"origin":null,"origin_lsn":null},"transaction":null,'
)
TIMES = b'"ts_ms":1795395881941,"ts_us":1795395881941107,"ts_ns":1795395881941107387}'

CREATED = (
    b'{"before":null,"after":{"id":1,"recipient_id":"alice","title":"New comment","type":"COMMENT",'
    b'"body":"Bob: \\"hi\\" \xc3\xbcn\xc3\xafc\xc3\xb6d\xc3\xa9","data":"{\\"postId\\": \\"p-100\\"}",'
    b'"actor_id":"user-123","channel":"IN_APP","created_at":"2026-11-22T09:14:00.791291Z","expires_at":null,'
    b'"read_at":null,"version":1,"inserted_tx":752,"changed_tx":752},' + SOURCE + b'"op":"c",' + TIMES
)
UPDATED_WITH_TOASTED_BODY = (
    b'{"before":null,"after":{"id":2,"recipient_id":"bob","title":"Long","type":"GENERIC",'
    b'"body":"__debezium_unavailable_value","data":"{}","actor_id":null,"channel":"IN_APP",'
    b'"created_at":"2026-11-22T09:14:00.000000Z","expires_at":null,"read_at":"2026-11-22T09:15:00.500000Z",'
    b'"version":2,"inserted_tx":753,"changed_tx":754},' + SOURCE + b'"op":"u",' + TIMES
)
DELETED_ROW = (
    b'{"before":{"id":1,"recipient_id":"alice","title":"","type":"GENERIC","body":null,"data":"{}","actor_id":null,'
    b'"channel":"IN_APP","created_at":"1970-01-01T00:00:00.000000Z","expires_at":null,"read_at":null,"version":1,'
    b'"inserted_tx":0,"changed_tx":0},"after":null,' + SOURCE + b'"op":"d",' + TIMES
)


def created(id: int = 1, recipient: str = "alice", **columns: Any) -> bytes:
    """CREATED with other values."""
    envelope = json.loads(CREATED)
    envelope["after"] |= {"id": id, "recipient_id": recipient, **columns}
    return json.dumps(envelope).encode()


def altered(record: bytes, **members: Any) -> bytes:
    """A record with other members of the envelope; those given as ... are left out."""
    envelope = json.loads(record) | members
    return json.dumps({name: value for name, value in envelope.items() if value is not ...}).encode()

"""What a write of `notification` becomes, whichever way it was read: both decoders end here, and so agree."""

from __future__ import annotations

import msgspec

from rowbell.errors import UndecodableRecord
from rowbell.notification import DELETED, IN_APP, Change

MAX_ID = 2**53 - 1
"""The table's bound: an integer that JavaScript holds."""

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def incomplete(
    id: int,
    recipient_id: str,
    version: int,
    inserted_tx: int,
    changed_tx: int,
    read: bool,
    channel: str | None,
    committed_at: int,
) -> Change:
    """A row of which the stream left out a TOASTed column that did not change; `channel` is None if that is the one."""
    hidden = channel not in (IN_APP, None)
    return Change(id, recipient_id, version, inserted_tx, changed_tx, None, read, hidden, committed_at)


def deleted(id: int, recipient_id: str, xid: int, committed_at: int) -> Change:
    """A row that is gone; `xid` has 32 bits."""
    # inserted_tx is not known, and a deletion is an event of its own whenever the row was made.
    return Change(id, recipient_id, DELETED, 0, xid, committed_at=committed_at)


def check_data(data: str, column: str) -> None:
    """UndecodableRecord, which names `column`, unless it is a JSON object: it is spliced into the client's JSON."""
    if data == "{}":
        return
    try:
        _decode_object(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableRecord(f"`{column}` is not a JSON object: {error}") from error

"""Changes made from writes of `notification`, shared by both decoders so that they agree."""

from __future__ import annotations

import msgspec

from rowbell.errors import UndecodableRecord
from rowbell.notification import DELETED, IN_APP, Change

MAX_ID = 2**53 - 1
"""The upper bound of the table: the largest integer that JavaScript represents exactly."""

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
    """Return the change for a row whose unchanged TOASTed columns are not in the stream; `channel` is None if it is one
    of them.
    """
    hidden = channel not in (IN_APP, None)
    return Change(id, recipient_id, version, inserted_tx, changed_tx, None, read, hidden, committed_at)


def deleted(id: int, recipient_id: str, xid: int, committed_at: int) -> Change:
    """Return the change for a deleted row; `xid` has 32 bits."""
    # inserted_tx is unknown. A deletion is an event of its own, whenever the row was inserted.
    return Change(id, recipient_id, DELETED, 0, xid, committed_at=committed_at)


def check_data(data: str, column: str) -> None:
    """Raise UndecodableRecord, naming `column`, unless `data` is a JSON object: it is spliced into the client's
    JSON.
    """
    if data == "{}":
        return
    try:
        _decode_object(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UndecodableRecord(f"`{column}` is not a JSON object: {error}") from error

"""What one subscription has been sent, exactly and in little memory.

A ledger keeps a *floor*, a snapshot such that the latest state visible in it has been sent, and *sent*, what was sent
beyond the floor. Everything bound for the socket, whether from the bus, a page or the sweep, passes the same test,
`event_for`. So redelivery, reordering, a second tab or an outage of hours cannot show a version twice, or an older
state after a newer one.

One memory of recent ids per gateway would be smaller still, but wrong: it loses rows as soon as the replay for a second
tab meets the push to the first.
"""

from __future__ import annotations

from rowbell.notification import Change
from rowbell.snapshot import Snapshot


class Ledger:
    """The memory of one `Subscription`, which owns it. No method raises."""

    __slots__ = ("floor", "sent")

    def __init__(self, floor: Snapshot) -> None:
        self.floor = floor
        """Tracks what passes and sweeps have made certain: the latest state visible in it has been sent."""
        self.sent: dict[int, tuple[int, int]] = {}
        """Tracks what was sent beyond the floor: notification id → (version, transaction)."""

    def lacks(self, id: int, version: int, tx: int) -> bool:
        """Whether this version of the row has yet to be sent."""
        if self.floor.visible(tx):
            return False
        last = self.sent.get(id)
        return last is None or last[0] < version

    def event_for(self, change: Change) -> str | None:
        """Return the event to send for this change: `created`, `updated` or `deleted`; None if nothing must be sent."""
        if not self.lacks(change.id, change.version, change.tx):
            return None
        if change.deleted:
            return "deleted"
        known = change.id in self.sent or self.floor.visible(change.inserted_tx)
        if change.hidden:
            return "deleted" if known else None
        return "updated" if known else "created"

    def remember(self, change: Change) -> None:
        """Record that this change is on its way to the socket, or is one that the client need not be sent."""
        self.sent[change.id] = (change.version, change.tx)

    def raise_floor(self, snapshot: Snapshot) -> None:
        """Record that the latest state visible in `snapshot` has been sent.

        A snapshot that the floor covers is older and changes nothing: a lowered floor would send again what the ledger
        has forgotten. Only what the new floor sees leaves *sent*; the rest may arrive again.
        """
        if self.floor.covers(snapshot):
            return
        self.floor = snapshot
        if self.sent:
            self.sent = {id: entry for id, entry in self.sent.items() if not snapshot.visible(entry[1])}

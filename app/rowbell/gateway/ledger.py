"""What one subscription has been sent, exactly and in little memory.

A ledger keeps a *floor*, a snapshot such that the latest state visible in it has been sent, and *sent*, what was
sent beyond it. Everything on its way to the socket, from the bus, from a page or from the sweep, passes the one
test of `event_for`. So redelivery, reordering, a second tab and an outage of hours cannot show a version twice,
nor an older state after a newer one.

A memory of recent ids per gateway would be smaller still, and wrong: it loses rows as soon as the replay of a
second tab meets the push of the first.
"""

from __future__ import annotations

from rowbell.notification import Change
from rowbell.snapshot import Snapshot


class Ledger:
    __slots__ = ("floor", "sent")

    def __init__(self, floor: Snapshot) -> None:
        self.floor = floor
        """Tracks what SQL and sweep have made certain: the latest state visible here has been sent."""
        self.sent: dict[int, tuple[int, int]] = {}
        """Tracks what was sent beyond the floor: notification id → (version, transaction)."""

    def lacks(self, id: int, version: int, tx: int) -> bool:
        """Is this version of the row still to be sent?"""
        if self.floor.visible(tx):
            return False
        last = self.sent.get(id)
        return last is None or last[0] < version

    def event_for(self, change: Change) -> str | None:
        """`created`, `updated` or `deleted`, as this subscription must be told; None if there is nothing to tell."""
        if not self.lacks(change.id, change.version, change.tx):
            return None
        if change.deleted:
            return "deleted"
        known = change.id in self.sent or self.floor.visible(change.inserted_tx)
        if change.hidden:
            return "deleted" if known else None
        return "updated" if known else "created"

    def remember(self, change: Change) -> None:
        """This change is on its way to the socket (or is one that the client need not be told)."""
        self.sent[change.id] = (change.version, change.tx)

    def raise_floor(self, snapshot: Snapshot) -> None:
        """The latest state visible in `snapshot` has been sent.

        A snapshot that the floor covers is older and changes nothing: a floor that went down would send again
        what it had forgotten. Only what the floor now sees leaves *sent*; the rest may come again.
        """
        if self.floor.covers(snapshot):
            return
        self.floor = snapshot
        if self.sent:
            self.sent = {id: entry for id, entry in self.sent.items() if not snapshot.visible(entry[1])}

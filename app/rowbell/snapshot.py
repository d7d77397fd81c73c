"""A PostgreSQL snapshot as a value: exactly the transactions that a reader has seen.

Ids and times do not follow commit order; snapshots do. `pg_current_snapshot()` prints one as `xmin:xmax:xip`: every
transaction below `xmin` had ended, none at or above `xmax` had begun, and `xip` lists those in between that were still
in progress. Transaction ids are the 64-bit ones of `pg_current_xact_id()`.

Source: https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

_TEXT = re.compile(r"[0-9]{1,20}:[0-9]{1,20}:(?:[0-9]{1,20}(?:,[0-9]{1,20})*)?")
"""int() alone would accept `1_0`, `+5`, `٥` and spaces. A transaction id has 64 bits: at most 20 digits."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The transactions one reader has seen. Snapshots of one primary are ordered: a later one covers an earlier one."""

    xmin: int
    xmax: int
    xip: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Parse PostgreSQL's text form, e.g. `10:20:10,14,15` or `10:10:`. ValueError if the text is not a snapshot."""
        if not _TEXT.fullmatch(text):
            raise ValueError(f"not a PostgreSQL snapshot (xmin:xmax:xip): {text[:100]!r}")
        xmin, xmax, xip = text.split(":")
        snapshot = cls(int(xmin), int(xmax), frozenset(map(int, xip.split(","))) if xip else frozenset())
        if not snapshot.xmin <= snapshot.xmax or any(not snapshot.xmin <= tx < snapshot.xmax for tx in snapshot.xip):
            raise ValueError(f"not a PostgreSQL snapshot, its numbers are out of order: {text[:100]!r}")
        return snapshot

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.xip)))}"

    def visible(self, tx: int) -> bool:
        """Whether transaction `tx` had ended when this snapshot was taken."""
        return tx < self.xmax and tx not in self.xip

    def covers(self, other: Snapshot) -> bool:
        """Whether everything visible in `other` is also visible here."""
        return self is other or _covers(self, other)

    def widen(self, xid: int) -> int:
        """Return the 64-bit transaction id nearest to this snapshot's xmax whose low 32 bits are `xid`.

        The replication protocol carries only 32 bits. A change being decoded is at most 2^31 transactions away from
        the present, or PostgreSQL would have stopped to prevent a wraparound.
        """
        candidate = (self.xmax & ~0xFFFFFFFF) | xid
        return min(
            (tx for tx in (candidate - (1 << 32), candidate, candidate + (1 << 32)) if tx >= 0),
            key=lambda tx: abs(tx - self.xmax),
        )


@lru_cache(maxsize=256)
def _covers(one: Snapshot, other: Snapshot) -> bool:
    """Cached, because at every sweep thousands of subscriptions compare the same two snapshots."""
    if any(tx < other.xmax and tx not in other.xip for tx in one.xip):
        return False
    # Transactions that began between our xmax and theirs are invisible here, so they must be invisible there as well.
    unseen_there = sum(1 for tx in other.xip if tx >= one.xmax)
    return other.xmax - one.xmax <= unseen_there


EMPTY = Snapshot(0, 0)
"""Sees no transaction: the floor of a subscription that has been sent nothing."""

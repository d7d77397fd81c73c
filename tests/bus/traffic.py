from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rowbell.bus import Receiver
from rowbell.notification import DELETED, Change

SOON = 20.0
"""Seconds; a deadline, not an expectation."""


def change(id: int) -> Change:
    return Change(id, "alice", 1, 10, 10, f'"id":{id},"title":"ünïcödé"}}', committed_at=1795395881893134)


DELETION = Change(7, "alice", DELETED, 0, 2**32 - 1)
INCOMPLETE = Change(8, "bob", 2, 2**40, 2**40 + 1, read=True)
HIDDEN = Change(9, "bob", 2**62, 1, 2**63 - 1, hidden=True)


def changes(ids: Iterable[int]) -> list[Change]:
    return [change(id) for id in ids]


async def take(receiver: Receiver, bundles: int) -> list[list[Change]]:
    """The next bundles."""
    taken: list[list[Change]] = []
    async with asyncio.timeout(SOON):
        async for bundle in receiver.bundles():
            taken.append(bundle)
            if len(taken) == bundles:
                break
    return taken

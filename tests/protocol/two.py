"""Alice, who tries, and Bob, whose rows they are.

What Alice must not see is looked for in everything that comes up to a row of her own that was committed later; what she
must not do, in the tables.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tests.integration.rows import Database, insert
from tests.protocol.wire import Frame, Site, Wire


@dataclass
class Two:
    """Two users, each with one unread row."""

    site: Site
    database: Database
    alice: str
    bob: str
    alices: int
    bobs: int

    async def nothing_of_bobs_comes(self, wire: Wire) -> list[Frame]:
        """Not the row that he has, nor the next one; what came instead, up to a row of Alice's."""
        another = await insert(self.database, self.bob, f"For {self.bob}")
        own = await insert(self.database, self.alice)
        frames = await wire.until("MESSAGE", notification_id=str(own))
        self.assert_without_bob(frames, another)
        return frames

    def assert_without_bob(self, frames: Iterable[Frame], *ids: int) -> None:
        for each in frames:
            assert self.bob not in each.body, each
            assert self.bob not in "".join(each.lines), each
            assert each.headers.get("notification-id") not in map(str, (self.bobs, *ids)), each

    async def assert_untouched(self) -> None:
        """Bob's row is as it was, and nobody has it."""
        cursor = await self.database.execute("SELECT version, read_at FROM notification WHERE id = %s", [self.bobs])
        assert await cursor.fetchone() == (1, None)
        cursor = await self.database.execute(
            "SELECT user_id FROM notification_delivery WHERE notification_id = %s", [self.bobs]
        )
        assert await cursor.fetchall() == []


async def said(wire: Wire, until: dict[str, Any], of: str) -> list[dict[str, Any]]:
    """The objects up to one with these members; each names nobody but this user."""
    came: list[dict[str, Any]] = []
    while not (came and until.items() <= came[-1].items()):
        came.append(json.loads(await wire.opened.recv()))
        assert came[-1].get("type") != "ERROR" or until == {"type": "ERROR"}, came[-1]
        assert came[-1].get("recipientId", of) == of
        assert came[-1].get("user", of) == of
    return came

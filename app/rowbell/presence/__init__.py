"""Who is connected where."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol


class Presence(Protocol):
    """For each user, the set of gateways that hold a session of theirs.

    A hint: entries may be missing or stale, and no decision that loses a row rests on it. Entries expire by
    themselves after 150 seconds unless they are added again. Every method raises PresenceUnavailable when the
    store cannot be asked.
    """

    async def gateways_of(self, users: Collection[str]) -> dict[str, set[str]]:
        """The gateways of each of `users`, in one round trip. Users without any are left out."""
        ...

    async def add(self, gateway: str, users: Collection[str]) -> None:
        """These users have a session at `gateway`; adding again prolongs."""
        ...

    async def remove(self, gateway: str, users: Collection[str]) -> None:
        """These users have none there any more."""
        ...

    async def close(self) -> None: ...

"""Who is connected where."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

LIFETIME_SECONDS = 150.0
"""How long a user's entries last after the last `add`. Gateways add theirs again every minute."""


class Presence(Protocol):
    """For each user, the set of gateways that hold a session of theirs.

    A hint: entries may be missing or stale, and no decision that loses a row rests on it. A user's entries expire
    together, LIFETIME_SECONDS after the last of them was added. Every method raises PresenceUnavailable, within a
    second, when the store cannot be asked.
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

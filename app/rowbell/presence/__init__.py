"""Presence: which users are connected to which gateways."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

LIFETIME_SECONDS = 150.0
"""Seconds that a user's entries last after the latest `add`. Gateways add theirs again every minute."""


class Presence(Protocol):
    """For each user, the set of gateways that hold a session of theirs.

    It is only a hint: entries may be missing or stale, and no row is ever lost because of it. A user's entries expire
    together, LIFETIME_SECONDS after the latest of them was added. If the store cannot be reached, every method raises
    PresenceUnavailable within a second.
    """

    async def gateways_of(self, users: Collection[str]) -> dict[str, set[str]]:
        """Return user → gateways for `users`, in one round trip. Users without any are omitted."""
        ...

    async def add(self, gateway: str, users: Collection[str]) -> None:
        """Record that these users have a session at `gateway`, or extend their entries."""
        ...

    async def remove(self, gateway: str, users: Collection[str]) -> None:
        """Record that these users have no session at `gateway` any more."""
        ...

    async def close(self) -> None: ...

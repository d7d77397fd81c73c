"""The users whose tokens have been revoked, and the time before which.

All of it is in memory: a gateway reads `notification_revocation` when it starts, and with each sweep what was added.
"""

from __future__ import annotations

from collections.abc import Iterable

from rowbell.auth import Identity
from rowbell.inbox import Revocation


class Revocations:
    """The revocations known to one gateway, which owns it and feeds it from the sweep. Times are epoch seconds."""

    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        """Tracks user → the time, in epoch seconds, before which a token must not have been issued."""

    def learn(self, revocations: Iterable[Revocation]) -> bool:
        """Add these revocations, and return whether any of them is new."""
        is_news = False
        for user, before in revocations:
            if before > self._before.get(user, 0.0):
                self._before[user] = before
                is_news = True
        return is_news

    def refuse(self, identity: Identity) -> bool:
        """Whether this identity's token is revoked. Any revocation of the user covers a token without `iat`."""
        before = self._before.get(identity.user)
        return before is not None and (identity.issued_at is None or identity.issued_at < before)

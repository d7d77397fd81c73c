"""Whose tokens have been taken back, and up to when they were issued.

All of it is in memory: a gateway reads `notification_revocation` when it starts, and with each sweep what was added.
"""

from __future__ import annotations

from collections.abc import Iterable

from rowbell.auth import Identity
from rowbell.inbox import Revocation


class Revocations:
    def __init__(self) -> None:
        self._before: dict[str, float] = {}
        """Tracks user → tokens issued before this time, in seconds since the epoch, are refused."""

    def learn(self, revocations: Iterable[Revocation]) -> bool:
        """Is any of these news?"""
        is_news = False
        for user, before in revocations:
            if before > self._before.get(user, 0.0):
                self._before[user] = before
                is_news = True
        return is_news

    def refuse(self, identity: Identity) -> bool:
        """Was this identity's token taken back? One that does not say when it was issued (`iat`) is, with any other."""
        before = self._before.get(identity.user)
        return before is not None and (identity.issued_at is None or identity.issued_at < before)

"""Which feeds of this gateway are for which recipient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rowbell.gateway.feed import Feed
from rowbell.metrics import SUBSCRIPTIONS


class Registry:
    def __init__(self) -> None:
        self._feeds: dict[str, list[Feed]] = {}
        """Tracks recipient → its feeds, in the order of subscribing; no entry without a feed."""

    def add(self, feed: Feed) -> None:
        self._feeds.setdefault(feed.recipient, []).append(feed)
        SUBSCRIPTIONS.inc()

    def remove(self, feed: Feed) -> bool:
        """True if it was the recipient's last feed here."""
        feeds = self._feeds[feed.recipient]
        feeds.remove(feed)
        SUBSCRIPTIONS.dec()
        if not feeds:
            del self._feeds[feed.recipient]
        return not feeds

    def of(self, recipient: str) -> Iterable[Feed]:
        return tuple(self._feeds.get(recipient, ()))

    def recipients(self) -> frozenset[str]:
        return frozenset(self._feeds)

    def __contains__(self, recipient: str) -> bool:
        return recipient in self._feeds

    def __iter__(self) -> Iterator[Feed]:
        """Every feed there is now; the registry may change meanwhile."""
        return iter([feed for feeds in self._feeds.values() for feed in feeds])

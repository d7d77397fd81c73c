"""Which subscriptions of this gateway are for which recipient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from rowbell.gateway.badge import Badge
from rowbell.gateway.feed import Feed
from rowbell.metrics import SUBSCRIPTIONS


class HasRecipient(Protocol):
    @property
    def recipient(self) -> str: ...


Each = TypeVar("Each", bound=HasRecipient)


class ByRecipient(Generic[Each]):
    """Recipient → subscriptions of one kind, in the order of subscribing; no entry without one."""

    def __init__(self) -> None:
        self._each: dict[str, list[Each]] = {}

    def add(self, one: Each) -> None:
        self._each.setdefault(one.recipient, []).append(one)
        SUBSCRIPTIONS.inc()

    def remove(self, one: Each) -> None:
        those = self._each[one.recipient]
        those.remove(one)
        SUBSCRIPTIONS.dec()
        if not those:
            del self._each[one.recipient]

    def of(self, recipient: str) -> Iterable[Each]:
        return tuple(self._each.get(recipient, ()))

    def recipients(self) -> frozenset[str]:
        return frozenset(self._each)

    def __contains__(self, recipient: str) -> bool:
        return recipient in self._each

    def __iter__(self) -> Iterator[Each]:
        """Every one there is now; there may be others meanwhile."""
        return iter([one for those in self._each.values() for one in those])


class Registry:
    def __init__(self) -> None:
        self.feeds: ByRecipient[Feed] = ByRecipient()
        self.badges: ByRecipient[Badge] = ByRecipient()

    def recipients(self) -> frozenset[str]:
        return self.feeds.recipients() | self.badges.recipients()

    def __contains__(self, recipient: str) -> bool:
        return recipient in self.feeds or recipient in self.badges

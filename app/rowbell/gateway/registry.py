"""The subscriptions of this gateway, by recipient."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from rowbell.gateway.badge import Badge
from rowbell.gateway.feed import Feed
from rowbell.metrics import SUBSCRIPTIONS


class HasRecipient(Protocol):
    """A subscription to what is written for one recipient."""

    @property
    def recipient(self) -> str: ...


Each = TypeVar("Each", bound=HasRecipient)


class ByRecipient(Generic[Each]):
    """Recipient → subscriptions of one kind, in the order of subscribing. Recipients without any have no entry."""

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
        """Iterate over the present subscriptions; changes during the iteration do not affect it."""
        return iter([one for those in self._each.values() for one in those])


class Registry:
    """All open subscriptions of one gateway. `Gateway` adds and removes them; its other parts look them up."""

    def __init__(self) -> None:
        self.feeds: ByRecipient[Feed] = ByRecipient()
        self.badges: ByRecipient[Badge] = ByRecipient()

    def recipients(self) -> frozenset[str]:
        return self.feeds.recipients() | self.badges.recipients()

    def __contains__(self, recipient: str) -> bool:
        return recipient in self.feeds or recipient in self.badges

"""From dispatcher to gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from rowbell.notification import Change

EVERY_GATEWAY = ""
"""As a bundle's gateway: all of them."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Changes for one gateway (its id), or for EVERY_GATEWAY, in the order of the stream."""

    gateway: str
    changes: list[Change]


class Receiver(Protocol):
    """One gateway's end of the bus, for the life of one connection."""

    @property
    def gateway(self) -> str:
        """The id under which this receiver is reached: new with each connection, never used again."""
        ...

    def bundles(self) -> AsyncIterator[list[Change]]:
        """The changes of each bundle in the order of publishing. BusUnavailable when the connection is lost."""
        ...


class Bus(Protocol):
    """Carries bundles to gateways, each in order; what it loses the sweep delivers."""

    async def publish(self, bundles: Sequence[Bundle]) -> set[str]:
        """Returns when every bundle is confirmed; the result names the gateways that do not exist (any more).

        EVERY_GATEWAY is never among them. A bundle that a full queue refuses counts as done (the sweep delivers
        it). BusUnavailable when the bus is away or has not confirmed in 10 seconds: publish all of them again.
        """
        ...

    def receive(self) -> AbstractAsyncContextManager[Receiver]:
        """Connect under a new gateway id. BusUnavailable when the bus is away."""
        ...

    async def close(self) -> None: ...

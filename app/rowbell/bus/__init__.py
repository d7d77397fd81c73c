"""The bus, which carries changes from dispatchers to gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from rowbell.notification import Change

EVERY_GATEWAY = ""
"""The gateway id of a bundle for all gateways."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Changes for one gateway (its id), or for EVERY_GATEWAY, in the order of the stream."""

    gateway: str
    changes: list[Change]


class Receiver(Protocol):
    """One gateway's end of the bus, for the life of one connection."""

    @property
    def gateway(self) -> str:
        """The id under which this receiver is reached: new for each connection, never reused."""
        ...

    def bundles(self) -> AsyncIterator[list[Change]]:
        """Yield the changes of each bundle, in the order of publishing. BusUnavailable when the connection is lost."""
        ...


class Bus(Protocol):
    """Carries bundles to gateways, for each of them in order. The sweep delivers what the bus loses."""

    async def publish(self, bundles: Sequence[Bundle]) -> set[str]:
        """Publish the bundles, wait until all are confirmed, and return the ids of the gateways that do not exist (any
        more), never EVERY_GATEWAY.

        A bundle that a full queue refuses counts as confirmed; the sweep delivers it. BusUnavailable if the bus cannot
        be reached or has not confirmed within 10 seconds: publish all of them again.
        """
        ...

    def receive(self) -> AbstractAsyncContextManager[Receiver]:
        """Connect under a new gateway id for the duration of the context. BusUnavailable if the bus is unreachable."""
        ...

    async def close(self) -> None: ...

"""Sources of committed changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from rowbell.notification import Change

MAX_BATCH = 500
"""Maximum number of changes and dead records in a batch: they share one round trip to presence and one to the bus."""


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record of the stream that could not be decoded, unchanged, with the reason and its position."""

    key: bytes | None
    value: bytes | None
    reason: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes in stream order, and the records among them that could not be decoded."""

    changes: list[Change]
    dead: list[DeadRecord] = field(default_factory=list)
    position: object = None
    """Where the batch ends; opaque to everyone but the source."""


class ChangeSource(Protocol):
    """A stream of committed changes.

    It normally delivers the changes of one recipient in commit order, and each change at least once. The ledgers drop
    duplicates and late changes, and the sweep delivers missing ones, so no decision that could lose a row may rely on
    either property.
    """

    def batches(self) -> AsyncIterator[Batch]:
        """Yield non-empty batches until the source is closed. Reconnects by itself, for as long as it takes."""
        ...

    async def done(self, batch: Batch) -> None:
        """Report that `batch` has taken effect and need not be delivered again. Batches are reported in order."""
        ...

    async def close(self) -> None:
        """Stop; `batches()` ends."""
        ...

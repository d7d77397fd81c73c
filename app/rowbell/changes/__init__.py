"""Where committed changes come from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from rowbell.notification import Change

MAX_BATCH = 500
"""Changes and dead records in one batch at most: they share one round trip to presence and one to the bus."""


@dataclass(frozen=True, slots=True)
class DeadRecord:
    """A record of the stream that could not be decoded, as it came, with the reason and where it stood."""

    key: bytes | None
    value: bytes | None
    reason: str
    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes in the order of the stream, and the records among them that could not be decoded."""

    changes: list[Change]
    dead: list[DeadRecord] = field(default_factory=list)
    position: object = None
    """Where the batch ends; the source's own business."""


class ChangeSource(Protocol):
    """A stream of committed changes.

    Promises: changes of one recipient come in commit order, normally; each comes at least once, normally. The
    ledgers drop what comes again or late, and the sweep gives what does not come, so no decision that loses a
    row may rest on either.
    """

    def batches(self) -> AsyncIterator[Batch]:
        """Never empty batches, until the source is closed. Reconnects by itself, for as long as it takes."""
        ...

    async def done(self, batch: Batch) -> None:
        """The effect of `batch` stands: the source need not give it again. Batches are done in order."""
        ...

    async def close(self) -> None:
        """Stop; `batches()` ends."""
        ...

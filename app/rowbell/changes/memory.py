"""An in-memory stream of changes, for tests and for trying a dispatcher without Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from rowbell.changes import MAX_BATCH, Batch, DeadRecord
from rowbell.notification import Change


class MemoryLog:
    """The state that a broker would keep: the records, and the committed offset of the one consumer group."""

    def __init__(self) -> None:
        self.records: list[Change | DeadRecord] = []
        self.committed = 0
        """The position of the first unfinished record."""
        self._grown = asyncio.Event()

    def append(self, records: Iterable[Change | DeadRecord]) -> None:
        """Append to the stream."""
        self.records.extend(records)
        self._grown.set()

    async def wait_beyond(self, position: int) -> None:
        """Wait until there is a record at `position`."""
        while len(self.records) <= position:
            self._grown.clear()
            await self._grown.wait()


class MemoryChanges:
    """The ChangeSource of a MemoryLog. A new one on the same log starts at the first unfinished record."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._next = log.committed
        self._closed = asyncio.Event()

    async def batches(self) -> AsyncIterator[Batch]:
        while await self._more():
            records = self._log.records[self._next : self._next + MAX_BATCH]
            self._next += len(records)
            yield Batch(
                [record for record in records if isinstance(record, Change)],
                [record for record in records if isinstance(record, DeadRecord)],
                self._next,
            )

    async def done(self, batch: Batch) -> None:
        assert isinstance(batch.position, int)
        self._log.committed = max(self._log.committed, batch.position)

    async def close(self) -> None:
        self._closed.set()

    async def _more(self) -> bool:
        """Wait for the next record; return False when the source is closed."""
        if self._closed.is_set():
            return False
        if len(self._log.records) > self._next:
            return True
        grown = asyncio.ensure_future(self._log.wait_beyond(self._next))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({grown, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            grown.cancel()
            closed.cancel()
        return not self._closed.is_set()

"""The thread that owns the Kafka consumer: it reads, decodes, hands over, and stores the offsets of finished
batches.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from rowbell.changes import MAX_BATCH, Batch, DeadRecord
from rowbell.changes.debezium import decode
from rowbell.errors import UndecodableRecord
from rowbell.logs import get_logger
from rowbell.notification import Change

log = get_logger("changes.kafka")

MAX_UNFINISHED = 2
"""Batches that are handed over and not finished: one being processed, one decoded. With more, small batches would queue
up instead of growing into one, and each would add a round trip to the latency of those behind it."""
POLL_SECONDS = 0.1
"""How long the thread waits for a record before it checks for finished batches and for a stop request."""
PATIENCE_SECONDS = 0.5
"""How long the thread waits for a batch to finish before it pauses the partitions. Not at once, because a pause
discards what was prefetched."""

_UNREACHABLE = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
}


@dataclass(slots=True, eq=False)
class Handed:
    """A batch that was handed over and whose offsets are not stored yet."""

    ends: dict[int, int]
    """Partition → the offset after its last record in the batch."""
    done: bool = False


@dataclass(slots=True)
class End:
    """The end of the stream; `error` is the reason, unless it was requested."""

    error: BaseException | None = None


class ConsumerThread:
    """Owns the consumer. Other threads may call only the methods in the first section."""

    def __init__(
        self,
        settings: dict[str, str | int | bool],
        topic: str,
        hand_over: Callable[[Batch | End], None],
    ) -> None:
        self._thread = threading.Thread(target=self._run, name="kafka-consumer", daemon=True)
        self._settings = settings
        self._topic = topic
        self._hand_over = hand_over
        self._unfinished: deque[Handed] = deque()
        """Tracks batches in stream order; offsets are stored from the front only, so never past an unfinished
        record."""
        self._finished = threading.Event()
        self._stopping = threading.Event()
        self._revoked: set[int] = set()
        """Tracks partitions lost while the current batch was being read."""
        self._paused = False
        """Tracks whether all assigned partitions are paused."""
        self._troubles: set[str] = set()
        """Tracks the kinds of trouble logged since Kafka was last healthy."""
        self._fatal: KafkaError | None = None

    # For other threads

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end; return False if it is still running after `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self, handed: Handed) -> None:
        """Mark a batch as finished, so that its offsets are stored."""
        handed.done = True
        self._finished.set()

    def stop(self) -> None:
        """Ask the thread to stop; does not wait."""
        self._stopping.set()
        self._finished.set()

    # The thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._consume()
        except Exception as problem:
            error = problem
        with contextlib.suppress(RuntimeError):  # the event loop is closed, so nobody is waiting
            self._hand_over(End(error))

    def _consume(self) -> None:
        self._consumer = Consumer(self._settings | {"error_cb": self._complain})
        try:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping.is_set():
                self._turn()
            self._store()
        finally:
            self._consumer.close()

    def _turn(self) -> None:
        self._finished.clear()
        self._store()
        if sum(not handed.done for handed in self._unfinished) < MAX_UNFINISHED:
            self._resume()
        elif not self._paused:
            if self._finished.wait(PATIENCE_SECONDS):
                return
            self._pause()
        # While paused this returns nothing, but keeps the consumer in its group.
        self._take(self._read())
        if self._fatal is not None:
            raise KafkaException(self._fatal)

    def _read(self) -> list[Message]:
        """Return the available records.

        `consume(n, t)` alone would wait for n records or the whole of t, so a single record would take a second.
        """
        self._revoked.clear()
        first = self._consumer.poll(POLL_SECONDS)
        return [] if first is None else [first, *self._consumer.consume(MAX_BATCH - 1, 0)]

    def _take(self, messages: Iterable[Message]) -> None:
        """Decode and hand over; a batch without changes or dead records is finished at once, in its turn."""
        reading = _Reading()
        for message in messages:
            if (error := message.error()) is not None:
                self._complain(error)
            elif message.partition() not in self._revoked:
                reading.add(message)
        if not reading.ends:
            return
        self._well()
        handed = Handed(reading.ends, done=not (reading.changes or reading.dead))
        self._unfinished.append(handed)
        if not handed.done:
            self._hand_over(Batch(reading.changes, reading.dead, handed))

    # Offsets

    def _store(self) -> None:
        while self._unfinished and self._unfinished[0].done:
            self._store_ends(self._unfinished.popleft().ends)

    def _store_ends(self, ends: dict[int, int]) -> None:
        offsets = [TopicPartition(self._topic, partition, offset) for partition, offset in ends.items()]
        try:
            if offsets:
                self._consumer.store_offsets(offsets=offsets)
        except (
            KafkaException
        ) as error:  # the partition was reassigned: its records are delivered again, to another member
            log.warning("offsets_not_stored", partitions=list(ends), reason=cause(error).str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Add these partitions, and pause them if the others are paused.

        librdkafka remembers whether a partition was paused, even while another member owned it.
        """
        consumer.incremental_assign(
            partitions
        )  # otherwise done after this callback, and only assigned partitions can be paused
        if self._paused:
            consumer.pause(partitions)
        else:
            consumer.resume(partitions)
        self._revoked.difference_update(each.partition for each in partitions)
        self._well()
        log.info("partitions_assigned", partitions=[each.partition for each in partitions])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Commit finished batches, then give the partitions up. Unfinished batches are delivered again, to the next
        owner.
        """
        self._store()
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            if cause(error).code() != KafkaError._NO_OFFSET:
                log.warning("commit_failed", reason=cause(error).str())
        self._forget(partitions)
        log.info("partitions_revoked", partitions=[each.partition for each in partitions])

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget partitions that another member already owns: storing an offset would rewind it."""
        self._forget(partitions)
        log.warning("partitions_lost", partitions=[each.partition for each in partitions])

    def _forget(self, partitions: list[TopicPartition]) -> None:
        for lost in partitions:
            self._revoked.add(lost.partition)
            for handed in self._unfinished:
                handed.ends.pop(lost.partition, None)

    # Backpressure

    def _pause(self) -> None:
        self._consumer.pause(self._consumer.assignment())
        self._paused = True

    def _resume(self) -> None:
        if self._paused:
            self._consumer.resume(self._consumer.assignment())
            self._paused = False

    # Trouble

    def _complain(self, error: KafkaError) -> None:
        """Log each kind of trouble once until Kafka is healthy again; librdkafka retries by itself."""
        if error.fatal():
            self._fatal = error
        trouble = "kafka_unreachable" if error.code() in _UNREACHABLE else "kafka_trouble"
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            log.warning(trouble, topic=self._topic, error=error.name(), reason=error.str())

    def _well(self) -> None:
        if self._troubles:
            self._troubles.clear()
            log.info("kafka_well", topic=self._topic)


@dataclass(slots=True)
class _Reading:
    """The records of one batch, decoded one by one, so that a bad one does not affect the others."""

    changes: list[Change] = field(default_factory=list)
    dead: list[DeadRecord] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def add(self, message: Message) -> None:
        """Decode a record and add it."""
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        self.ends[partition] = offset + 1
        try:
            change = decode(message.value())
        except UndecodableRecord as problem:
            self.dead.append(
                DeadRecord(message.key(), message.value(), str(problem), message.topic() or "", partition, offset)
            )
            return
        if change is not None:
            self.changes.append(change)


def cause(error: KafkaException) -> KafkaError:
    """Return the KafkaError that the exception wraps."""
    first = error.args[0]
    assert isinstance(first, KafkaError)
    return first

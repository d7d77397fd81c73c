"""The thread that owns the Kafka consumer: it reads, decodes, hands over, and stores offsets of what is done."""

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
"""Batches handed over and not done: one in work, one decoded. With more, small batches queue up behind each other
instead of growing into one: each would add a whole round trip to the latency of those behind it."""
POLL_SECONDS = 0.1
"""How long the owner waits for a record before it looks at what is done, and whether to stop."""
PATIENCE_SECONDS = 0.5
"""How long the owner waits for a batch to be done before it pauses the partitions. Not at once: a pause throws
away what was fetched ahead."""

_UNREACHABLE = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._TIMED_OUT,
}


@dataclass(slots=True, eq=False)
class Handed:
    """A batch that was handed over, until its offsets are stored."""

    ends: dict[int, int]
    """Partition → the offset after its last record in the batch."""
    done: bool = False


@dataclass(slots=True)
class End:
    """Nothing comes after this; `error` says why, if it was not asked for."""

    error: BaseException | None = None


class ConsumerThread:
    """Owns the consumer. What other threads may call stands first; all else is the thread's own."""

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
        """In the order of the stream; offsets are stored from the front only, so never past an unfinished record."""
        self._finished = threading.Event()
        self._stopping = threading.Event()
        self._revoked: set[int] = set()
        """Partitions lost while the batch at hand was read."""
        self._paused = False
        """Tracks whether all that is assigned is paused."""
        self._troubles: set[str] = set()
        """What has been complained about since Kafka was last well."""
        self._fatal: KafkaError | None = None

    # For other threads

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the end; False if it has not come by then."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self, handed: Handed) -> None:
        handed.done = True
        self._finished.set()

    def stop(self) -> None:
        self._stopping.set()
        self._finished.set()

    # The thread

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._consume()
        except Exception as problem:
            error = problem
        with contextlib.suppress(RuntimeError):  # the event loop is gone: nobody is left to tell
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
        # While paused this gives nothing, and keeps the consumer in its group.
        self._take(self._read())
        if self._fatal is not None:
            raise KafkaException(self._fatal)

    def _read(self) -> list[Message]:
        """What there is: `consume(n, t)` alone would wait for n records or all of t, a second for a lone one."""
        self._revoked.clear()
        first = self._consumer.poll(POLL_SECONDS)
        return [] if first is None else [first, *self._consumer.consume(MAX_BATCH - 1, 0)]

    def _take(self, messages: Iterable[Message]) -> None:
        """Decode and hand over; a batch of which nothing is left is done at once, in its turn."""
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
        except KafkaException as error:  # a partition is not ours any more: its records come again, elsewhere
            log.warning("offsets_not_stored", partitions=list(ends), problem=cause(error).str())

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Take these in addition, and pause them if the others are. librdkafka remembers of each partition whether it
        was paused, also while another member had it."""
        consumer.incremental_assign(partitions)  # it would come after this, and what is not assigned cannot be paused
        if self._paused:
            consumer.pause(partitions)
        else:
            consumer.resume(partitions)
        self._revoked.difference_update(each.partition for each in partitions)
        self._well()
        log.info("partitions_assigned", partitions=[each.partition for each in partitions])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Give them up with all that is done committed; what is not done comes again, to their next owner."""
        self._store()
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            if cause(error).code() != KafkaError._NO_OFFSET:
                log.warning("commit_failed", problem=cause(error).str())
        self._forget(partitions)
        log.info("partitions_revoked", partitions=[each.partition for each in partitions])

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """They belong to another member already: storing an offset would set it back."""
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
        """Log each kind of trouble once until Kafka is well again; librdkafka tries again by itself."""
        if error.fatal():
            self._fatal = error
        trouble = "kafka_unreachable" if error.code() in _UNREACHABLE else "kafka_trouble"
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            log.warning(trouble, topic=self._topic, error=error.name(), problem=error.str())

    def _well(self) -> None:
        if self._troubles:
            self._troubles.clear()
            log.info("kafka_well", topic=self._topic)


@dataclass(slots=True)
class _Reading:
    """The records of one batch, decoded one by one: a bad one does not spoil the others."""

    changes: list[Change] = field(default_factory=list)
    dead: list[DeadRecord] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)

    def add(self, message: Message) -> None:
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
    """What the exception is about."""
    first = error.args[0]
    assert isinstance(first, KafkaError)
    return first

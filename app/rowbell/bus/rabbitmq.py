"""The bus over RabbitMQ: one queue per gateway behind the exchange `notifications`, and one exchange to all queues.

Connections are plain ones (`aio_pika.connect`), not robust ones. When one is lost, this module raises BusUnavailable
and its user retries: the dispatcher publishes its batch again, the gateway reconnects under a new id.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aio_pika
import msgspec
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import AMQPError, DeliveryError
from aiormq.abc import AbstractChannel as WireChannel
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from rowbell.bus import EVERY_GATEWAY, Bundle
from rowbell.config import hide_password
from rowbell.errors import BusUnavailable
from rowbell.logs import get_logger
from rowbell.notification import Change

log = get_logger("bus.rabbitmq")

EXCHANGE = "notifications"
"""A direct exchange: the routing key is the gateway's id, which is also the name of its queue."""
EXCHANGE_TO_ALL = "notifications.all"
"""A fan-out exchange, for EVERY_GATEWAY."""
QUEUE_BYTES = 64 * 1024 * 1024
"""Bytes that may wait for one gateway. Beyond that the broker refuses bundles, and the sweep delivers them."""
PREFETCH = 16
"""Unacknowledged bundles on their way to a gateway. Without acknowledgements the broker would push everything into the
gateway's memory at once, and QUEUE_BYTES would bound nothing."""
CONFIRM_SECONDS = 10.0
CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
HEARTBEAT_SECONDS = 3
"""aiormq gives up on a silent broker after three heart-beats and three seconds: 12 s. The broker gives up after two."""

VERSION = b"\x01"
"""The first byte of a bundle, before a MessagePack array of `Change`. Members may be appended to `Change` without a new
version, because missing ones take their defaults and unknown ones are skipped."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Change]).decode

_LOST = (AMQPError, OSError, RuntimeError, asyncio.CancelledError, asyncio.InvalidStateError)
"""The errors of a connection or channel that is lost or too slow (TimeoutError is an OSError). RuntimeError, because
aiormq's ChannelInvalidStateError is one; CancelledError, because aiormq cancels what waits on a lost connection."""


def encode_bundle(changes: list[Change]) -> bytes:
    """Encode changes for the wire."""
    return VERSION + _encode(changes)


def decode_bundle(body: bytes) -> list[Change]:
    """Decode the changes of a bundle. ValueError if it has another version or is damaged."""
    if body[:1] != VERSION:
        raise ValueError(f"a bundle must begin with the version {VERSION!r}, but this one begins with {body[:1]!r}")
    try:
        return _decode(memoryview(body)[1:])
    except msgspec.MsgspecError as error:
        raise ValueError(f"the bundle is damaged: {error}") from error


class RabbitMQBus:
    """The bus that processes share. It connects when first used, and keeps the connection for publishing open."""

    def __init__(self, url: str, queue_bytes: int = QUEUE_BYTES) -> None:
        self._url = URL(url).update_query(heartbeat=str(HEARTBEAT_SECONDS))
        self._where = hide_password(url)
        self._queue_bytes = queue_bytes
        self._publisher: _Publisher | None = None
        self._opening = asyncio.Lock()

    # Publishing

    async def publish(self, bundles: Sequence[Bundle]) -> set[str]:
        bodies = [encode_bundle(bundle.changes) for bundle in bundles]
        try:
            with self._telling_losses():
                async with asyncio.timeout(CONFIRM_SECONDS):
                    return _undeliverable(bundles, await self._publish_all(bundles, bodies))
        except BaseException:
            await self._drop_publisher()
            raise

    async def close(self) -> None:
        await self._drop_publisher()

    async def _publish_all(self, bundles: Sequence[Bundle], bodies: list[bytes]) -> list[bool | BaseException]:
        """Publish the bundles in order, and wait for all confirms together. Return one outcome for each bundle."""
        publisher = await self._open_publisher()
        # `gather` gives each a task of its own, so that a cancellation by aiormq is an outcome, not our cancellation.
        return await asyncio.gather(
            *(publisher.publish(bundle.gateway, body) for bundle, body in zip(bundles, bodies, strict=True)),
            return_exceptions=True,
        )

    async def _open_publisher(self) -> _Publisher:
        async with self._opening:
            if self._publisher is None or self._publisher.closed:
                await self._drop_publisher()
                connection = await self._connect("rowbell dispatcher")
                self._publisher = await _Publisher.on(connection)
            return self._publisher

    async def _drop_publisher(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await _close(publisher.connection)

    # Receiving

    @asynccontextmanager
    async def receive(self) -> AsyncIterator[RabbitMQReceiver]:
        with self._telling_losses():
            connection = await self._connect("rowbell gateway")
        try:
            with self._telling_losses():
                async with asyncio.timeout(CONNECT_SECONDS):
                    receiver = await self._open_receiver(connection)
            yield receiver
        finally:
            await _close(connection)

    async def _open_receiver(self, connection: AbstractConnection) -> RabbitMQReceiver:
        channel = await connection.channel(publisher_confirms=False)
        receiver = RabbitMQReceiver(await channel.get_underlay_channel(), self._where)
        channel.close_callbacks.add(receiver.lost)
        await self._declare_queue(channel, receiver.gateway)
        await receiver.consume()
        return receiver

    async def _declare_queue(self, channel: AbstractChannel, gateway: str) -> None:
        """Declare an exclusive queue: it is deleted with its connection, so that later bundles for it are returned."""
        queue = await channel.declare_queue(
            gateway,
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length-bytes": self._queue_bytes, "x-overflow": "reject-publish"},
        )
        direct, to_all = await _declare_exchanges(channel)
        await queue.bind(direct, gateway)
        await queue.bind(to_all)

    # Both

    async def _connect(self, name: str) -> AbstractConnection:
        return await aio_pika.connect(self._url, timeout=CONNECT_SECONDS, client_properties={"connection_name": name})

    @contextlib.contextmanager
    def _telling_losses(self) -> Iterator[None]:
        """Turn the loss of a connection into BusUnavailable, but let our own cancellation pass."""
        try:
            yield
        except _LOST as error:
            if _is_our_cancellation(error):
                raise
            raise BusUnavailable(f"RabbitMQ at {self._where}: {str(error) or type(error).__name__}") from error


@dataclass(slots=True)
class _Publisher:
    """A connection for publishing with confirms."""

    connection: AbstractConnection
    channel: AbstractChannel
    direct: AbstractExchange
    to_all: AbstractExchange
    refusing: set[str]
    """Gateways whose queue was full at the last publish. Each is logged when it becomes full."""

    @classmethod
    async def on(cls, connection: AbstractConnection) -> _Publisher:
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=False)
            direct, to_all = await _declare_exchanges(channel)
        except BaseException:
            await _close(connection)
            raise
        return cls(connection, channel, direct, to_all, set())

    @property
    def closed(self) -> bool:
        return self.connection.is_closed or self.channel.is_closed

    async def publish(self, gateway: str, body: bytes) -> bool:
        """Publish a bundle; return whether the gateway's queue exists. If it is full, that gateway's sweep delivers."""
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.NOT_PERSISTENT)
        exchange = self.to_all if gateway == EVERY_GATEWAY else self.direct
        try:
            answer = await exchange.publish(message, gateway, mandatory=gateway != EVERY_GATEWAY)
        except DeliveryError:
            if gateway not in self.refusing:
                self.refusing.add(gateway)
                log.warning("queue_full", gateway=gateway or "every")
            return True
        self.refusing.discard(gateway)
        return isinstance(answer, Basic.Ack)


class RabbitMQReceiver:
    """One gateway's queue, for the life of its connection."""

    def __init__(self, channel: WireChannel, where: str) -> None:
        self.gateway = f"gateway-{secrets.token_hex(8)}"
        self._channel = channel
        self._where = where
        self._messages: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        """Tracks received bundles, at most PREFETCH, in order; None follows the last one."""
        self._unacknowledged = 0

    async def consume(self) -> None:
        # The underlying channel of aiormq: it starts one task per message, aio_pika's would start two.
        self._channel.on_consumer_cancel_callbacks.add(self.lost)
        await self._channel.basic_qos(prefetch_count=PREFETCH)
        await self._channel.basic_consume(self.gateway, self._on_message)

    def lost(self, *_: object) -> None:
        """The connection, the channel or the queue is gone."""
        self._messages.put_nowait(None)

    async def bundles(self) -> AsyncIterator[list[Change]]:
        while (message := await self._messages.get()) is not None:
            await self._acknowledge(message)
            try:
                changes = decode_bundle(message.body)
            except ValueError as problem:
                log.error("bundle_unreadable", reason=str(problem))
            else:
                yield changes
            # `get` does not suspend while the queue is not empty: let the sockets be served between bundles.
            await asyncio.sleep(0)
        raise BusUnavailable(f"RabbitMQ at {self._where}: the connection of {self.gateway} is lost")

    async def _on_message(self, message: DeliveredMessage) -> None:
        # aiormq starts a task for each message. They begin in order and never suspend here, so the order is kept.
        self._messages.put_nowait(message)

    async def _acknowledge(self, message: DeliveredMessage) -> None:
        """Acknowledge bundles in groups, and at the latest when no other waits: RabbitMQ closes a channel on which a
        bundle stays unacknowledged for half an hour. Unacknowledged bundles disappear with the queue.
        """
        self._unacknowledged += 1
        due = self._unacknowledged >= PREFETCH // 2 or self._messages.empty()
        if due and message.delivery_tag is not None:
            self._unacknowledged = 0
            with contextlib.suppress(AMQPError, OSError, RuntimeError):  # `lost` reports it through the queue
                await self._channel.basic_ack(message.delivery_tag, multiple=True, wait=False)


async def _declare_exchanges(channel: AbstractChannel) -> tuple[AbstractExchange, AbstractExchange]:
    """Declare both exchanges. Dispatchers and gateways do so, and whichever is first creates them."""
    return (
        await channel.declare_exchange(EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True),
        await channel.declare_exchange(EXCHANGE_TO_ALL, aio_pika.ExchangeType.FANOUT, durable=True),
    )


def _undeliverable(bundles: Sequence[Bundle], outcomes: Sequence[bool | BaseException]) -> set[str]:
    """Return the gateways whose bundles came back. Raises the first failure among the outcomes."""
    gone = set()
    for bundle, outcome in zip(bundles, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        if not outcome:
            gone.add(bundle.gateway)
    return gone


async def _close(connection: AbstractConnection) -> None:
    """Close a connection within CLOSE_SECONDS, ignoring errors: a hanging broker does not answer."""
    try:
        # Awaited here, not in a task of its own: if cancelled twice, aiormq's close never ends.
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close()
    except _LOST as error:
        if _is_our_cancellation(error):
            raise


def _is_our_cancellation(error: BaseException) -> bool:
    """Whether the current task was cancelled, rather than aiormq having cancelled what it waits on."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0

"""What RabbitMQ adds: connections that break, a broker that hangs or restarts, a format on the wire."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import aio_pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from rowbell.bus import Bundle
from rowbell.bus.rabbitmq import CONFIRM_SECONDS, EXCHANGE, RabbitMQBus, decode_bundle, encode_bundle
from rowbell.errors import BusUnavailable
from rowbell.notification import Change
from stack import Stack
from tests.bus.traffic import DELETION, HIDDEN, INCOMPLETE, SOON, change, changes, take
from tests.integration.proxy import Proxy


@pytest.fixture
async def link(stack: Stack) -> AsyncIterator[Proxy]:
    """A way to RabbitMQ that can be cut."""
    async with Proxy(stack.ports["STACK_RABBITMQ_PORT"]) as proxy:
        yield proxy


@pytest.fixture
async def linked(stack: Stack, link: Proxy) -> AsyncIterator[RabbitMQBus]:
    """A bus that goes that way."""
    bus = RabbitMQBus(str(URL(stack.settings_env["ROWBELL_RABBITMQ_URL"]).with_port(link.port)))
    yield bus
    await bus.close()


# ---- The format ----


def test_a_bundle_survives_the_wire() -> None:
    sent = [change(1), DELETION, INCOMPLETE, HIDDEN]

    assert decode_bundle(encode_bundle(sent)) == sent


@given(st.binary())
def test_any_other_body_is_refused(body: bytes) -> None:
    try:
        decoded = decode_bundle(b"\x01" + body)
    except ValueError:
        return
    assert all(isinstance(each, Change) for each in decoded)


def test_a_bundle_of_another_version_is_refused_by_its_first_byte() -> None:
    with pytest.raises(ValueError, match=r"this one begins with b'\\x02'"):
        decode_bundle(b"\x02" + encode_bundle([change(1)])[1:])


def test_members_that_a_later_release_adds_are_skipped() -> None:
    later = b"\x01\x91\x9b" + encode_bundle([change(1)])[3:] + b"\xa3new" + b"\xc0"

    assert decode_bundle(later) == [change(1)]


async def test_a_body_that_cannot_be_read_does_not_end_the_bundles(stack: Stack, rabbitmq: RabbitMQBus) -> None:
    async with (
        rabbitmq.receive() as receiver,
        await aio_pika.connect(stack.settings_env["ROWBELL_RABBITMQ_URL"]) as connection,
    ):
        channel = await connection.channel()
        exchange = await channel.get_exchange(EXCHANGE)
        await exchange.publish(aio_pika.Message(b"\x02what comes next year"), receiver.gateway)
        await rabbitmq.publish([Bundle(receiver.gateway, changes([1]))])

        assert await take(receiver, 1) == [changes([1])]


# ---- Acknowledgements ----


@pytest.mark.parametrize("quantity", [1, 7, 8, 20])
async def test_a_gateway_that_took_everything_owes_no_acknowledgement(quantity: int, rabbitmq: RabbitMQBus) -> None:
    """RabbitMQ closes the channel of a consumer that owes one for half an hour, as a quiet gateway would."""
    async with rabbitmq.receive() as receiver:
        # given
        await rabbitmq.publish([Bundle(receiver.gateway, changes([id])) for id in range(quantity)])
        await take(receiver, quantity)
        # when what is not acknowledged is asked for again
        await receiver._channel.basic_recover(requeue=True)
        # then nothing comes before what is published next
        await rabbitmq.publish([Bundle(receiver.gateway, changes([quantity]))])
        assert await take(receiver, 1) == [changes([quantity])]


# ---- Broken links ----


async def test_a_receiver_whose_connection_is_lost_says_so(linked: RabbitMQBus, link: Proxy) -> None:
    async with linked.receive() as receiver:
        taking = asyncio.create_task(take(receiver, 1))
        await asyncio.sleep(0)

        link.cut()

        with pytest.raises(BusUnavailable, match=receiver.gateway):
            await taking


async def test_a_receiver_whose_queue_is_deleted_says_so(stack: Stack, rabbitmq: RabbitMQBus) -> None:
    async with rabbitmq.receive() as receiver:
        # From its own connection: to all others an exclusive queue is locked.
        await receiver._channel.queue_delete(receiver.gateway)

        with pytest.raises(BusUnavailable):
            await take(receiver, 1)


async def test_a_publisher_whose_connection_is_lost_publishes_over_another(
    linked: RabbitMQBus, link: Proxy, rabbitmq: RabbitMQBus
) -> None:
    async with rabbitmq.receive() as receiver:
        await linked.publish([Bundle(receiver.gateway, changes([1]))])
        link.cut()

        await publish_until_confirmed(linked, Bundle(receiver.gateway, changes([2])))

        assert await take(receiver, 2) == [changes([1]), changes([2])]
    assert link.accepted == 2


async def publish_until_confirmed(bus: RabbitMQBus, bundle: Bundle) -> None:
    async with asyncio.timeout(SOON):
        while True:
            try:
                assert await bus.publish([bundle]) == set()
                return
            except BusUnavailable:
                await asyncio.sleep(0.05)


async def test_a_broker_that_is_not_there_is_told_without_the_password() -> None:
    bus = RabbitMQBus("amqp://rowbell:s3cret@127.0.0.1:1/")

    with pytest.raises(BusUnavailable) as publishing:
        await bus.publish([Bundle("gateway", changes([1]))])
    with pytest.raises(BusUnavailable) as receiving:
        async with bus.receive():
            pass

    for error in (publishing, receiving):
        assert "127.0.0.1:1" in str(error.value)
        assert "s3cret" not in str(error.value)


async def test_a_wrong_password_is_told(stack: Stack) -> None:
    bus = RabbitMQBus(str(URL(stack.settings_env["ROWBELL_RABBITMQ_URL"]).with_password("wrong")))

    with pytest.raises(BusUnavailable, match="ACCESS_REFUSED"):
        await bus.publish([Bundle("gateway", changes([1]))])


async def test_a_broker_that_hangs_is_given_up_after_ten_seconds_and_found_again(
    stack: Stack, rabbitmq: RabbitMQBus
) -> None:
    assert await rabbitmq.publish([Bundle("gateway-x", changes([1]))]) == {"gateway-x"}
    stack.kill("rabbitmq", signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(BusUnavailable):
            await rabbitmq.publish([Bundle("gateway-x", changes([1]))])
        took = time.monotonic() - began
    finally:
        stack.kill("rabbitmq", signal.SIGCONT)

    assert CONFIRM_SECONDS - 1 < took < CONFIRM_SECONDS + 5
    async with rabbitmq.receive() as receiver:
        await publish_until_confirmed(rabbitmq, Bundle(receiver.gateway, changes([2])))
        assert await take(receiver, 1) == [changes([2])]


async def test_a_receiver_notices_a_broker_that_hangs(stack: Stack, rabbitmq: RabbitMQBus) -> None:
    async with rabbitmq.receive() as receiver:
        stack.kill("rabbitmq", signal.SIGSTOP)
        try:
            with pytest.raises(BusUnavailable):
                await take(receiver, 1)
        finally:
            stack.kill("rabbitmq", signal.SIGCONT)


async def test_a_cancelled_publish_is_cancelled_and_not_called_a_loss(stack: Stack, rabbitmq: RabbitMQBus) -> None:
    await rabbitmq.publish([Bundle("gateway-x", changes([1]))])
    stack.kill("rabbitmq", signal.SIGSTOP)
    try:
        publishing = asyncio.create_task(rabbitmq.publish([Bundle("gateway-x", changes([1]))]))
        await asyncio.wait({publishing}, timeout=0.2)
        publishing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await publishing
    finally:
        stack.kill("rabbitmq", signal.SIGCONT)

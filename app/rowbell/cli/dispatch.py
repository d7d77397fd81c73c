"""`rowbell dispatch`: runs a dispatcher, which moves changes from Kafka to RabbitMQ with the help of Redis."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rowbell.config import Settings

if TYPE_CHECKING:
    from rowbell.dispatch.dispatcher import Dispatcher

STOP_SECONDS = 10.0
"""How long a stop may take. Then the current batch is abandoned, and delivered again to another dispatcher."""

EXAMPLE = """\
example:
  . .rowbell/env
  rowbell dispatch

Run up to as many as the topic has partitions, which they share. After an asynchronous failover of PostgreSQL that lost
transactions, stop them all and start one with --from-end: gateways read from the database what is skipped.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """`rowbell dispatch [--from-end]`."""
    parser = subparsers.add_parser(
        "dispatch",
        help="run a dispatcher, from Kafka to the gateways",
        description="Run one dispatcher until SIGTERM or Ctrl-C. It waits for Kafka, Redis and RabbitMQ.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--from-end", action="store_true", help="first move the consumer group to the end of the topic")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Dispatch until a signal arrives. Raises the error that ends the dispatcher."""
    import uvloop

    from rowbell import logs
    from rowbell.changes.kafka import skip_to_end

    settings.require("kafka_bootstrap_servers", "redis_url", "rabbitmq_url")
    logs.configure(settings)
    if args.from_end:
        ends = skip_to_end(str(settings.kafka_bootstrap_servers), settings.kafka_topic, settings.kafka_group)
        logs.get_logger("dispatch").info("skipped_to_end", topic=settings.kafka_topic, offsets=ends)
    uvloop.run(_dispatch(settings))
    return 0


async def _dispatch(settings: Settings) -> None:
    """Open the connections, run, and close them in reverse order."""
    from contextlib import AsyncExitStack

    from rowbell import metrics
    from rowbell.bus.rabbitmq import RabbitMQBus
    from rowbell.changes.kafka import KafkaChanges
    from rowbell.dispatch.dead_letters import KafkaDeadLetters
    from rowbell.dispatch.dispatcher import Dispatcher
    from rowbell.presence.redis import RedisPresence

    metrics.serve(settings)
    servers = str(settings.kafka_bootstrap_servers)
    async with AsyncExitStack() as opened:
        presence = RedisPresence(str(settings.redis_url))
        opened.push_async_callback(presence.close)
        bus = RabbitMQBus(str(settings.rabbitmq_url))
        opened.push_async_callback(bus.close)
        dead_letters = KafkaDeadLetters(servers, settings.kafka_dead_letter_topic)
        opened.push_async_callback(dead_letters.close)
        changes = KafkaChanges(servers, settings.kafka_topic, settings.kafka_group)
        opened.push_async_callback(changes.close)
        await _run_until_signal(Dispatcher(changes, presence, bus, dead_letters))


async def _run_until_signal(dispatcher: Dispatcher) -> None:
    """Run until SIGTERM or SIGINT, then finish the current batch, within STOP_SECONDS. Raises the error that ends the
    dispatcher.
    """
    import asyncio
    import signal

    from rowbell.logs import get_logger

    log = get_logger("dispatch")
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    running = asyncio.create_task(dispatcher.run(), name="dispatcher")
    waiting = asyncio.create_task(signalled.wait(), name="signal")
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        return running.result()
    log.info("stopping", seconds=STOP_SECONDS)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await dispatcher.stop()
            await running
    except TimeoutError:
        log.warning("stopped_within_a_batch", effect="the batch is delivered again, to another dispatcher")
        running.cancel()

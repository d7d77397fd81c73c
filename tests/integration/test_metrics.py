"""What a gateway counts of the changes that it gives to clients, in every mode."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.integration.processes import Gateway
from tests.integration.rows import Database, insert
from tests.integration.systems import System

TIMED, SECONDS = "rowbell_commit_to_socket_seconds_count", "rowbell_commit_to_socket_seconds_sum"
ROUNDING = 0.001
"""Seconds: Debezium tells the time of a commit in whole milliseconds."""


def given(gateway: Gateway) -> dict[str, float]:
    """How many changes, by how they came, and how many of them were timed."""
    ways = {by: gateway.metric("rowbell_events_total", by=by) for by in ("live", "replayed", "rescued")}
    return ways | {"timed": gateway.metric(TIMED)}


async def test_a_live_change_is_timed_from_its_commit_and_a_replayed_one_is_not(
    system: System, database: Database, user: Callable[[str], str]
) -> None:
    alice, gateway = user("alice"), system.gateway(0)
    earlier = await insert(database, alice)
    at_first = given(gateway)
    async with system.subscriber(alice, reconnect=False) as client:
        # Then what was there is replayed
        await client.until(lambda: earlier in client.seen, "the earlier row")
        replayed = given(gateway)
        assert replayed == at_first | {"replayed": at_first["replayed"] + 1}

        # When another one comes live
        seconds, began = gateway.metric(SECONDS), time.time()
        id = await insert(database, alice)
        await client.until(lambda: id in client.seen, "the row")
        took = time.time() - began

        # Then it is counted, and its time began with the commit and ended before the client had it
        assert given(gateway) == replayed | {"live": replayed["live"] + 1, "timed": replayed["timed"] + 1}
        assert 0 < gateway.metric(SECONDS) - seconds < took + ROUNDING

"""Retrying queries until PostgreSQL answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rowbell.backoff import backoff
from rowbell.errors import DatabaseUnavailable
from rowbell.logs import get_logger

log = get_logger("gateway.retry")

Result = TypeVar("Result")


async def until_answered(query: Callable[[], Awaitable[Result]]) -> Result:
    """Return the query's result. On DatabaseUnavailable it is run again, without end and with growing pauses."""
    delays = backoff()
    while True:
        try:
            return await query()
        except DatabaseUnavailable as error:
            log.warning("query_repeated", reason=str(error))
            await asyncio.sleep(next(delays))

"""One round of attacks, in a process of its own, so that the bystanders are not held up by them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from tests.fuzz import attacks
from tests.fuzz.connection import Outcome, carry_out

AT_ONCE = 48
"""Connections at a time: two processors are busy with fewer, and many of these only wait."""


@dataclass(frozen=True)
class Order:
    seed: int
    addresses: Sequence[tuple[str, int]]
    seconds: float
    grace: float
    """Seconds after which connections are broken off that are not at their end."""


@dataclass
class Tally:
    """What became of a round."""

    connections: int = 0
    sent: int = 0
    received: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    """How connections ended: close code, or HTTP status, or neither."""
    findings: list[Outcome] = field(default_factory=list)
    """Those with problems."""
    spans: list[tuple[float, float, int]] = field(default_factory=list)
    """When each connection began and ended, and its seed."""

    def add(self, outcome: Outcome) -> None:
        self.connections += 1
        self.sent += outcome.sent
        self.received += outcome.received
        refusals = [str(status) for status in outcome.statuses if status != 101]
        self.codes[str(outcome.code or (refusals and refusals[-1]) or "none")] += 1
        self.spans.append((outcome.began, outcome.ended, outcome.seed))
        if outcome.problems:
            self.findings.append(outcome)

    def merge(self, other: Tally) -> None:
        self.connections += other.connections
        self.sent += other.sent
        self.received += other.received
        self.codes += other.codes
        self.findings += other.findings
        self.spans = other.spans

    def during(self, at: float, before: float = 1.0) -> list[int]:
        """The seeds of the connections that were there at this moment."""
        return [seed for began, ended, seed in self.spans if began <= at and ended >= at - before]


def carry_out_round(order: Order) -> Tally:
    return asyncio.run(_round(order))


async def _round(order: Order) -> Tally:
    tally, r = Tally(), Random(order.seed)
    loop = asyncio.get_running_loop()
    until = loop.time() + order.seconds

    async def attack() -> None:
        while loop.time() < until:
            plan = attacks.plan(r.getrandbits(48), len(order.addresses))
            tally.add(await carry_out(plan, order.addresses[plan.target]))

    attackers = [loop.create_task(attack()) for _ in range(AT_ONCE)]
    _, late = await asyncio.wait(attackers, timeout=order.seconds + order.grace)
    for task in late:
        task.cancel()
    for result in await asyncio.gather(*attackers, return_exceptions=True):
        if isinstance(result, Exception):
            raise result  # a defect of the fuzzer
    return tally

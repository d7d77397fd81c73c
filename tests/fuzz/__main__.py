"""Attacks running gateways with everything that a hostile or broken client can send: `python -m tests.fuzz`.

Two real `rowbell serve` run beside a PostgreSQL, one as it comes, one without limits (`targets`). In rounds of half a
minute, some thousand connections do what chance tells them (`attacks`): dialogues of STOMP and plain JSON that are
right, nearly right or damaged (`grammar`, `mutation`), broken WebSocket frames and HTTP, bad tokens, and sockets that
fall silent, do not read, or end in the middle of anything. Rows are written meanwhile for the users whose sessions
these are, so that there is something to send, to acknowledge and to mark as read.

It ends with 1, and writes down the evidence, if

- a connection was closed with 1011, or without a close frame although the client kept to the WebSocket protocol, or was
  sent what no gateway may send: a broken frame, HTTP status 500, somebody else's row; or one that never says anything,
  or does not answer a close, was not thrown out;
- an error, a traceback, or a line that is no event stands in a gateway's log, or a gateway ended;
- after a round, when all attackers are gone, a connection, session, subscription or file descriptor is left, or memory
  has grown from round to round, or in a short run since the first one (`watch` has the bounds);
- a client that does nothing wrong, connected all the time, missed a row, got one twice or was disconnected, or another
  one could not come in between two rounds (`bystanders`).

A client that is refused by a limit is no failure.

Everything that a connection does is made from one number, its seed, before it begins. `--replay SEED` does it again,
alone, and shows what it sends and what became of it; the evidence names the seeds of all connections that were there
when something went wrong, and holds their steps. What depends on time (tokens, what chance brings between connections)
is not the same each time. `--seed` makes the same connections as another run.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg

from tests.fuzz import attacks
from tests.fuzz.assault import Order, Tally, carry_out_round
from tests.fuzz.bystanders import Control, trim, visit, write
from tests.fuzz.connection import carry_out
from tests.fuzz.targets import Target, Targets, targets
from tests.fuzz.watch import LEAST, Footprint, early_growth, growth
from tests.integration.processes import eventually
from tests.integration.rows import Database

ROUND = 25.0
"""Seconds of a round, unless the whole time is short: long enough for what waits to be thrown out."""
GRACE = 5.0
"""Seconds after that for connections to end by themselves."""
MANY = 40
"""Problems that are told, and plans that are written down with each; of more connections only the seeds."""


@dataclass
class Problem:
    what: str
    seeds: Sequence[int] = ()
    """Of the connections that may be to blame."""


@dataclass
class Run:
    """One run, from the start of the servers to the verdict."""

    seed: int
    seconds: float
    workers: int
    system: Targets
    keep_going: bool = False
    tally: Tally = field(default_factory=Tally)
    problems: list[Problem] = field(default_factory=list)
    rounds: int = 0
    in_first_round: int = 0
    """Connections."""
    sessions: int = 0
    """The most that a gateway was seen with."""

    async def run(self) -> None:
        began = time.monotonic()
        round_seconds = min(ROUND, self.seconds / 5)
        control = Control([each.gateway.url for each in self.system.each], self.system.database_url)
        async with await psycopg.AsyncConnection.connect(self.system.database_url, autocommit=True) as database:
            nobody = [each.footprint() for each in self.system.each]
            for device in control.devices:
                await device.__aenter__()
            await self._visit(database)
            at_rest = [
                await self._footprint_at_rest(each, own) for each, own in zip(self.system.each, nobody, strict=True)
            ]
            controlling = asyncio.create_task(control.run(), name="control")
            with ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn")) as pool:
                while (time.monotonic() - began < self.seconds or self.rounds < LEAST) and (
                    self.keep_going or not self.problems
                ):
                    await self._round(pool, database, at_rest, round_seconds)
                    self._say(time.monotonic() - began)
                    if controlling.done() or not all(each.gateway.alive for each in self.system.each):
                        break
            self._judge_early_growth()
            await self._end_control(control, controlling)
            for device in control.devices:
                await device.stop()
            self._judge_leftovers(
                [await each.come_to_rest(own) for each, own in zip(self.system.each, nobody, strict=True)]
            )
        for number, each in enumerate(self.system.each):
            if (code := each.gateway.stop()) != 0:
                self.problems.append(Problem(f"gateway {number} ended with {code}"))
        self._judge_logs()

    async def _round(self, pool: Executor, database: Database, at_rest: list[Footprint], seconds: float) -> None:
        self.rounds += 1
        r = Random(f"{self.seed} {self.rounds}")
        addresses = [each.address for each in self.system.each]
        grace = min(GRACE, seconds / 4)
        orders = [Order(r.getrandbits(48), addresses, seconds, grace) for _ in range(self.workers)]
        loop = asyncio.get_running_loop()
        attacking = [loop.run_in_executor(pool, carry_out_round, order) for order in orders]
        watching = asyncio.create_task(self._watch_sessions(), name="sessions")
        await write(r, database, seconds)
        tallies = await asyncio.gather(*attacking)
        watching.cancel()
        spans = []
        for tally in tallies:
            spans += tally.spans
            self.tally.merge(tally)
        self.tally.spans = spans
        self.in_first_round = self.in_first_round or self.tally.connections
        self._judge_findings()
        self._judge_logs()
        if self._judge_alive():
            await self._judge_rest(database, at_rest)

    async def _watch_sessions(self) -> None:
        while True:
            for each in self.system.each:
                sessions = await asyncio.to_thread(each.gateway.metric, "rowbell_sessions")
                self.sessions = max(self.sessions, int(sessions))
            await asyncio.sleep(1)

    async def _judge_rest(self, database: Database, at_rest: list[Footprint]) -> None:
        await trim(database)
        self._judge_leftovers(
            [await each.come_to_rest(own) for each, own in zip(self.system.each, at_rest, strict=True)]
        )
        for each in self.system.each:
            each.note_memory()
            if trend := growth(each.memory):
                self.problems.append(Problem(f"{each.gateway.log.stem}: {trend}"))
        await self._visit(database)

    async def _visit(self, database: Database) -> None:
        for number, each in enumerate(self.system.each):
            try:
                await visit(each.gateway.url, database, f"visitor-{self.rounds}-{number}")
            except AssertionError as error:
                self.problems.append(Problem(f"gateway {number} between two rounds: {error}", self._last_seeds()))

    async def _footprint_at_rest(self, target: Target, nobody: Footprint) -> Footprint:
        """With the control alone: its devices have a connection with two subscriptions at each gateway."""
        wanted = (nobody.connections + 1, nobody.sessions + 1, nobody.subscriptions + 2)

        async def calm() -> bool:
            now = await asyncio.to_thread(target.footprint)
            return (now.connections, now.sessions, now.subscriptions) == wanted

        await eventually("the visitors gone", calm)
        return target.footprint()

    async def _end_control(self, control: Control, controlling: asyncio.Task[None]) -> None:
        controlling.cancel()
        (result,) = await asyncio.gather(controlling, return_exceptions=True)
        if isinstance(result, Exception):
            self.problems.append(Problem(f"the control: {result or type(result)}", self._last_seeds()))
        print(f"The control got {control.rows} rows on each of {len(control.devices)} devices.")

    # Judging.

    def _judge_early_growth(self) -> None:
        connections = (self.tally.connections - self.in_first_round) / len(self.system.each)
        for each in self.system.each:
            if grown := early_growth(each.memory, connections):
                self.problems.append(Problem(f"{each.gateway.log.stem}: {grown}"))

    def _judge_findings(self) -> None:
        for outcome in self.tally.findings:
            for problem in outcome.problems:
                self.problems.append(
                    Problem(f"{outcome.attack} on gateway {outcome.target}: {problem}", [outcome.seed])
                )
        self.tally.findings.clear()

    def _judge_logs(self) -> None:
        for number, each in enumerate(self.system.each):
            for complaint in each.log.news():
                seeds = self._last_seeds() if complaint.at is None else self.tally.during(complaint.at)
                self.problems.append(Problem(f"gateway {number} logged: {complaint}", seeds))

    def _judge_alive(self) -> bool:
        """Do both still run?"""
        ended = [number for number, each in enumerate(self.system.each) if not each.gateway.alive]
        for number in ended:
            tail = self.system.each[number].gateway.tail()
            self.problems.append(Problem(f"gateway {number} ended: {tail}", self._last_seeds()))
        return not ended

    def _judge_leftovers(self, left: Sequence[str | None]) -> None:
        for number, each in enumerate(left):
            if each is not None:
                self.problems.append(Problem(f"gateway {number}: {each}", self._last_seeds()))

    def _last_seeds(self) -> list[int]:
        return [seed for _, _, seed in self.tally.spans]

    def _say(self, elapsed: float) -> None:
        codes = " ".join(f"{code}:{count}" for code, count in sorted(self.tally.codes.items()))
        memory = " ".join(f"{each.memory[-1]:.1f}" for each in self.system.each if each.memory)
        print(
            f"{elapsed:6.0f} s  {self.rounds} rounds  {self.tally.connections} connections  {self.tally.sent} sent  "
            f"{self.tally.received} received  at most {self.sessions} sessions  ended {codes}  "
            f"RSS {memory} MiB  {len(self.problems)} problems",
            flush=True,
        )


def evidence(run: Run) -> str:
    """The problems, and what is needed to see them again."""
    again = f"python -m tests.fuzz --seed {run.seed} --minutes {run.seconds / 60:g} --workers {run.workers}"
    parts = [again]
    for problem in run.problems[:MANY]:
        parts.append(f"\n{problem.what}\n--replay {' '.join(map(str, problem.seeds))}")
        parts += [str(attacks.plan(seed, len(run.system.each))) for seed in problem.seeds[:MANY]]
    for each in run.system.each:
        parts.append(f"\n{each.gateway.log.stem}: {dict(each.log.events)}\n{each.gateway.tail()}")
    return "\n".join(parts)


def kinds(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Those that differ in numbers alone are of one kind; it is called as the first of it."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(re.sub(r"0x[0-9a-f]+|[0-9]+", "#", problem.what)[:80], []).append(problem)
    return {each[0].what: each for each in found.values()}


async def fuzz(options: argparse.Namespace, directory: Path) -> int:
    with targets(directory) as system:
        run = Run(options.seed, options.minutes * 60, options.workers, system, options.keep_going)
        print(f"seed {run.seed}, {options.minutes:g} minutes, logs in {directory}", flush=True)
        await run.run()
        events = {each.gateway.log.stem: dict(each.log.events) for each in system.each}
        print(f"{run.tally.connections} connections in {run.rounds} rounds; the gateways logged {events}")
        if not run.problems:
            print("No problem.")
            return 0
        path = directory / "evidence.txt"
        path.write_text(evidence(run), errors="backslashreplace")
        for problem in run.problems[:MANY]:
            print(
                f"- {problem.what[:1500]}\n  {len(problem.seeds)} connections: {' '.join(map(str, problem.seeds[:5]))}"
            )
        print(f"{len(run.problems)} problems, seed {run.seed}. The evidence is in {path}")
        return 1


async def replay(seeds: Sequence[int], directory: Path) -> int:
    """Each of them alone, and what became of it."""
    with targets(directory) as system:
        found = 0
        for seed in seeds:
            plan = attacks.plan(seed, len(system.each))
            print(plan)
            outcome = await carry_out(plan, system.each[plan.target].address)
            complaints = [str(complaint) for each in system.each for complaint in each.log.news()]
            print(outcome, *complaints, sep="\n")
            found += len(outcome.problems) + len(complaints)
        return 1 if found else 0


async def _until_sigterm(work: Coroutine[Any, Any, int]) -> int:
    """As Ctrl-C, which is ignored in the background, SIGTERM stops what was started."""
    running = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Attack running gateways.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument(
        "--seed", type=int, default=None, help="of all that is chosen by chance; a new one if not given"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that attack (1)")
    parser.add_argument("--keep-going", action="store_true", help="do not end with the first round that has a problem")
    parser.add_argument("--replay", type=int, nargs="+", metavar="SEED", help="only these connections, one by one")
    options = parser.parse_args(arguments)
    options.seed = secrets.randbits(32) if options.seed is None else options.seed
    directory = Path(tempfile.mkdtemp(prefix="rowbell-fuzz-"))
    work = replay(options.replay, directory) if options.replay else fuzz(options, directory)
    code = asyncio.run(_until_sigterm(work))
    if code == 0:
        shutil.rmtree(directory)
    return code


if __name__ == "__main__":
    sys.exit(main())

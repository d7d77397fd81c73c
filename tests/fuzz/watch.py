"""What must not happen to a gateway, each as a function that says so: in its log, its memory, and what it holds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

GROWTH = 0.05
GROWTH_MIB = 8.0
"""Both must be passed. Rounds differ by chance by a few MiB, as the allocator keeps what the worst moment needed; a
connection that is forgotten costs 20 KiB, and a round has more than a thousand of them."""
WARM_UP = 4
"""Rounds that do not count: the first ones meet every kind of worst moment for the first time."""
FEWEST = 4
"""Rounds after them without which nothing can be said."""
LEAST = 3
"""Rounds of a run, however short: what is resident after the first one is where it begins."""
WARMING_MIB, WARMING_KIB = 4.0, 5.0
"""By so much, and so much for each connection since, a gateway may have grown since its first round in a run that is
too short for a trend. As measured it is 2 to 3 MiB after 250 connections, and 5 MiB after 1,450."""
SPARE_FILES = 4
"""File descriptors that come and go without any client: connections to PostgreSQL, and whoever asks for metrics."""


# The log.


@dataclass(frozen=True)
class Complaint:
    """A line of the log that should not be there."""

    line: str
    at: float | None
    """Seconds since the epoch, if the line says."""

    def __str__(self) -> str:
        """What happened, and where the traceback ends; the line itself may have pages."""
        try:
            event = json.loads(self.line)
        except ValueError:
            return self.line
        return " | ".join([str(event.get("event")), *str(event.get("exception", "")).strip().splitlines()[-3:]])


def complaints(lines: Iterable[str]) -> list[Complaint]:
    """Errors, tracebacks, and whatever is no event at all."""
    found: list[Complaint] = []
    for line in filter(None, map(str.strip, lines)):
        try:
            event = json.loads(line)
            is_bad = event["level"] in ("error", "critical") or "exception" in event or "Traceback" in line
            at = datetime.fromisoformat(event["timestamp"]).timestamp()
        except (ValueError, KeyError, TypeError):
            is_bad, at = True, None
        if is_bad:
            found.append(Complaint(line, at))
    return found


class Log:
    """The file that a gateway writes; each line is looked at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.events: Counter[str] = Counter()

    def news(self) -> list[Complaint]:
        lines = self._path.read_text(errors="replace")[self._read :]
        whole = lines[: lines.rfind("\n") + 1]
        self._read += len(whole)
        self.events.update(filter(None, map(_name, whole.splitlines())))
        return complaints(whole.splitlines())


def _name(line: str) -> str | None:
    try:
        return f"{json.loads(line)['event']}"[:60]
    except (ValueError, KeyError, TypeError):
        return None


# Memory.


def resident(pid: int) -> float:
    """MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def growth(rounds: Sequence[float]) -> str | None:
    """Is there a trend in what was resident when nobody was there, after each round? Of the rounds after the warm-up
    the last third is compared with the first, by their medians: one round that is out of the ordinary is no trend."""
    counted = rounds[WARM_UP:]
    if len(counted) < FEWEST:
        return None
    third = max(len(counted) // 3, 2)
    before, after = median(counted[:third]), median(counted[-third:])
    if after - before <= GROWTH_MIB or after <= before * (1 + GROWTH):
        return None
    return f"memory grew from {before:.1f} to {after:.1f} MiB in {len(counted)} rounds: {_series(rounds)}"


def early_growth(rounds: Sequence[float], connections: float) -> str | None:
    """Where there are too few rounds for `growth`: is more resident than since the first one may be, after so many
    connections?"""
    if not LEAST <= len(rounds) < WARM_UP + FEWEST:
        return None
    grew, may = rounds[-1] - rounds[0], WARMING_MIB + connections * WARMING_KIB / 1024
    if grew <= may:
        return None
    return (
        f"memory grew by {grew:.1f} MiB, not at most {may:.1f}, with {connections:.0f} connections: {_series(rounds)}"
    )


def _series(rounds: Sequence[float]) -> str:
    return " ".join(f"{each:.1f}" for each in rounds)


# What is left behind.


@dataclass(frozen=True)
class Footprint:
    """What one gateway holds."""

    connections: int
    sessions: int
    subscriptions: int
    files: int

    def left(self, at_rest: Footprint) -> str | None:
        """What of it is not there when nobody is."""
        spare = {"files": SPARE_FILES}
        left = {name: value - getattr(at_rest, name) for name, value in vars(self).items()}
        more = [f"{count} {name}" for name, count in left.items() if count > spare.get(name, 0)]
        less = [f"{count} {name}" for name, count in left.items() if count < 0 and name != "files"]
        return f"left behind: {', '.join(more + less)}" if more or less else None


def files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))

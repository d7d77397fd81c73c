"""The machine that is measured on, and what one process takes of it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def describe() -> str:
    """One line to print beside figures: they are of this machine, in this minute."""
    cpu = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} × {cpu}, {memory:.0f} GiB, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}; load {os.getloadavg()[0]:.1f}"
    )


def cpu_seconds(pid: int) -> float:
    """Processor time of one process, user and system, in nanoseconds' steps; /proc/PID/stat has hundredths of a second.

    The clock's number is what clock_getcpuclockid(3) gives, of which Python has only that for threads.
    """
    return time.clock_gettime(~pid << 3 | 2)


def pss(pid: int) -> int:
    """Bytes of memory, of shared pages the process's share: proc(5), smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024


def settled_pss(pid: int, pause: float = 1.0, patience: float = 30.0) -> int:
    """The same, once it changes no more: what was used for a moment is given back, if it ever is."""
    deadline = time.monotonic() + patience
    last = pss(pid)
    while time.monotonic() < deadline:
        time.sleep(pause)
        last, before = pss(pid), last
        if abs(last - before) < 64 * 1024:
            break
    return last

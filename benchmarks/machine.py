"""The machine that runs the benchmark, and what a process uses of it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def describe() -> str:
    """Return one line to print with the figures, which are those of this machine at this moment."""
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
    """Return the processor time of a process, user and system, in seconds, to the nanosecond; /proc/PID/stat has only
    hundredths.

    The clock id is that of clock_getcpuclockid(3), which Python lacks; it has only the one for threads.
    """
    return time.clock_gettime(~pid << 3 | 2)


def pss(pid: int) -> int:
    """Return bytes of memory, with the process's proportional share of shared pages: proc(5), smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024


def settled_pss(pid: int, pause: float = 1.0, patience: float = 30.0) -> int:
    """Return the same once it is stable: temporary memory has been returned by then, if it ever is."""
    deadline = time.monotonic() + patience
    last = pss(pid)
    while time.monotonic() < deadline:
        time.sleep(pause)
        last, before = pss(pid), last
        if abs(last - before) < 64 * 1024:
            break
    return last

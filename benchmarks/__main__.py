"""`make bench`: every benchmark, one after the other. Each says what it measures and on which machine."""

from __future__ import annotations

import sys

from benchmarks import drain, latency

if __name__ == "__main__":
    sys.exit(max(benchmark.main([]) for benchmark in (latency, drain)))

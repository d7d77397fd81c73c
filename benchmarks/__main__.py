"""`make bench`: runs every benchmark in turn. Each says what it measures, and on which machine."""

from __future__ import annotations

import sys

from benchmarks import connects, cost, drain, latency, storm, weight

BENCHMARKS = (weight, cost, connects, storm, latency, drain)

if __name__ == "__main__":
    sys.exit(max(benchmark.main([]) for benchmark in BENCHMARKS))

"""`make bench`: every benchmark, one after the other. Each says what it measures and on which machine."""

from __future__ import annotations

import sys

from benchmarks import latency

if __name__ == "__main__":
    sys.exit(latency.main())

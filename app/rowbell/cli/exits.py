"""How a command ends: what is said, and the exit status."""

from __future__ import annotations

import sys

from rowbell.errors import RowbellError, SettingsError

FAILED = 1
MISUSED = 2
"""A setting is missing or wrong; argparse ends with the same status for wrong arguments."""
INTERRUPTED = 128 + 2
READER_GONE = 128 + 13
"""What a shell reports for a process that SIGINT, or SIGPIPE, ended."""


def say(line: str) -> None:
    """On standard error."""
    print(f"rowbell: {line}", file=sys.stderr, flush=True)


def failed(error: RowbellError) -> int:
    """Say on standard error what is wrong; the status."""
    for line in str(error).splitlines():
        say(line)
    return MISUSED if isinstance(error, SettingsError) else FAILED

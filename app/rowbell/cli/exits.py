"""How commands end: messages and exit statuses."""

from __future__ import annotations

import sys

from rowbell.errors import RowbellError, SettingsError

FAILED = 1
MISUSED = 2
"""A setting is missing or invalid; argparse uses the same status for invalid arguments."""
INTERRUPTED = 128 + 2
READER_GONE = 128 + 13
"""The statuses that a shell reports for a process killed by SIGINT or SIGPIPE."""


def say(line: str) -> None:
    """Print a line on standard error."""
    print(f"rowbell: {line}", file=sys.stderr, flush=True)


def failed(error: RowbellError) -> int:
    """Print the error on standard error, and return the exit status for it."""
    for line in str(error).splitlines():
        say(line)
    return MISUSED if isinstance(error, SettingsError) else FAILED

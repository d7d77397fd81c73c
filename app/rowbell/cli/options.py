"""Options that stand for a setting."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rowbell.config import parsed


def setting(name: str) -> Callable[[str], Any]:
    """What argparse reads an option with that is given instead of a setting: its checks, and their words.

    `name` is the field's.
    """

    def read(text: str) -> Any:
        if not text:
            raise argparse.ArgumentTypeError("it is empty")
        try:
            return parsed(name, text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return read

"""Options that override a setting."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rowbell.config import parsed


def setting(name: str) -> Callable[[str], Any]:
    """Return an argparse type for an option that overrides the setting `name`, a field of Settings.

    The option is parsed and checked like the setting, with the same messages.
    """

    def read(text: str) -> Any:
        if not text:
            raise argparse.ArgumentTypeError("it is empty")
        try:
            return parsed(name, text)
        except ValueError as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return read

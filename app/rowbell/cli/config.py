"""`rowbell config`: shows the effective settings, with secrets hidden."""

from __future__ import annotations

import argparse
import shlex

from rowbell.config import Settings

EXAMPLE = """example:
  ROWBELL_PORT=8115 rowbell config
  rowbell config --env | sort       # a line NAME=value for each setting that has a value

The exit status is 2 if settings are invalid; each of them is named."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`rowbell config [--env]`."""
    parser = subparsers.add_parser(
        "config",
        help="show the effective settings, secrets hidden",
        description="Show every setting, with its effective value and its purpose. Secrets are hidden.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--env", action="store_true", help="print only lines NAME=value")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Print the settings; an invalid one has already ended the process."""
    if args.env:
        _print_lines(settings)
    else:
        _print_all(settings)
    return 0


def _print_lines(settings: Settings) -> None:
    for name, value, _ in settings.shown():
        if value is not None:
            print(f"{name}={shlex.quote(value)}")


def _print_all(settings: Settings) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    lines = list(settings.shown())
    width = max(len(name) for name, _, _ in lines)
    for name, value, doc in lines:
        shown = ("not set", "dim") if value is None else (value, "bold")
        console.print(Text.assemble(f"{name:{width}}  ", shown), soft_wrap=True)  # unbroken, to be copied
        console.print(Padding(Text(doc, style="dim"), (0, 0, 0, 4), expand=False))

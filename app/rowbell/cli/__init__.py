"""The command `rowbell`: one module per group of subcommands. This is where everything is wired together.

Each module has `add_parser(subparsers)`, which names the command, shows a working example in the epilog and calls
`parser.set_defaults(run=run)`, and `run(args, settings) -> int`, which returns the exit status. A module imports at its
top only what parsing needs; what the command works with (Kafka, SQL, the web server, terminal tables) is imported
inside `run`, so that `rowbell --help` and `rowbell token` do not pay for the second that the gateway's imports take. A
long-running command (serve, dispatch, connector) begins with `logs.configure(settings)`.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

from rowbell.cli import config, connector, dispatch, listen, migrate, revoke, send, serve, token
from rowbell.cli.exits import INTERRUPTED, READER_GONE, failed, say
from rowbell.config import Settings
from rowbell.errors import RowbellError

COMMANDS: tuple[ModuleType, ...] = (serve, dispatch, connector, migrate, token, revoke, send, listen, config)
"""In the order of `rowbell --help`."""


class _Parser(argparse.ArgumentParser):
    """Keeps the line breaks of examples, and accepts no abbreviated options: scripts would break when an option is
    added.

    A subcommand reports unknown arguments itself, with its own usage.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


class _Version(argparse.Action):
    """Reads the version only when it is asked for: reading the package metadata takes 30 ms."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"rowbell {metadata.version('rowbell')}")
        parser.exit()


def main(argv: list[str] | None = None) -> int:
    """Run one command, and return the exit status of the process. `argv` is without the program's name."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here, where we can still handle a closed pipe
    except BrokenPipeError:
        # Python flushes again at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE


def _run(argv: list[str] | None) -> int:
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args, Settings.from_env(os.environ, say))
    except RowbellError as error:
        return failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="rowbell",
        description="Commit a row to the table `notification`; its recipient sees it at once.",
        epilog="For details and examples of a command: rowbell COMMAND --help\n"
        "Settings are environment variables, ROWBELL_...: rowbell config lists them.",
    )
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="show the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser

"""`python -m stack start|stop|status`, which `make stack` and `make stack-stop` run."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from stack.errors import StackError
from stack.home import CHECKOUT, Home
from stack.pipeline import PROCESSES, SERVERS, Stack
from stack.ports import OWNERS, Ports
from stack.supervision import processes_of

SHOWN = ("postgres", "tables", "redis", "epmd", "rabbitmq", "kafka", "connect", "connector", *PROCESSES)

EXAMPLE = """example:
  python -m stack start
  python -m stack status
  python -m stack stop"""

console = Console(highlight=False)


class Progress:
    """A line per program: its state, and how long it took. Without a terminal: a line when it is up."""

    def __init__(self) -> None:
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._states: dict[str, str] = {}

    def __call__(self, program: str, state: str) -> None:
        """Update the state of a program; called by `Stack.start`."""
        began = self._began.setdefault(program, time.monotonic())
        self._states[program] = state
        if state == "up":
            self._took[program] = time.monotonic() - began
            if not console.is_terminal:
                console.print(f"{program} is up ({self._took[program]:.1f} s)")

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for program in SHOWN:
            state = self._states.get(program, "waiting")
            now = self._took.get(program) or time.monotonic() - self._began.get(program, time.monotonic())
            style = {"up": "green", "waiting": "dim"}.get(state, "yellow")
            table.add_row(f"[{style}]{program}", f"[{style}]{state}", "" if state == "waiting" else f"{now:4.1f} s")
        return table


def main() -> int:
    """Run one command, and return the exit status of the process."""
    args = _parser().parse_args()
    try:
        stack = Stack.at(Home(args.home.absolute()), os.environ)
        status: int = args.run(stack)
    except StackError as error:
        errors = Console(stderr=True, highlight=False)
        errors.print(f"[red]{args.command} failed.[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(
            "\nInterrupted; what has started keeps running. To continue: make stack. To stop it: make stack-stop"
        )
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stack",
        description="Pipeline mode on this machine: PostgreSQL, Redis, RabbitMQ, Kafka, Connect, Rowbell.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Home.default().path,
        help="the directory for data, secrets and logs (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, run, doc in (
        ("start", _start, "start everything and wait until it answers"),
        ("stop", _stop, "stop everything that was started"),
        ("status", _status, "show the state of each program"),
    ):
        commands.add_parser(name, help=doc, description=doc).set_defaults(run=run)
    return parser


def _start(stack: Stack) -> int:
    if stack.is_up():
        console.print("Everything is already up.")
    else:
        began = time.monotonic()
        progress = Progress()
        if console.is_terminal:
            with Live(progress, console=console, refresh_per_second=5):
                stack.start(progress)
        else:
            stack.start(progress)
        console.print(f"Everything is up, after {time.monotonic() - began:.0f} s.")
    console.print(_what_to_try(stack.home), markup=False, soft_wrap=True)
    return 0


def _stop(stack: Stack) -> int:
    if not stack.programs():
        left = processes_of(stack.home)
        stack.stop()
        console.print(
            "Only leftovers of a killed supervisord were running; they are stopped." if left else "Nothing is running."
        )
        return 0
    began = time.monotonic()
    stack.stop()
    console.print(f"Stopped, after {time.monotonic() - began:.0f} s. The data is kept in {stack.home.path}.")
    return 0


def _status(stack: Stack) -> int:
    programs = stack.programs()
    table = Table("program", "state", "answers", "ports", "", box=None)
    for name in (*SERVERS, *PROCESSES):
        runs = name in programs and programs[name].pid
        answers = "yes" if runs and stack.answers(name) else "no"
        state = programs[name].state if name in programs else "STOPPED"
        table.add_row(name, state, answers, _ports_of(name, stack.ports), programs[name].description if runs else "")
    console.print(table)
    return 0 if stack.is_up() else 1


def _ports_of(program: str, ports: Ports) -> str:
    return " ".join(str(port) for name, port in ports.items() if OWNERS[name] == program)


def _what_to_try(home: Home) -> str:
    env = home.env_file.relative_to(CHECKOUT) if home.env_file.is_relative_to(CHECKOUT) else home.env_file
    return f"""
Try it. In one terminal:
  . {env}
  rowbell listen alice
In another:
  . {env}
  psql "$ROWBELL_DATABASE_URL" -c "INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')"
Logs are in {home.path / "logs"}. To stop everything: make stack-stop"""


if __name__ == "__main__":
    sys.exit(main())

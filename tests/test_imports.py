"""Imports point one way. The table below is the architecture; a line that breaks it fails here, by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rowbell

APP = Path(rowbell.__file__).parent

VALUES = {"notification", "snapshot", "config", "errors", "logs", "metrics", "backoff", "postgres"}
PORTS = {"changes", "presence", "bus", "inbox"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "notification": set(),
    "snapshot": set(),
    "metrics": {"config", "errors", "logs"},
    "backoff": set(),
    "stomp": set(),
    "patterns": set(),
    "config": {"errors", "patterns", "stomp"},
    "logs": {"config"},
    "postgres": {"config", "errors"},
    "auth": {"config", "errors", "logs", "backoff", "patterns"},
    "connector": {"config", "errors", "logs", "backoff"},
    "embedded": {"config", "errors", "logs", "backoff", "postgres"},
    "changes": VALUES,
    "presence": VALUES,
    "bus": VALUES,
    "inbox": VALUES,
    "dispatch": VALUES | PORTS,
    "gateway": VALUES | PORTS | {"auth", "stomp"},
    "page": VALUES | {"auth", "inbox"},
    "cli": VALUES | PORTS | {"auth", "stomp", "connector", "dispatch", "embedded", "gateway", "page"},
    "__main__": {"cli"},
}
"""Room (a module or package of `rowbell`) → the other rooms it may import. Standing in no row but that of
`__main__`, `cli` is imported by nobody."""

SANS_IO = {"stomp", "snapshot", "notification", "patterns"}
IO = {
    "asyncio",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "psycopg",
    "sqlalchemy",
    "starlette",
    "websockets",
}


def violations(root: Path) -> list[str]:
    """Every line under `root`, the package's directory, that the table does not allow."""
    found = [f"{room}: a room that the table does not know" for room in rooms(root) if room not in MAY_IMPORT]
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        room = path.relative_to(root).parts[0].removesuffix(".py")
        problems = [*imports_refused(path, root, room, tree), *environment_read(room, tree)]
        found += [f"{path.relative_to(root)}:{line}: {problem}" for line, problem in problems]
    return found


def rooms(root: Path) -> Iterator[str]:
    for path in sorted(root.iterdir()):
        if path.suffix == ".py" and path.name != "__init__.py":
            yield path.stem
        elif path.is_dir() and any(path.rglob("*.py")):
            yield path.name


def imports_refused(path: Path, root: Path, room: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    for line, module in modules_imported(path, root, tree):
        package, *rest = module.split(".")
        if room in SANS_IO and package in IO:
            yield line, f"{room} imports {package}: it does no I/O"
        if module in ("importlib.import_module", "builtins.__import__"):
            yield line, "imports by name, which this test cannot follow"
        target = rest[0] if package == "rowbell" and rest else None
        if target and target != room and target not in MAY_IMPORT.get(room, set()):
            yield line, f"{room} imports {target}"


def modules_imported(path: Path, root: Path, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything imported, wherever the statement stands."""
    package = ["rowbell", *path.relative_to(root).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Name) and node.id == "__import__":
            yield node.lineno, "builtins.__import__"
        elif isinstance(node, ast.Attribute) and node.attr == "import_module":
            yield node.lineno, "importlib.import_module"


def environment_read(room: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every use of the environment but `Settings.from_env(os.environ)` in cli."""
    allowed = {
        id(argument)
        for node in ast.walk(tree)
        if room == "cli" and isinstance(node, ast.Call) and ast.unparse(node.func) == "Settings.from_env"
        for argument in node.args
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="environ" | "environb" | "getenv" | "getenvb") if id(node) not in allowed:
                yield node.lineno, f"{room} reads the environment: settings belong to config"
            case ast.ImportFrom(module="os", names=names) if any("env" in alias.name for alias in names):
                yield node.lineno, f"{room} reads the environment: settings belong to config"


def test_imports_point_one_way() -> None:
    assert violations(APP) == []


def test_the_rooms_of_the_table_form_no_circle() -> None:
    order = list(TopologicalSorter(MAY_IMPORT).static_order())

    assert order[-1] == "__main__"


def test_the_table_knows_no_room_that_is_not_there() -> None:
    assert set(MAY_IMPORT) == set(rooms(APP))


PLANTED = [
    ("stomp/frames.py", "from rowbell.errors import RowbellError", "stomp/frames.py:1: stomp imports errors"),
    ("stomp/frames.py", "import asyncio", "stomp/frames.py:1: stomp imports asyncio: it does no I/O"),
    ("snapshot.py", "import rowbell.errors", "snapshot.py:1: snapshot imports errors"),
    ("snapshot.py", "from . import errors", "snapshot.py:1: snapshot imports errors"),
    ("inbox/tables.py", "from ..gateway.ledger import Ledger", "inbox/tables.py:1: inbox imports gateway"),
    ("inbox/deep/tables.py", "from ...gateway import ledger", "inbox/deep/tables.py:1: inbox imports gateway"),
    ("changes/kafka.py", "def f():\n    from rowbell import bus", "changes/kafka.py:2: changes imports bus"),
    ("dispatch/loop.py", "import rowbell.gateway.ledger as ledger", "dispatch/loop.py:1: dispatch imports gateway"),
    ("gateway/web.py", "from rowbell.cli import main", "gateway/web.py:1: gateway imports cli"),
    ("connector/watch.py", "from rowbell import inbox", "connector/watch.py:1: connector imports inbox"),
    ("auth/tokens.py", "from rowbell.inbox import Inbox", "auth/tokens.py:1: auth imports inbox"),
    ("helpers/text.py", "", "helpers: a room that the table does not know"),
    ("helpers.py", "", "helpers: a room that the table does not know"),
    ("gateway/web.py", "import importlib\nimportlib.import_module('x')", "gateway/web.py:2: imports by name, which"),
    ("gateway/web.py", "import os\nos.environ['X']", "gateway/web.py:2: gateway reads the environment"),
    ("config.py", "import os\nos.getenv('X')", "config.py:2: config reads the environment"),
    ("bus/x.py", "from os import environ", "bus/x.py:1: bus reads the environment"),
    ("cli/serve.py", "import os\nos.environ.get('X')", "cli/serve.py:2: cli reads the environment"),
    ("bus/x.py", "import os\nSettings.from_env(os.environ)", "bus/x.py:2: bus reads the environment"),
]


@pytest.mark.parametrize(("file", "source", "problem"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str, problem: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)

    [found] = violations(tmp_path)

    assert found.startswith(problem)


ALLOWED = [
    ("gateway/web.py", "from rowbell.stomp.server import Server\nfrom . import ledger\nimport asyncio"),
    ("inbox/tables.py", "from rowbell.inbox.epoch import Epoch\nfrom ..snapshot import Snapshot"),
    ("cli/__init__.py", "import os\nfrom rowbell.config import Settings\nSettings.from_env(os.environ)"),
]


@pytest.mark.parametrize(("file", "source"), ALLOWED)
def test_what_the_table_allows_is_no_violation(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)

    assert violations(tmp_path) == []

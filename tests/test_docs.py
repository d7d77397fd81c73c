"""The documents say what the code does: settings, metrics, commands, links, and every SQL statement are tried."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest
from prometheus_client.metrics import MetricWrapperBase
from psycopg import sql

from rowbell import metrics
from rowbell.cli import _parser
from rowbell.config import PREFIX, Settings, environment_name
from tests.postgres_server import PostgresServer, debian, migrated, running

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
SQL = (ROOT / "docs" / "sql.md").read_text()

ADMINISTRATOR = "-- as an administrator"
"""The first line of an SQL block that rowbell_app may not run."""

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def blocks(text: str, *languages: str) -> list[str]:
    """The fenced code blocks in these languages."""
    return [code for language, code in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL) if language in languages]


def command_lines(document: Path) -> list[list[str]]:
    """The arguments of each `rowbell ...` in a shell block."""
    shell = "\n".join(blocks(document.read_text(), "sh", "shell", "bash", "console")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"^rowbell ([^|&;\n]+)", shell, re.MULTILINE)]


def commands_in_text(document: Path) -> list[list[str]]:
    """The arguments of each `rowbell ...` between backticks, which may be the name of a command alone."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    return [shlex.split(line) for line in re.findall(r"`rowbell ([^`]+)`", text) if "COMMAND" not in line]


def exit_status(arguments: list[str]) -> object:
    """Of parsing alone: 0 if the command line is understood."""
    try:
        _parser().parse_args(arguments)
    except SystemExit as end:
        return end.code
    return 0


def anchors(document: Path) -> set[str]:
    """The fragments of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def refusals() -> list[tuple[str, str, str]]:
    """(role, statement, message) of each row in the table of what is refused."""
    return re.findall(r"^\| (app|owner) \| `(.+)` \| `(.+)` \|$", SQL, re.MULTILINE)


def metric_names() -> set[str]:
    found = {value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)}
    return {
        family.name + ("_total" if family.type == "counter" else "") for each in found for family in each.describe()
    }


def events(*severities: str) -> set[str]:
    """The log events of the code: constants that a logger, or a method that asks one, is called with."""
    calls = (
        node
        for path in (ROOT / "app" / "rowbell").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in severities
    )
    names = (call.args[0].value for call in calls if call.args and isinstance(call.args[0], ast.Constant))
    return {name for name in names if isinstance(name, str) and re.fullmatch("[a-z]+(_[a-z]+)*", name)}


def events_in_operations() -> set[str]:
    table = OPERATIONS.split("## Logs")[1]
    cells = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| (.+) \|$", table, re.MULTILINE)
    return {name for events, meaning in cells for name in re.findall(r"`([a-z]+_[a-z_]+|rescued)`", events + meaning)}


def test_every_setting_stands_in_operations_and_no_other() -> None:
    settings = {environment_name(field.name) for field in fields(Settings)}
    table = re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \|", OPERATIONS, re.MULTILINE)
    assert sorted(table) == sorted(settings)


def test_the_defaults_in_operations_are_those_of_the_code() -> None:
    rows = re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \|.*\|([^|\n]*)\|[^|\n]*\|$", OPERATIONS, re.MULTILINE)
    documented = {name: default.strip("` ") for name, default in rows}
    in_code = {environment_name(f.name): "" if f.default is None else str(f.default) for f in fields(Settings)}
    assert documented == in_code


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_names_no_setting_that_does_not_exist(document: Path) -> None:
    settings = {environment_name(field.name) for field in fields(Settings)}
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+", document.read_text())) <= settings


def test_every_metric_stands_in_operations_and_no_other() -> None:
    assert metric_names() == set(re.findall(r"^\| `(rowbell_[a-z_]+)", OPERATIONS, re.MULTILINE))


def test_every_event_of_operations_is_logged_somewhere_and_every_warning_stands_there() -> None:
    # The trouble with Kafka is named by a variable; `_say` is how WalChanges warns.
    by_variable = {"kafka_unreachable", "kafka_trouble"}
    documented = events_in_operations()
    assert documented - by_variable <= events("info", "warning", "error", "_say")
    assert events("warning", "error", "_say") | by_variable <= documented


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    for path, fragment in LINK.findall(document.read_text()):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {path}"
        assert not fragment or fragment in anchors(target), f"{document.name} links to {path}#{fragment}"


def test_the_commands_of_the_documents_are_found() -> None:
    assert sum(len(command_lines(document)) for document in DOCUMENTS) > 5
    assert sum(len(commands_in_text(document)) for document in DOCUMENTS) > 15


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_parses(document: Path) -> None:
    assert [line for line in command_lines(document) if exit_status(line) != 0] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_the_text_exists(document: Path) -> None:
    for line in commands_in_text(document):
        # Options are checked; what a command needs beside its name may be left out.
        names_only = not any(argument.startswith("-") for argument in line)
        assert exit_status(line) == 0 or (names_only and exit_status([*line, "--help"]) == 0), line


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running(debian(15)) as server:
        yield server


@pytest.fixture(scope="module")
def database(server: PostgresServer) -> Iterator[str]:
    with migrated(server) as template, server.database(template) as database:
        yield database


def test_every_sql_block_runs_in_the_role_that_it_is_for(server: PostgresServer, database: str) -> None:
    documents = [blocks(SQL, "sql"), blocks(OPERATIONS, "sql")]
    assert sum(map(len, documents)) > 15
    with server.connect(database, "an_app") as app, server.connect(database) as administrator:
        before = logins(administrator)
        for statements in documents:
            for statement in statements:
                (administrator if statement.startswith(ADMINISTRATOR) else app).execute(statement.encode())
            for login in logins(administrator) - before:
                administrator.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


def logins(connection: psycopg.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT rolname FROM pg_roles WHERE rolcanlogin")}


def test_the_table_of_refusals_is_read_whole() -> None:
    section = SQL.split("## What is refused")[1].split("\n## ")[0]
    assert len(refusals()) == section.count("\n|") - 2  # without the heading and the line below it


def test_a_second_row_with_the_same_dedup_key_is_not_inserted(server: PostgresServer, database: str) -> None:
    statement = next(block for block in blocks(SQL, "sql") if "'invoice-7'" in block and "INSERT" in block).encode()
    with server.connect(database, "an_app") as app:
        inserted = [len(app.execute(statement).fetchall()) for _ in range(2)]
    assert inserted == [1, 0]


@pytest.mark.parametrize(("role", "statement", "message"), refusals())
def test_what_is_said_to_be_refused_is(
    server: PostgresServer, database: str, role: str, statement: str, message: str
) -> None:
    with server.connect(database, "an_app" if role == "app" else "postgres") as connection:
        connection.execute("INSERT INTO notification (recipient_id, title) VALUES ('alice', 'a row to change')")
        with pytest.raises(psycopg.Error) as refused:
            connection.execute(statement.encode())
    assert message in str(refused.value)

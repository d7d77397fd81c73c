"""The command line: what is printed where, the exit statuses, and rows that a real PostgreSQL takes or refuses."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from rowbell.auth import Tokens
from rowbell.cli import COMMANDS, main
from rowbell.cli.serve import _page
from rowbell.config import Settings
from tests.integration.processes import EmbeddedGateway
from tests.integration.systems import embedded
from tests.postgres_server import debian, running

SECRET = "0123456789abcdef0123456789abcdef"
PASSWORD = "hunter2-hunter2"
NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


@dataclass
class Result:
    status: int
    out: str
    err: str


Rowbell = Callable[..., Result]


@pytest.fixture
def rowbell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Rowbell:
    """Run a command in this process: `rowbell("token", "alice", ROWBELL_JWT_SECRET=...)`; nothing else is set."""
    for name in [name for name in os.environ if name.startswith("ROWBELL_")]:
        monkeypatch.delenv(name)

    def run(*argv: str, **environ: str) -> Result:
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            try:
                status = main(list(argv))
            except SystemExit as stop:  # argparse
                status = stop.code if isinstance(stop.code, int) else 0
        return Result(status, *capsys.readouterr())

    return run


def process(*argv: str, **environ: str) -> subprocess.Popen[str]:
    """`rowbell` as a process of its own, with these settings only."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROWBELL_")}
    command = [sys.executable, "-m", "rowbell", *argv]
    return subprocess.Popen(
        command, env=kept | environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


# ---- What every command has ----


def test_help_has_one_line_for_each_command(rowbell: Rowbell) -> None:
    result = rowbell("--help", COLUMNS="80")

    assert result.status == 0
    _, _, commands = result.out.partition("  COMMAND\n")
    lines = commands.partition("\n\n")[0].splitlines()
    assert [re.match(r"    (\w+) +\w", line)[1] for line in lines] == NAMES  # type: ignore[index]


@pytest.mark.parametrize("command", NAMES)
def test_the_help_of_each_command_shows_an_example_of_it(command: str, rowbell: Rowbell) -> None:
    result = rowbell(command, "--help")

    assert result.status == 0
    _, _, example = result.out.partition("example:\n")
    assert re.search(rf"^  .*\browbell {command}\b", example, re.MULTILINE)


def test_the_version_is_that_of_the_package() -> None:
    out, err = process("--version").communicate(timeout=30)

    assert re.fullmatch(r"rowbell \d+\.\d+\.\d+\S*\n", out)
    assert err == ""


@pytest.mark.parametrize("argv", [[], ["ring"], ["token"], ["token", "alice", "--tt", "1h"]], ids=" ".join)
def test_wrong_arguments_are_explained_with_status_2(argv: list[str], rowbell: Rowbell) -> None:
    result = rowbell(*argv, ROWBELL_JWT_SECRET=SECRET)

    assert result.status == 2
    assert result.err.startswith("usage: rowbell")
    assert result.out == ""


def test_an_unknown_option_is_explained_with_the_usage_of_its_command(rowbell: Rowbell) -> None:
    result = rowbell("serve", "--embeded")

    assert result.status == 2
    assert result.err.startswith("usage: rowbell serve ")
    assert result.err.endswith("rowbell serve: error: unrecognized arguments: --embeded\n")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["serve", "--port", "99999"], "argument --port: it must be a whole number from 0 to 65535"),
        (["serve", "--port", "x"], "argument --port: it must be a whole number from 0 to 65535"),
        (["serve", "--workers", "0"], "argument --workers: it must be a whole number from 1 to 256"),
        (["serve", "--host", ""], "argument --host: it is empty"),
        (["serve", "--ssl-certfile", ""], "argument --ssl-certfile: it is empty"),
        (["serve", "--ssl-keyfile", ""], "argument --ssl-keyfile: it is empty"),
        (["listen", "alice", "--url", "http://h/ws"], "argument --url: it must begin with ws:// or wss://"),
        (["token", "alice", "--topics", "a/b"], "argument --topics: 'a/b' is not a valid topic pattern"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "said",
)
def test_an_option_is_checked_as_its_setting_is(argv: list[str], said: str, rowbell: Rowbell) -> None:
    result = rowbell(*argv, ROWBELL_JWT_SECRET=SECRET)

    assert result.status == 2
    assert said in result.err


MISSING = [
    (["token", "alice"], ["ROWBELL_JWT_SECRET"]),
    (["send", "alice", "Hello"], ["ROWBELL_DATABASE_URL"]),
    (["listen", "alice"], ["ROWBELL_JWT_SECRET"]),
    (["migrate"], ["ROWBELL_DATABASE_URL"]),
    (["connector", "status"], ["ROWBELL_CONNECT_URL"]),
    (["dispatch"], ["ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "ROWBELL_REDIS_URL", "ROWBELL_RABBITMQ_URL"]),
    (["serve"], ["ROWBELL_DATABASE_URL", "ROWBELL_JWT_SECRET"]),
]


@pytest.mark.parametrize(("argv", "names"), MISSING, ids=lambda value: value[0])
def test_each_missing_setting_is_named_with_status_2(argv: list[str], names: list[str], rowbell: Rowbell) -> None:
    result = rowbell(*argv)

    assert result.status == 2
    assert re.findall(r"^rowbell: (\w+) is not set\. .* Example: \1=", result.err, re.MULTILINE) == names
    assert result.out == ""


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"ROWBELL_REDIS_URL": "redis://127.0.0.1"}, ["ROWBELL_RABBITMQ_URL"]),
        ({"ROWBELL_RABBITMQ_URL": "amqp://127.0.0.1"}, ["ROWBELL_REDIS_URL"]),
        ({"ROWBELL_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, ["ROWBELL_REDIS_URL", "ROWBELL_RABBITMQ_URL"]),
    ],
    ids=["redis", "rabbitmq", "kafka"],
)
def test_a_gateway_with_one_broker_and_not_the_other_does_not_start(
    given: dict[str, str], missing: list[str], rowbell: Rowbell
) -> None:
    base = {"ROWBELL_DATABASE_URL": "postgresql://127.0.0.1:1/none", "ROWBELL_JWT_SECRET": SECRET}

    result = rowbell("serve", **base, **given)

    assert result.status == 2
    assert re.findall(r"^rowbell: (\w+) is not set\.", result.err, re.MULTILINE) == missing
    assert "to run with PostgreSQL alone" in result.err


def test_serve_without_settings_says_how_to_try_it(rowbell: Rowbell) -> None:
    assert "rowbell serve --embedded" in rowbell("serve").err


def test_clean_and_home_are_for_embedded_mode(rowbell: Rowbell) -> None:
    result = rowbell("serve", "--clean")

    assert result.status == 2
    assert "--embedded" in result.err


def test_each_wrong_setting_is_named_with_status_2(rowbell: Rowbell) -> None:
    result = rowbell("token", "alice", ROWBELL_JWT_SECRET="short", ROWBELL_PORT="x")

    assert result.status == 2
    assert [line.split()[:4] for line in result.err.splitlines()] == [
        ["rowbell:", "ROWBELL_JWT_SECRET", "is", "wrong:"],
        ["rowbell:", "ROWBELL_PORT", "is", "wrong:"],
    ]


def test_a_name_that_is_no_setting_is_warned_of_once_with_the_one_that_may_be_meant(rowbell: Rowbell) -> None:
    unknown = {"ROWBELL_PROT": "8", "ROWBELL_ALLOWED_ORIGIN": "*", "ROWBELL_XYZ": "1", "ROWBELL_EMPTY": ""}

    result = rowbell("token", "alice", ROWBELL_JWT_SECRET=SECRET, **unknown)

    assert result.status == 0
    assert result.err.splitlines() == [
        "rowbell: ROWBELL_ALLOWED_ORIGIN is not a known setting and is ignored: did you mean ROWBELL_ALLOWED_ORIGINS?",
        "rowbell: ROWBELL_PROT is not a known setting and is ignored: did you mean ROWBELL_PORT?",
        "rowbell: ROWBELL_XYZ is not a known setting and is ignored; `rowbell config` shows all settings",
    ]


NOWHERE = {
    "ROWBELL_DATABASE_URL": "postgresql://127.0.0.1:1/app",
    "ROWBELL_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "ROWBELL_REDIS_URL": "redis://127.0.0.1:1",
    "ROWBELL_RABBITMQ_URL": "amqp://127.0.0.1:1",
    "ROWBELL_JWT_SECRET": SECRET,
}


@pytest.mark.parametrize("host", ["no..name", "192.0.2.1"])
@pytest.mark.parametrize(
    ("argv", "what", "setting"),
    [
        (["serve", "--port", "0"], "cannot listen on", "ROWBELL_HOST"),
        (["dispatch"], "metrics cannot be served on", "ROWBELL_METRICS_HOST"),
    ],
    ids=["serve", "dispatch"],
)
def test_an_address_that_is_not_this_machines_is_not_blamed_on_the_port(
    argv: list[str], what: str, setting: str, host: str, rowbell: Rowbell
) -> None:
    ports = {} if argv[0] == "serve" else {"ROWBELL_METRICS_PORT": "0"}
    result = rowbell(*argv, **{setting: host}, **ports, **NOWHERE)

    assert result.status == 2
    assert f"rowbell: {what} {host}:0: " in result.err
    assert f"Set {setting} to an address of this machine" in result.err
    assert "Stop what uses the port" not in result.err


@pytest.mark.parametrize("argv", [["serve", "--port", "0"], ["dispatch"]], ids=lambda argv: argv[0])
def test_a_metrics_port_that_is_taken_is_named_with_status_2(argv: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # when
        started = process(*argv, ROWBELL_METRICS_PORT=str(port), **NOWHERE)
        _, err = started.communicate(timeout=30)
    # then
    assert started.returncode == 2
    assert err == (
        f"rowbell: metrics cannot be served on 127.0.0.1:{port}: Address already in use. "
        "Stop what uses the port, or set ROWBELL_METRICS_PORT to another one; 0 picks a free one.\n"
    )


def test_a_reader_that_went_away_gets_no_traceback() -> None:
    # given a pipe that nobody reads any more, as in `rowbell config --env | true`
    reader, writer = os.pipe()
    os.close(reader)

    # when
    command = [sys.executable, "-m", "rowbell", "config", "--env"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(writer)

    # then
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_starting_loads_nothing_that_only_one_command_needs() -> None:
    heavy = {"aio_pika", "alembic", "confluent_kafka", "jwt", "msgspec", "psycopg", "redis", "requests", "rich"}
    heavy |= {"sqlalchemy", "starlette", "structlog", "uvicorn", "uvloop", "websockets"}
    source = "import sys, rowbell.cli; print(*sorted(name for name in sys.modules if '.' not in name))"

    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30, check=True)

    assert not heavy & set(done.stdout.split())


# ---- token ----


def test_a_token_is_all_that_is_printed(rowbell: Rowbell) -> None:
    result = rowbell("token", "alice", ROWBELL_JWT_SECRET=SECRET)

    assert (result.status, result.err) == (0, "")
    assert result.out.count("\n") == 1
    assert Tokens(SECRET).verify(result.out.strip()).user == "alice"


@pytest.mark.parametrize(
    ("ttl", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604800), ("365d", 31536000)]
)
def test_a_token_lasts_as_long_as_asked(ttl: str, seconds: int, rowbell: Rowbell) -> None:
    before = int(time.time())

    token = rowbell("token", "alice", "--ttl", ttl, ROWBELL_JWT_SECRET=SECRET).out.strip()

    expires_at = Tokens(SECRET).verify(token).expires_at
    assert expires_at is not None
    assert before + seconds <= expires_at <= time.time() + seconds


@pytest.mark.parametrize("ttl", ["", "h", "1", "1w", "-1h", "0s", "1.5h", "366d", "١h"])
def test_a_lifetime_that_makes_no_sense_is_refused(ttl: str, rowbell: Rowbell) -> None:
    result = rowbell("token", "alice", f"--ttl={ttl}", ROWBELL_JWT_SECRET=SECRET)

    assert result.status == 2
    assert "argument --ttl" in result.err


def test_a_user_who_cannot_be_a_recipient_gets_no_token(rowbell: Rowbell) -> None:
    result = rowbell("token", "topic:news", ROWBELL_JWT_SECRET=SECRET)

    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("rowbell: the user's id ")


def test_a_token_allows_the_topics_that_are_given(rowbell: Rowbell) -> None:
    token = rowbell("token", "alice", "--topics", "status, news.#", ROWBELL_JWT_SECRET=SECRET).out.strip()

    assert Tokens(SECRET).verify(token).topics == ("status", "news.#")


# ---- config ----

EVERYTHING = {
    "ROWBELL_DATABASE_URL": f"postgresql://u:{PASSWORD}@h1:1,h2:2/db?target_session_attrs=read-write",
    "ROWBELL_REDIS_URL": f"redis://:{PASSWORD}@h/0",
    "ROWBELL_JWT_SECRET": PASSWORD * 3,
    "ROWBELL_KAFKA_GROUP": "it's a group",
}


@pytest.mark.parametrize("option", [[], ["--env"]], ids=["all", "env"])
def test_the_settings_are_shown_without_their_secrets(option: list[str], rowbell: Rowbell) -> None:
    result = rowbell("config", *option, **EVERYTHING)

    assert (result.status, result.err) == (0, "")
    assert PASSWORD not in result.out
    assert "ROWBELL_REDIS_URL" in result.out
    assert "redis://:********@h/0" in result.out


def test_a_long_value_is_shown_on_one_line(rowbell: Rowbell) -> None:
    url = "postgresql://h/app?target_session_attrs=read-write&application_name=" + 100 * "x"

    result = rowbell("config", COLUMNS="80", ROWBELL_DATABASE_URL=url)

    assert re.search(rf"^ROWBELL_DATABASE_URL +{re.escape(url)}$", result.out, re.MULTILINE)


def test_config_shows_settings_that_are_not_set_too(rowbell: Rowbell) -> None:
    result = rowbell("config")

    assert re.search(r"ROWBELL_RABBITMQ_URL +not set", result.out)
    assert re.search(r"ROWBELL_PORT +8114", result.out)


def test_env_prints_lines_that_a_shell_reads(rowbell: Rowbell) -> None:
    result = rowbell("config", "--env", **EVERYTHING)

    values = dict(word.split("=", 1) for line in result.out.splitlines() for word in shlex.split(line))
    assert values["ROWBELL_DATABASE_URL"] == "postgresql://u:********@h1:1,h2:2/db?target_session_attrs=read-write"
    assert values["ROWBELL_KAFKA_GROUP"] == "it's a group"
    assert values["ROWBELL_PORT"] == "8114"
    assert "ROWBELL_RABBITMQ_URL" not in values


def test_config_fails_when_a_setting_is_wrong(rowbell: Rowbell) -> None:
    result = rowbell("config", ROWBELL_LOG_LEVEL="loud")

    assert result.status == 2
    assert result.err.startswith("rowbell: ROWBELL_LOG_LEVEL is wrong: ")


# ---- send ----


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    """A database with Rowbell's tables."""
    with running(debian(15)) as server, server.database() as name:
        out, err = process("migrate", ROWBELL_DATABASE_URL=server.url(name)).communicate(timeout=60)
        assert out, err
        yield server.url(name)


def row(database_url: str, id: str) -> tuple[object, ...] | None:
    with psycopg.connect(database_url) as connection:
        statement = "SELECT recipient_id, title, type, body, data, dedup_key FROM notification WHERE id = %s"
        return connection.execute(statement, [int(id)]).fetchone()


def test_a_row_is_inserted_and_its_id_printed(database_url: str, rowbell: Rowbell) -> None:
    result = rowbell("send", "alice", "Hello", ROWBELL_DATABASE_URL=database_url)

    assert (result.status, result.err) == (0, "")
    assert row(database_url, result.out) == ("alice", "Hello", "GENERIC", None, {}, None)


def test_a_row_is_inserted_with_all_that_is_given(database_url: str, rowbell: Rowbell) -> None:
    options = ["--type", "COMMENT", "--body", "Grüße;\n'--", "--data", '{"postId": "p-100"}', "--dedup-key", "c-1"]

    result = rowbell("send", "bob", "New comment", *options, ROWBELL_DATABASE_URL=database_url)

    assert (result.status, result.err) == (0, "")
    expected = ("bob", "New comment", "COMMENT", "Grüße;\n'--", {"postId": "p-100"}, "c-1")
    assert row(database_url, result.out) == expected


def test_the_same_dedup_key_again_inserts_nothing_and_prints_the_same_id(database_url: str, rowbell: Rowbell) -> None:
    first = rowbell("send", "carol", "Invoice", "--dedup-key", "invoice-7", ROWBELL_DATABASE_URL=database_url)

    again = rowbell("send", "carol", "Invoice!", "--dedup-key", "invoice-7", ROWBELL_DATABASE_URL=database_url)

    assert (again.status, again.out) == (0, first.out)
    assert "nothing inserted" in again.err
    assert row(database_url, first.out) == ("carol", "Invoice", "GENERIC", None, {}, "invoice-7")


@pytest.mark.parametrize(
    ("argv", "column", "hint"),
    [
        (["", "Hello"], "recipient_id", "1 to 255 characters"),
        (["a/b", "Hello"], "recipient_id", "none of / * # :"),
        (["al\nice", "Hello"], "recipient_id", "no control characters"),
        (["alice", ""], "title", "1 to 500 characters"),
        (["alice", "x" * 501], "title", "1 to 500 characters"),
        (["alice", "a\x07b"], "title", "no control characters"),
        (["alice", "Hello", "--type", "a b"], "type", "1 to 100 of A-Z"),
        (["alice", "Hello", "--body", "é" * 8193], "body", "at most 16384 bytes"),
        (["alice", "Hello", "--data", "[1]"], "data", "a JSON object"),
        (["alice", "Hello", "--data", "{postId: 1}"], "data", "a JSON object"),
        (["alice", "Hello", "--data", '{"a": "\\u0000"}'], "data", "a JSON object"),
        (["alice", "Hello", "--dedup-key", ""], "dedup_key", "1 to 255 characters"),
    ],
)
def test_what_a_column_refuses_is_said_by_its_name_with_what_it_takes(
    argv: list[str], column: str, hint: str, database_url: str, rowbell: Rowbell
) -> None:
    result = rowbell("send", *argv, ROWBELL_DATABASE_URL=database_url)

    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"rowbell: the row was refused: {column} must be ")
    assert hint in result.err
    assert result.err.count("\n") == 1


def test_an_argument_that_is_no_text_is_refused(database_url: str, rowbell: Rowbell) -> None:
    result = rowbell("send", "alice", os.fsdecode(b"caf\xe9"), ROWBELL_DATABASE_URL=database_url)

    assert result.status == 1
    assert result.err == "rowbell: an argument is not UTF-8: PostgreSQL accepts text in UTF-8 only\n"


def test_a_database_without_the_tables_is_told_how_to_get_them(database_url: str, rowbell: Rowbell) -> None:
    result = rowbell("send", "alice", "Hello", ROWBELL_DATABASE_URL=database_url.rpartition("/")[0] + "/postgres")

    assert result.status == 1
    assert "run `rowbell migrate`" in result.err


def test_a_login_without_the_right_is_told_which_role_it_needs(database_url: str, rowbell: Rowbell) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE nobody_yet LOGIN")

    result = rowbell("send", "alice", "Hello", ROWBELL_DATABASE_URL=database_url.replace("postgres@", "nobody_yet@"))

    assert result.status == 1
    assert "permission denied" in result.err
    assert "rowbell_app" in result.err


def test_the_role_of_applications_is_all_that_send_needs(database_url: str, rowbell: Rowbell) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE writer LOGIN IN ROLE rowbell_app")
    url = database_url.replace("postgres@", "writer@")
    options = ["--type", "T", "--body", "B", "--data", "{}", "--dedup-key", "D"]

    results = [rowbell("send", "dave", "Hello", *options, ROWBELL_DATABASE_URL=url) for _ in range(2)]

    assert [result.status for result in results] == [0, 0]


def test_a_server_that_does_not_answer_is_said_without_its_password(rowbell: Rowbell) -> None:
    # given a port on which nothing listens (port 1 is reserved)
    url = f"postgresql://u:{PASSWORD}@127.0.0.1:1/app"

    result = rowbell("send", "alice", "Hello", ROWBELL_DATABASE_URL=url)

    assert result.status == 1
    assert result.err.startswith("rowbell: cannot connect to postgresql://u:********@127.0.0.1:1/app: ")
    assert all(line.startswith("rowbell: ") for line in result.err.splitlines())
    assert PASSWORD not in result.err


def test_a_url_with_an_option_that_libpq_does_not_know_is_a_wrong_setting(rowbell: Rowbell) -> None:
    result = rowbell("send", "alice", "Hello", ROWBELL_DATABASE_URL="postgresql://h/app?sslmod=require")

    assert result.status == 2
    assert "sslmod" in result.err


# ---- migrate ----


def test_migrating_needs_the_owner_of_the_tables(database_url: str, rowbell: Rowbell) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE somebody LOGIN")

    result = rowbell("migrate", ROWBELL_DATABASE_URL=database_url.replace("postgres@", "somebody@"))

    assert result.status == 1
    assert "permission denied" in result.err
    assert "Only the owner of Rowbell's tables can migrate them" in result.err
    assert "GRANT" not in result.err


# ---- revoke ----


def test_revoking_needs_the_role_of_applications(database_url: str, rowbell: Rowbell) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("CREATE ROLE a_gateway LOGIN IN ROLE rowbell_gateway")
        connection.execute("CREATE ROLE an_app LOGIN IN ROLE rowbell_app")

    refused = rowbell("revoke", "alice", ROWBELL_DATABASE_URL=database_url.replace("postgres@", "a_gateway@"))
    done = rowbell("revoke", "alice", ROWBELL_DATABASE_URL=database_url.replace("postgres@", "an_app@"))

    assert refused.status == 1
    assert "permission denied" in refused.err
    assert "GRANT rowbell_app TO" in refused.err
    assert done.status == 0, done.err


@pytest.mark.parametrize("command", ["revoke", "send"])
def test_the_help_says_which_role_is_needed(command: str, rowbell: Rowbell) -> None:
    assert "rowbell_app" in rowbell(command, "--help", COLUMNS="200").out


def test_revoking_says_from_when_on_tokens_are_taken(database_url: str, rowbell: Rowbell) -> None:
    def revoke(*options: str) -> str:
        return rowbell("revoke", "dan", *options, ROWBELL_DATABASE_URL=database_url).out

    first = revoke("--before", "2026-01-01T00:00:00Z")
    assert first == "dan: tokens issued before 2026-01-01T00:00:00+00:00 are refused\n"
    later = revoke()
    assert later > first
    again = revoke("--before", "2026-01-01T00:00:00Z")
    assert again == later.replace(" refused\n", " refused, as an earlier revocation says\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alice", "--before", "yesterday"], "'yesterday' is not a time such as 2026-11-25T08:00:00Z"),
        (["alice", "--before", "2026-11-25T08:00:00"], "has no time zone"),
        (["alice", "--before", "2999-01-01T00:00:00Z"], "is in the future"),
        (["topic:news"], "rowbell: the user's id contains a control character, a lone surrogate or one of / * # : "),
        ([""], "rowbell: the user's id is empty"),
    ],
)
def test_nobody_is_revoked_by_mistake(arguments: list[str], message: str, rowbell: Rowbell) -> None:
    result = rowbell("revoke", *arguments, ROWBELL_DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert result.status != 0
    assert message in result.err


def test_revoking_needs_the_database(rowbell: Rowbell) -> None:
    assert "ROWBELL_DATABASE_URL is not set" in rowbell("revoke", "alice").err


# ---- serve --embedded ----


def test_tokens_made_with_the_env_of_embedded_mode_are_those_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROWBELL_JWT_ISSUER", "https://login.example.org/")
    with embedded(tmp_path) as system:
        gateway = system.gateways[0]
        assert isinstance(gateway, EmbeddedGateway)
        # given a shell in which others have left something
        environ = {name: value for name, value in os.environ.items() if not name.startswith("ROWBELL_")}
        left = {"ROWBELL_JWT_AUDIENCE": "another", "ROWBELL_JWT_JWKS": "https://login.example.org/jwks.json"}
        script = f". {gateway.home.env_file}; exec rowbell listen alice"
        # when
        listening = subprocess.Popen(["sh", "-c", script], env=environ | left, stderr=subprocess.PIPE, text=True)
        # then
        assert listening.stderr is not None
        try:
            assert listening.stderr.readline() == f"rowbell: connected to {gateway.url} as alice\n"
        finally:
            listening.kill()
            listening.communicate()


@pytest.mark.parametrize("name", ["topic:news", "/topic/news", "news.#", "", "x" * 250])
def test_what_is_not_the_name_of_a_topic_is_refused_before_anything_is_asked(name: str, rowbell: Rowbell) -> None:
    result = rowbell("listen", "alice", "--topic", name, ROWBELL_JWT_SECRET=SECRET)

    assert result.status == 1
    assert result.err.startswith(f"rowbell: {name!r} is not the name of a topic: ")


@pytest.mark.parametrize(("host", "said"), [("0.0.0.0", 1), ("127.0.0.1", 0)])
def test_a_page_that_others_can_reach_is_warned_of(host: str, said: int) -> None:
    settings = Settings(host=host, jwt_secret=SECRET, page_database_url="postgresql://app@127.0.0.1/app")
    with capture_logs() as logs:
        _page(settings, Tokens.of(settings))
    assert [each["event"] for each in logs].count("page_is_exposed") == said

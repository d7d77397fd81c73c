"""Settings: what is wrong is named, with the problem and an example; what is secret stays so."""

from __future__ import annotations

import dataclasses
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.config import Settings, environment_name, hide_password
from rowbell.errors import SettingsError

PASSWORD = "hunter2-hunter2"

WRONG = [
    ("ROWBELL_DATABASE_URL", "mysql://h/app", "must begin with postgresql:// or postgres://"),
    ("ROWBELL_DATABASE_URL", "host=127.0.0.1 dbname=app", "must begin with postgresql:// or postgres://"),
    ("ROWBELL_DATABASE_URL", "postgresql://", "must begin with postgresql://"),
    ("ROWBELL_DATABASE_URL", "postgresql://u:p@h:port/app", "host:1234"),
    ("ROWBELL_DATABASE_URL", "postgresql://u:p@h:123456/app", "host:1234"),
    ("ROWBELL_DATABASE_URL", "postgresql://u:p@::1:5432/app", "host:1234"),
    ("ROWBELL_DATABASE_URL", "postgresql://u:p@h/my app", "%20"),
    ("ROWBELL_DATABASE_URL", "postgresql://u:p@h/app\n", "control character"),
    ("ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "kafka", "'kafka' is not host:port"),
    ("ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "a:9092,", "'' is not host:port"),
    ("ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "a:9092,b:x", "'b:x' is not host:port"),
    ("ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "a:٩٠٩٢", "is not host:port"),
    ("ROWBELL_CONNECT_URL", "127.0.0.1:8083", "must begin with http:// or https://"),
    ("ROWBELL_CONNECT_URL", "http:///connectors", "does not name a host"),
    ("ROWBELL_REDIS_URL", "redis://", "must begin with redis://"),
    ("ROWBELL_REDIS_URL", "http://h", "must begin with redis:// or rediss:// or unix://"),
    ("ROWBELL_RABBITMQ_URL", "amqp:///", "does not name a host"),
    ("ROWBELL_JWT_SECRET", "short", "HS256 needs at least 32 bytes, but it has 5"),
    ("ROWBELL_PORT", "65536", "a whole number from 0 to 65535"),
    ("ROWBELL_PORT", "-1", "a whole number from 0 to 65535"),
    ("ROWBELL_PORT", "8_114", "a whole number from 0 to 65535"),
    ("ROWBELL_PORT", "٨", "a whole number from 0 to 65535"),
    ("ROWBELL_METRICS_PORT", "9114.0", "a whole number from 0 to 65535"),
    ("ROWBELL_GATEWAY_URL", "http://127.0.0.1:8114/ws", "must begin with ws:// or wss://"),
    ("ROWBELL_LOG_LEVEL", "INFO", "must be one of debug, info, warning, error"),
    ("ROWBELL_LOG_FORMAT", "xml", "must be one of auto, json, console"),
]


@pytest.mark.parametrize(("name", "value", "problem"), WRONG)
def test_a_wrong_setting_is_named_with_its_problem_and_an_example(name: str, value: str, problem: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({name: value})

    said = str(refused.value)
    assert said.startswith(f"{name} is wrong: ")
    assert problem in said
    assert f"Example: {name}=" in said
    assert "\n" not in said


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"ROWBELL_PORT": "x", "ROWBELL_LOG_LEVEL": "loud", "ROWBELL_HOST": "0.0.0.0"})

    assert [line.split(" ")[0] for line in str(refused.value).splitlines()] == ["ROWBELL_PORT", "ROWBELL_LOG_LEVEL"]


def test_a_missing_setting_is_named_with_what_it_is_and_an_example() -> None:
    settings = Settings.from_env({"ROWBELL_DATABASE_URL": "postgresql://h/app"})

    with pytest.raises(SettingsError) as refused:
        settings.require("database_url", "redis_url", "jwt_secret")

    assert str(refused.value).splitlines() == [
        "ROWBELL_REDIS_URL is not set. Meaning: Redis, for presence. Example: ROWBELL_REDIS_URL=redis://127.0.0.1:6379/0",
        "ROWBELL_JWT_SECRET is not set. Meaning: the key of HS256 tokens, 32 bytes or more. "
        "Example: ROWBELL_JWT_SECRET=$(openssl rand -hex 32)",
    ]


def test_what_is_set_is_all_that_is_required() -> None:
    Settings(database_url="postgresql://h/app").require("database_url", "host", "port")


def test_a_requirement_that_is_no_setting_is_a_mistake_of_ours() -> None:
    with pytest.raises(AttributeError, match="databse_url"):
        Settings().require("databse_url")


def test_an_empty_setting_is_an_unset_one() -> None:
    assert Settings.from_env({"ROWBELL_PORT": "", "ROWBELL_REDIS_URL": ""}) == Settings()


def test_what_others_set_is_not_ours() -> None:
    assert Settings.from_env({"PORT": "x", "DATABASE_URL": "x", "ROWBELL_UNKNOWN": "x"}) == Settings()


def test_values_are_read_in_their_types() -> None:
    settings = Settings.from_env({"ROWBELL_PORT": "0", "ROWBELL_METRICS_PORT": "9114", "ROWBELL_LOG_LEVEL": "debug"})

    assert (settings.port, settings.metrics_port, settings.log_level) == (0, 9114, "debug")


@pytest.mark.parametrize("field", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_the_example_of_each_setting_is_a_value_it_takes(field: dataclasses.Field[object]) -> None:
    example = field.metadata["example"].replace("$(openssl rand -hex 32)", "0" * 64)

    assert Settings.from_env({environment_name(field.name): example})


GOOD_URLS = [
    ("ROWBELL_DATABASE_URL", "postgresql://u:p@h1:1,h2:2/db?target_session_attrs=read-write"),
    ("ROWBELL_DATABASE_URL", "postgresql://u@h1,h2:5433/db"),
    ("ROWBELL_DATABASE_URL", "postgresql://[::1]:5432,[fe80::1%25eth0]:5432/db"),
    ("ROWBELL_DATABASE_URL", "postgresql:///app?host=/run/postgresql"),
    ("ROWBELL_DATABASE_URL", "postgresql://%2Frun%2Fpostgresql/app"),
    ("ROWBELL_DATABASE_URL", "postgres://localhost"),
    ("ROWBELL_REDIS_URL", "rediss://:p%40ss@redis:6380/1"),
    ("ROWBELL_REDIS_URL", "unix:///run/redis.sock?db=0"),
    ("ROWBELL_RABBITMQ_URL", "amqps://u:p@rabbit/%2Fvhost"),
    ("ROWBELL_CONNECT_URL", "https://connect.example.org/base"),
    ("ROWBELL_GATEWAY_URL", "wss://example.org/ws?x=1"),
    ("ROWBELL_KAFKA_BOOTSTRAP_SERVERS", "a:9092, b:9092,[::1]:9092"),
]


@pytest.mark.parametrize(("name", "value"), GOOD_URLS)
def test_every_form_the_servers_clients_take_is_taken(name: str, value: str) -> None:
    settings = Settings.from_env({name: value})

    assert getattr(settings, name.removeprefix("ROWBELL_").lower()) == value


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{}/x@h:1/app",
        "postgresql://u:12/{}@h:1/app",
        "postgresql://u:{}#x@h/app",
        "postgresql://u:12?{}@h/app",
        "postgresql://u:{}@x@h/app",
        "postgresql://u:{}",
        "postgresql://u:[{}]@x@h/app",
        "postgresql://u:{} @h/app",
        "postgresql://u:{}℀/@h/app",
        "postgresql://u:50%{}@h/app",
        "postgresql://u:%00{}@h/app",
        "mysql://u:{}@h/app",
    ],
)
def test_the_complaint_about_a_url_does_not_quote_it(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"ROWBELL_DATABASE_URL": url.format(PASSWORD)})

    assert PASSWORD not in str(refused.value)


def test_the_complaint_about_a_key_does_not_quote_it() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_env({"ROWBELL_JWT_SECRET": PASSWORD})

    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:{}@h:5432/app", "postgresql://u:********@h:5432/app"),
        ("postgresql://u:{}@h1:1,h2:2/db?a=b", "postgresql://u:********@h1:1,h2:2/db?a=b"),
        ("postgresql://u:{}:{}@[::1]:5432/app", "postgresql://u:********@[::1]:5432/app"),
        ("postgresql://u@h/app?password={}&sslmode=require", "postgresql://u@h/app?password=********&sslmode=require"),
        ("postgresql://h/app?sslpassword={}", "postgresql://h/app?sslpassword=********"),
        ("postgresql://h/app?p%61ssword={}", "postgresql://h/app?p%61ssword=********"),
        ("redis://:{}@h:6379/0", "redis://:********@h:6379/0"),
        ("redis://h:6379?PASSWORD={}", "redis://h:6379?PASSWORD=********"),
        ("wss://h/ws?token={}", "wss://h/ws?token=********"),
        ("redis://u:12/{}@h", "redis://u:********@h"),
        ("redis://u:{}@x@h", "redis://u:********@h"),
    ],
)
def test_the_password_of_a_url_is_hidden_and_the_rest_shown(url: str, shown: str) -> None:
    assert hide_password(url.format(PASSWORD, PASSWORD)) == shown


@pytest.mark.parametrize(
    "url", ["postgresql://h1:1,h2:2/db?target_session_attrs=read-write", "http://h:8083", "amqp://u@h/"]
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert hide_password(url) == url


@given(password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=9))
def test_no_password_whatever_its_characters_is_shown(password: str) -> None:
    # given one that does not happen to occur in the rest of the URL
    written = quote(password, safe="!$&'()*+,;=:[]")
    url = f"postgresql://rowbell:{written}@h1:5432,h2/app?application_name=x"

    # then
    assert Settings.from_env({"ROWBELL_DATABASE_URL": url}).database_url == url
    assert hide_password(url) == "postgresql://rowbell:********@h1:5432,h2/app?application_name=x"


def test_settings_are_shown_without_their_secrets() -> None:
    # given a secret in every setting that can hold one
    settings = Settings(
        database_url=f"postgresql://u:{PASSWORD}@h/app",
        connect_url=f"http://u:{PASSWORD}@h:8083",
        redis_url=f"redis://:{PASSWORD}@h",
        rabbitmq_url=f"amqp://u:{PASSWORD}@h/",
        gateway_url=f"ws://h/ws?token={PASSWORD}",
        jwt_secret=PASSWORD * 3,
    )

    # when
    shown = {name: value for name, value, _ in settings.shown()}

    # then
    assert PASSWORD not in str(shown)
    assert shown["ROWBELL_JWT_SECRET"] == "********"
    assert shown["ROWBELL_PORT"] == "8114"
    assert shown["ROWBELL_METRICS_PORT"] is None


def test_printing_the_settings_object_shows_no_secret() -> None:
    settings = Settings(database_url=f"postgresql://u:{PASSWORD}@h/app", jwt_secret=PASSWORD * 3)

    assert PASSWORD not in repr(settings)
    assert "port=8114" in repr(settings)


def test_every_setting_says_what_it_is_for() -> None:
    assert all(doc for _, _, doc in Settings().shown())

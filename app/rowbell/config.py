"""Every setting: one frozen type, one environment name each, read once and validated here.

`Settings.from_env(os.environ)` is the only place where the environment is looked at. Each command names what
it cannot do without through `require`, so a missing setting stops the process at its start, with the key, the
value's problem and an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rowbell.errors import SettingsError

PREFIX = "ROWBELL_"
MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: a key of at least the hash's size must be used with HS256."""


def _text(value: str) -> str:
    return value


def _url(*schemes: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"it is not a URL ({error})") from None
        if parts.scheme not in schemes or not parts.netloc:
            raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return check


def _secret(value: str) -> str:
    if (size := len(value.encode())) < MIN_SECRET_BYTES:
        raise ValueError(f"it has {size} bytes, HS256 needs at least {MIN_SECRET_BYTES}")
    return value


def _servers(value: str) -> str:
    for server in value.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"{server.strip()!r} is not host:port")
    return value


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    def check(value: str) -> int:
        if not (value.isascii() and value.isdigit()) or not minimum <= int(value) <= maximum:
            raise ValueError(f"it must be a whole number from {minimum} to {maximum}")
        return int(value)

    return check


def _one_of(*choices: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return value

    return check


def _setting(
    doc: str, example: str, parse: Callable[[str], Any] = _text, default: Any = None, secret: bool = False
) -> Any:
    return dataclasses.field(
        default=default, metadata={"doc": doc, "example": example, "parse": parse, "secret": secret}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one process runs with. None means that it was not set."""

    database_url: str | None = _setting(
        "PostgreSQL, as a libpq URL: the primary, or a list of hosts of which one is",
        "postgresql://rowbell:secret@127.0.0.1:5432/app",
        _url("postgresql", "postgres"),
        secret=True,
    )
    kafka_bootstrap_servers: str | None = _setting(
        "where Kafka is: host:port, several with commas", "127.0.0.1:9092", _servers
    )
    kafka_topic: str = _setting(
        "the topic into which Debezium writes the changes of `notification`",
        "rowbell.public.notification",
        default="rowbell.public.notification",
    )
    kafka_group: str = _setting(
        "the consumer group that dispatchers share", "rowbell-dispatcher", default="rowbell-dispatcher"
    )
    kafka_dead_letter_topic: str = _setting(
        "where records go that cannot be decoded", "rowbell.dead-letters", default="rowbell.dead-letters"
    )
    connect_url: str | None = _setting(
        "the REST API of Kafka Connect", "http://127.0.0.1:8083", _url("http", "https"), secret=True
    )
    redis_url: str | None = _setting(
        "Redis, for presence", "redis://127.0.0.1:6379/0", _url("redis", "rediss", "unix"), secret=True
    )
    rabbitmq_url: str | None = _setting(
        "RabbitMQ, the bus", "amqp://rowbell:secret@127.0.0.1:5672/", _url("amqp", "amqps"), secret=True
    )
    jwt_secret: str | None = _setting(
        "the key of HS256 tokens, 32 bytes or more",
        "$(openssl rand -hex 32)",
        _secret,
        secret=True,
    )
    host: str = _setting("the address a gateway listens on", "127.0.0.1", default="127.0.0.1")
    port: int = _setting("the port a gateway listens on; 0 takes a free one", "8114", _whole(0, 65535), default=8114)
    metrics_port: int | None = _setting(
        "the port of Prometheus metrics on the same address; unset: none; 0 takes a free one",
        "9114",
        _whole(0, 65535),
    )
    gateway_url: str = _setting(
        "where `rowbell listen` connects to",
        "ws://127.0.0.1:8114/ws",
        _url("ws", "wss"),
        default="ws://127.0.0.1:8114/ws",
    )
    log_level: str = _setting(
        "the least severe log event that is written",
        "info",
        _one_of("debug", "info", "warning", "error"),
        default="info",
    )
    log_format: str = _setting(
        "`json`, `console`, or `auto`: console on a terminal, else json",
        "json",
        _one_of("auto", "json", "console"),
        default="auto",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read every `ROWBELL_*` setting. SettingsError names each one that is wrong; an empty one is unset."""
        values: dict[str, Any] = {}
        problems: list[str] = []
        for field in dataclasses.fields(cls):
            raw = environ.get(environment_name(field.name), "")
            if raw == "":
                continue
            try:
                values[field.name] = field.metadata["parse"](raw)
            except ValueError as problem:
                problems.append(_complaint(field, f"is wrong: {problem}"))
        if problems:
            raise SettingsError("\n".join(problems))
        return cls(**values)

    def require(self, *names: str) -> None:
        """SettingsError that names each of these settings (field names) that is not set."""
        missing = [
            _complaint(field, "is not set")
            for field in dataclasses.fields(self)
            if field.name in names and getattr(self, field.name) is None
        ]
        if missing:
            raise SettingsError("\n".join(missing))

    def shown(self) -> Iterator[tuple[str, str, str]]:
        """(environment name, value with secrets hidden, what it is for) of every setting."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None:
                text = "(not set)"
            elif field.metadata["secret"]:
                text = hide_password(value) if "://" in value else "********"
            else:
                text = str(value)
            yield environment_name(field.name), text, field.metadata["doc"]


def environment_name(field_name: str) -> str:
    return PREFIX + field_name.upper()


def hide_password(url: str) -> str:
    """The URL with its password, and a `password` in its query, replaced by stars."""
    parts = urlsplit(url)
    netloc = parts.netloc
    credentials, at, hosts = netloc.rpartition("@")
    if at and ":" in credentials:
        netloc = f"{credentials.partition(':')[0]}:********@{hosts}"
    query = "&".join(
        f"{key}=********" if "pass" in key.lower() else pair
        for pair in parts.query.split("&")
        for key in [pair.partition("=")[0]]
    )
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def _complaint(field: dataclasses.Field[Any], problem: str) -> str:
    name = environment_name(field.name)
    return f"{name} {problem}. It is {field.metadata['doc']}. Example: {name}={field.metadata['example']}"

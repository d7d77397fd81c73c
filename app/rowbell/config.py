"""Every setting: one frozen class, one environment variable per field, read once and validated here.

`Settings.from_env(os.environ)` is the only place that reads the environment. Each command names the settings it needs
with `require`, so a missing or wrong setting stops the process at startup, with the variable's name, the problem and an
example.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from rowbell.errors import SettingsError
from rowbell.patterns import pattern_complaint
from rowbell.stomp.limits import DEFAULTS as FRAMES

PREFIX = "ROWBELL_"
MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: HS256 requires a key at least as long as its hash."""

JWT_ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
)  # fmt: skip
"""The algorithms that tokens may be signed with, by their names in RFC 7518, 3.1, and RFC 8037."""

NO_USER_CLAIMS = {"iss", "aud", "exp", "nbf", "iat", "jti", "topics"}
"""Claims that cannot name a user, because they have another meaning."""

LOCAL_SCHEMES = {"postgresql", "postgres", "unix"}
"""Schemes whose URLs may omit the host, which then means a Unix socket of this machine."""

MAX_CONNECTIONS = 10_000
"""WebSockets of one gateway. At about 25 KiB each they take 250 MiB while nothing is queued for them, and half as much
again with TLS."""
MAX_SESSIONS_PER_USER = 100
"""Sessions of one user on one gateway: more than anyone has tabs and devices, and few enough that a client that leaks
connections, each of which is sent every change, harms nobody else."""
MAX_CONNECT_RATE = 500
"""Connections a second to one gateway. A gateway has one core, and a handshake takes well under a millisecond of it, so
connected clients are served as before while others connect."""
MAX_HTTP_CONNECTIONS = 5000
"""Connections of one gateway that are not WebSockets, or not yet: as many as arrive at MAX_CONNECT_RATE in the ten
seconds that a client has to send a request. Beyond that the longest idle one is closed for each new one, so clients can
connect even while someone opens connections and sends nothing."""
MAX_CONNECT_RATE_PER_ADDRESS = 50
"""Connections a second from one address: after a restart, an office behind one address reconnects within seconds."""

MAX_SUBSCRIPTIONS = 32
"""Subscriptions of one session. A change is written once for each subscription that it concerns."""
MAX_FRAME_RATE = 500
"""Frames a second from one session: more than any client needs, at the cost of a few hundredths of a processor."""
MAX_UNACKNOWLEDGED = 5000
"""Messages of one subscription that may wait for an ACK, each of which is remembered."""
CONNECT_TIMEOUT = 10
"""Seconds until CONNECT: enough for a client on a bad line, and short enough that a silent one holds no place."""

ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\[\]:/?#@,\s]+)(?::([0-9]{1,5}))?")
"""Matches an origin (RFC 6454, 6.2) in lower case; the groups are scheme, host and port."""

STARS = "********"

_BAD_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})|%00")
_PORT = re.compile(r"[0-9]{1,5}")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[^\[\]:]*)(:[0-9]{0,5})?")


def _text(value: str) -> str:
    return value


def _url(*schemes: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        scheme, _, rest = value.partition("://")
        if scheme not in schemes or not rest:
            raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not value.isprintable() or " " in value:
            raise ValueError("it contains a space or a control character: percent-encode it (a space is %20)")
        if _BAD_PERCENT.search(rest):
            # libpq would quote the password in its own message about this.
            raise ValueError("it contains %00, or a % that does not begin a percent-encoded character: write % as %25")
        _check_hosts(rest, may_be_local=scheme in LOCAL_SCHEMES)
        return value

    return check


def _check_hosts(rest: str, may_be_local: bool) -> None:
    """Check what follows `://`. The messages quote nothing: a misplaced part may be the password."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    credentials, _, hosts = authority.rpartition("@")
    if "@" in credentials or "@" in rest[len(authority) :]:
        raise ValueError("it contains an @ that is not before the host: in a password write @ / ? # as %40 %2F %3F %23")
    if not hosts and not may_be_local:
        raise ValueError("it does not name a host")
    if not all(_HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")):
        raise ValueError("its host and port are not of the form host:1234; credentials come first, as user:password@")


def _secret(value: str) -> str:
    if (size := len(value.encode())) < MIN_SECRET_BYTES:
        raise ValueError(f"HS256 needs at least {MIN_SECRET_BYTES} bytes, but it has {size}")
    return value


def _file_or_url(value: str) -> str:
    return _url("http", "https")(value) if "://" in value else value


def _algorithms(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in JWT_ALGORITHMS:
            raise ValueError(f"{name!r} is not one of {', '.join(JWT_ALGORITHMS)}")
    return ",".join(names)


def _patterns_of_topics(value: str) -> str:
    patterns = [pattern.strip() for pattern in value.split(",")]
    for pattern in patterns:
        if complaint := pattern_complaint(pattern):
            raise ValueError(f"{pattern[:80]!r} {complaint}")
    return ",".join(patterns)


def _user_claim(value: str) -> str:
    if value in NO_USER_CLAIMS:
        raise ValueError(f"{value} has another meaning and cannot name a user")
    return value


def _servers(value: str) -> str:
    for server in value.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not _PORT.fullmatch(port):
            raise ValueError(f"{server.strip()!r} is not host:port")
    return value


def _origins(value: str) -> str:
    origins = [origin.strip().lower() for origin in value.split(",")]
    for origin in origins:
        match = ORIGIN.fullmatch(origin)
        if origin == "*":
            continue
        if not match or not origin.isascii() or int(match[3] or 0) > 65535:
            raise ValueError(
                f"{origin!r} is not a valid origin: write scheme://host, with :port unless it is the default, no path"
            )
        if "*" in match[2].removeprefix("*.") or match[2] == "*.":
            raise ValueError(
                f"{origin!r} is not a valid pattern: write https://*.example.org for all subdomains, or * for everyone"
            )
    return ",".join(origins)


def _networks(value: str) -> str:
    networks = [network.strip() for network in value.split(",")]
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{network!r} is not an address or a network such as 10.0.0.0/8 ({error})") from None
    return ",".join(networks)


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


def hide_password(url: str) -> str:
    """Return the URL with its password, and anything that looks like a secret in its query, replaced by stars."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    place, mark, query = place.partition("?")
    pairs = "&".join(map(_hide_pair, query.split("&")))
    return f"{scheme}://{user}{colon and ':' + STARS}{at}{place}{mark}{pairs}"


def _hide_pair(pair: str) -> str:
    key = pair.partition("=")[0]
    return f"{key}={STARS}" if re.search("pass|secret|token", unquote(key), re.IGNORECASE) else pair


def _hide_in_url(value: str) -> str:
    return hide_password(value) if "://" in value else value


def _hide_all(value: str) -> str:
    return STARS


def _setting(
    doc: str,
    example: str,
    parse: Callable[[str], Any] = _text,
    default: Any = None,
    hide: Callable[[str], str] = _text,
) -> Any:
    """Return a field. `parse` turns the text into the value, or raises ValueError with the problem; `hide` turns the
    value's text into what may be shown.
    """
    return dataclasses.field(
        default=default, repr=hide is _text, metadata={"doc": doc, "example": example, "parse": parse, "hide": hide}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. None means not set."""

    database_url: str | None = _setting(
        "PostgreSQL, as a libpq URL: the primary, or a list of hosts that includes it",
        "postgresql://rowbell:secret@127.0.0.1:5432/app",
        _url("postgresql", "postgres"),
        hide=hide_password,
    )
    kafka_bootstrap_servers: str | None = _setting(
        "Kafka servers, as host:port, separated by commas", "127.0.0.1:9092", _servers
    )
    kafka_topic: str = _setting(
        "the topic to which Debezium writes the changes of `notification`",
        "rowbell.public.notification",
        default="rowbell.public.notification",
    )
    kafka_group: str = _setting(
        "the consumer group that dispatchers share", "rowbell-dispatcher", default="rowbell-dispatcher"
    )
    kafka_dead_letter_topic: str = _setting(
        "the topic for records that cannot be decoded", "rowbell.dead-letters", default="rowbell.dead-letters"
    )
    connect_url: str | None = _setting(
        "the REST API of Kafka Connect", "http://127.0.0.1:8083", _url("http", "https"), hide=hide_password
    )
    redis_url: str | None = _setting(
        "Redis, for presence", "redis://127.0.0.1:6379/0", _url("redis", "rediss", "unix"), hide=hide_password
    )
    rabbitmq_url: str | None = _setting(
        "RabbitMQ, the bus", "amqp://rowbell:secret@127.0.0.1:5672/", _url("amqp", "amqps"), hide=hide_password
    )
    jwt_secret: str | None = _setting(
        "the key of HS256 tokens, 32 bytes or more",
        "$(openssl rand -hex 32)",
        _secret,
        hide=_hide_all,
    )
    jwt_public_key_file: str | None = _setting(
        "a PEM file with one or more public keys of tokens", "/etc/rowbell/issuer.pem"
    )
    jwt_jwks: str | None = _setting(
        "where the issuer publishes the public keys of its tokens: the URL or the file of a JWKS",
        "https://login.example.org/.well-known/jwks.json",
        _file_or_url,
        hide=_hide_in_url,
    )
    jwt_algorithms: str | None = _setting(
        "the algorithms that tokens may be signed with, separated by commas; unset: every algorithm that suits the "
        "keys",
        "RS256,ES256",
        _algorithms,
    )
    jwt_issuer: str | None = _setting(
        "the required value of a token's `iss` claim; unset: the claim is not checked", "https://login.example.org/"
    )
    jwt_audience: str | None = _setting(
        "the value that a token's `aud` claim must equal or contain; unset: a token with that claim is refused",
        "rowbell",
    )
    jwt_leeway: int = _setting(
        "seconds by which the clocks of the issuer and of this machine may differ", "5", _whole(0, 300), default=5
    )
    jwt_user_claim: str = _setting("the claim of a token that names the user", "sub", _user_claim, default="sub")
    public_topics: str | None = _setting(
        "the topics that every user may subscribe to, separated by commas: names or patterns, in which * matches any "
        "part of a segment and # the remaining segments; unset: none",
        "status,news.#",
        _patterns_of_topics,
    )
    host: str = _setting("the address that a gateway listens on", "127.0.0.1", default="127.0.0.1")
    port: int = _setting("the port a gateway listens on; 0 picks a free one", "8114", _whole(0, 65535), default=8114)
    workers: int = _setting(
        "how many gateways `rowbell serve` runs on its port, each a separate process", "2", _whole(1, 256), default=1
    )
    ssl_certfile: str | None = _setting(
        "a PEM file with the gateway's certificate and any intermediate certificates: the gateway then speaks TLS "
        "itself",
        "/etc/rowbell/tls.pem",
    )
    ssl_keyfile: str | None = _setting(
        "a PEM file with the certificate's key; unset: the key is in the certificate's file", "/etc/rowbell/tls.key"
    )
    trusted_proxies: str | None = _setting(
        "addresses and networks, separated by commas, of proxies whose X-Forwarded-For and X-Forwarded-Proto are "
        "trusted; unset: none",
        "127.0.0.1,10.1.0.0/16",
        _networks,
    )
    allowed_origins: str | None = _setting(
        "whose pages may connect from a browser, besides those of the gateway's own host: origins separated by "
        "commas, https://*.example.org for all subdomains, * for everyone",
        "https://app.example.org,https://*.example.org",
        _origins,
    )
    max_connections: int = _setting(
        "the most WebSockets a gateway accepts; 0: no limit",
        "10000",
        _whole(0, 10_000_000),
        default=MAX_CONNECTIONS,
    )
    max_sessions_per_user: int = _setting(
        "the most sessions one user may have on a gateway; 0: no limit",
        "100",
        _whole(0, 10_000_000),
        default=MAX_SESSIONS_PER_USER,
    )
    max_connect_rate: int = _setting(
        "how many connections a second a gateway accepts, in bursts of up to two seconds' worth; 0: no limit",
        "500",
        _whole(0, 1_000_000),
        default=MAX_CONNECT_RATE,
    )
    max_connect_rate_per_address: int = _setting(
        "how many of those may come from one IPv4 address or one IPv6 /64; this machine's own addresses are exempt; "
        "0: no limit",
        "50",
        _whole(0, 1_000_000),
        default=MAX_CONNECT_RATE_PER_ADDRESS,
    )
    max_http_connections: int = _setting(
        "the maximum number of connections that are not WebSockets, or not yet; beyond it the longest idle one is "
        "closed for each new one; 0: no limit",
        "5000",
        _whole(0, 10_000_000),
        default=MAX_HTTP_CONNECTIONS,
    )
    max_frame: int = _setting(
        "the most bytes a client's frame or WebSocket message may have",
        "65536",
        _whole(1024, 1 << 24),
        default=FRAMES.frame,
    )
    max_headers: int = _setting(
        "the most headers a client's frame may have", "64", _whole(8, 10_000), default=FRAMES.headers
    )
    max_header_line: int = _setting(
        "the most characters a client's header line may have",
        "8192",
        _whole(256, 1 << 20),
        default=FRAMES.header_line,
    )
    max_body: int = _setting(
        "the most bytes the body of a client's frame may have", "32768", _whole(256, 1 << 24), default=FRAMES.body
    )
    max_frame_rate: int = _setting(
        "how many frames a second a session may send, in bursts of up to two seconds' worth, not counting one ACK or "
        "NACK for each message; 0: no limit",
        "500",
        _whole(0, 1_000_000),
        default=MAX_FRAME_RATE,
    )
    max_subscriptions: int = _setting(
        "the most subscriptions a session may have", "32", _whole(1, 10_000), default=MAX_SUBSCRIPTIONS
    )
    max_unacknowledged: int = _setting(
        "how many messages of a subscription may wait for the client's ACK; at the limit it is paused until some come",
        "5000",
        _whole(1, 1_000_000),
        default=MAX_UNACKNOWLEDGED,
    )
    connect_timeout: int = _setting(
        "how many seconds a connection has to send CONNECT", "10", _whole(1, 600), default=CONNECT_TIMEOUT
    )
    metrics_host: str = _setting(
        "the address that the Prometheus metrics of every process listen on", "127.0.0.1", default="127.0.0.1"
    )
    metrics_port: int | None = _setting(
        "the port of the Prometheus metrics; unset: no metrics; 0 picks a free one",
        "9114",
        _whole(0, 65535),
    )
    page_database_url: str | None = _setting(
        "PostgreSQL, as a login with `rowbell_app`, which enables the page at /, for development: anyone who can reach "
        "it can read as any user and write to anyone",
        "postgresql://app:secret@127.0.0.1:5432/app",
        _url("postgresql", "postgres"),
        hide=hide_password,
    )
    gateway_url: str = _setting(
        "where `rowbell listen` connects to",
        "ws://127.0.0.1:8114/ws",
        _url("ws", "wss"),
        default="ws://127.0.0.1:8114/ws",
        hide=hide_password,
    )
    log_level: str = _setting(
        "the lowest severity that is logged: debug, info, warning, error",
        "info",
        _one_of("debug", "info", "warning", "error"),
        default="info",
    )
    log_format: str = _setting(
        "`json`, `console`, or `auto`: console on a terminal, otherwise JSON",
        "json",
        _one_of("auto", "json", "console"),
        default="auto",
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str], warn: Callable[[str], None] = lambda warning: None) -> Settings:
        """Read the settings from `ROWBELL_*` variables; an empty one counts as unset.

        SettingsError names every setting that is wrong. `warn` is called with a text for each unknown variable.
        """
        for warning in _unknown(environ):
            warn(warning)
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
        """Raise SettingsError if any of these settings (field names) is not set, naming each that is missing."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        missing = [_complaint(fields[name], "is not set") for name in names if getattr(self, name) is None]
        if missing:
            raise SettingsError("\n".join(missing))

    def shown(self) -> Iterator[tuple[str, str | None, str]]:
        """Yield (environment name, value with secrets hidden or None, description) for every setting."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = field.metadata["hide"](str(value))
            yield environment_name(field.name), value, field.metadata["doc"]


DEFAULTS = Settings()
"""The settings when none is set."""


def environment_name(field_name: str) -> str:
    """Return the environment variable of a field: `port` → `ROWBELL_PORT`."""
    return PREFIX + field_name.upper()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches this host, a name or an address without brackets."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def not_listening(what: str, error: OSError | UnicodeError, setting: str) -> SettingsError:
    """Return the error for an address that cannot be listened on: `what` failed, and what to do about the port, whose
    setting is `setting`, or about its host.
    """
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        advice = f"Stop what uses the port, or set {setting} to another one; 0 picks a free one."
    elif number == errno.EACCES:
        advice = f"Set {setting} to 1024 or above: lower ports are reserved for the system."
    else:
        host = setting.replace("PORT", "HOST")
        advice = f"Set {host} to an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them."
    return SettingsError(f"{what}: {os.strerror(number) if number and number > 0 else error}. {advice}")


def parsed(name: str, text: str) -> Any:
    """Parse `text` as the setting with field name `name`. ValueError says what is wrong with the text."""
    (field,) = (field for field in dataclasses.fields(Settings) if field.name == name)
    return field.metadata["parse"](text)


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like a setting but is not one, with the closest known name."""
    known = [field.name.upper() for field in dataclasses.fields(Settings)]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.removeprefix(PREFIX) in known or not environ[name]:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
        meant = f": did you mean {PREFIX}{near[0]}?" if near else "; `rowbell config` shows all settings"
        yield f"{name} is not a known setting and is ignored{meant}"


def _complaint(field: dataclasses.Field[Any], problem: str) -> str:
    name = environment_name(field.name)
    return f"{name} {problem}. Meaning: {field.metadata['doc']}. Example: {name}={field.metadata['example']}"

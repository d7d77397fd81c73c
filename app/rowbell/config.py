"""Every setting: one frozen type, one environment name each, read once and validated here.

`Settings.from_env(os.environ)` is the only place where the environment is looked at. Each command names what
it cannot do without through `require`, so a missing setting stops the process at its start, with the key, the
value's problem and an example.
"""

from __future__ import annotations

import dataclasses
import difflib
import errno
import ipaddress
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
"""RFC 7518, section 3.2: a key of at least the hash's size must be used with HS256."""

JWT_ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
)  # fmt: skip
"""Every algorithm a token may be signed with, by the names of RFC 7518, 3.1, and RFC 8037."""

NO_USER_CLAIMS = {"iss", "aud", "exp", "nbf", "iat", "jti", "topics"}
"""Claims that cannot name a user: they have another meaning."""

LOCAL_SCHEMES = {"postgresql", "postgres", "unix"}
"""Their URLs may do without a host: a socket of this machine is meant."""

MAX_CONNECTIONS = 10_000
"""Of one gateway: about 25 KiB each, so 250 MiB when nothing is on the way to them, and half as much again with TLS."""
MAX_SESSIONS_PER_USER = 100
"""On one gateway: more than anybody has tabs and devices, and few enough that a client that leaks connections, each of
which is sent every change, harms nobody else."""
MAX_CONNECT_RATE = 500
"""A second, on one gateway: it has a core, and a handshake takes well under a millisecond of it, so whoever is there
already is served as before while others come."""
MAX_HTTP_CONNECTIONS = 5000
"""Of one gateway: what comes at MAX_CONNECT_RATE in the ten seconds that a client has to ask for something. Those that
have asked for nothing the longest give way to new ones, so clients come in while somebody opens connections and says
nothing."""
MAX_CONNECT_RATE_PER_ADDRESS = 50
"""A second: an office behind one address, all of whom come back after a restart, is in within some seconds."""

MAX_SUBSCRIPTIONS = 32
"""Of one session: each change is written once for each that it is for."""
MAX_FRAME_RATE = 500
"""A second, of one session: more than any client needs, and some hundredths of a processor."""
MAX_UNACKNOWLEDGED = 5000
"""Of one subscription: what waits for an ACK is remembered."""
CONNECT_TIMEOUT = 10
"""Seconds: a client on a bad line has said CONNECT by then, and who says nothing shall not keep a place."""

ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\[\]:/?#@,\s]+)(?::([0-9]{1,5}))?")
"""Scheme, host and port of an origin (RFC 6454, 6.2) in lower case."""

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
            raise ValueError("it holds a space or a control character: write it percent-encoded (a space is %20)")
        if _BAD_PERCENT.search(rest):
            # libpq would quote the password in its own message about this.
            raise ValueError("it holds %00, or a % that begins no percent-encoded character: write that as %25")
        _check_hosts(rest, may_be_local=scheme in LOCAL_SCHEMES)
        return value

    return check


def _check_hosts(rest: str, may_be_local: bool) -> None:
    """Of what follows `://`. The messages quote nothing: what stands in a wrong place may be the password."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    credentials, _, hosts = authority.rpartition("@")
    if "@" in credentials or "@" in rest[len(authority) :]:
        raise ValueError("it holds an @ that is not before the host: in a password write @ / ? # as %40 %2F %3F %23")
    if not hosts and not may_be_local:
        raise ValueError("it names no host")
    if not all(_HOST_AND_PORT.fullmatch(host) for host in hosts.split(",")):
        raise ValueError("its host and port are not as in host:1234: a password stands before an @, as user:password@")


def _secret(value: str) -> str:
    if (size := len(value.encode())) < MIN_SECRET_BYTES:
        raise ValueError(f"HS256 needs at least {MIN_SECRET_BYTES} bytes, and it has {size}")
    return value


def _file_or_url(value: str) -> str:
    return _url("http", "https")(value) if "://" in value else value


def _algorithms(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in JWT_ALGORITHMS:
            raise ValueError(f"{name!r} is none of {', '.join(JWT_ALGORITHMS)}")
    return ",".join(names)


def _patterns_of_topics(value: str) -> str:
    patterns = [pattern.strip() for pattern in value.split(",")]
    for pattern in patterns:
        if complaint := pattern_complaint(pattern):
            raise ValueError(f"{pattern[:80]!r} {complaint}")
    return ",".join(patterns)


def _user_claim(value: str) -> str:
    if value in NO_USER_CLAIMS:
        raise ValueError(f"{value} has another meaning and names nobody")
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
                f"{origin!r} is no origin, which is scheme://host, and :port if it is not the scheme's own, and no path"
            )
        if "*" in match[2].removeprefix("*.") or match[2] == "*.":
            raise ValueError(f"{origin!r} is no pattern: https://*.example.org is all subdomains, and * is everybody")
    return ",".join(origins)


def _networks(value: str) -> str:
    networks = [network.strip() for network in value.split(",")]
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{network!r} is neither an address nor a network, as 10.0.0.0/8 is ({error})") from None
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
    """The URL with its password, and what looks like a secret in its query, replaced by stars."""
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
    """`parse` makes the value of the text or raises ValueError with its problem; `hide` makes it fit to show."""
    return dataclasses.field(
        default=default, repr=hide is _text, metadata={"doc": doc, "example": example, "parse": parse, "hide": hide}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one process runs with. None means that it was not set."""

    database_url: str | None = _setting(
        "PostgreSQL, as a libpq URL: the primary, or a list of hosts of which one is",
        "postgresql://rowbell:secret@127.0.0.1:5432/app",
        _url("postgresql", "postgres"),
        hide=hide_password,
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
        "a PEM file with the public keys of tokens, one or several", "/etc/rowbell/issuer.pem"
    )
    jwt_jwks: str | None = _setting(
        "where the issuer lists the public keys of its tokens: the URL or the file of a JWKS",
        "https://login.example.org/.well-known/jwks.json",
        _file_or_url,
        hide=_hide_in_url,
    )
    jwt_algorithms: str | None = _setting(
        "the algorithms that tokens may be signed with, with commas; unset: each that suits the keys",
        "RS256,ES256",
        _algorithms,
    )
    jwt_issuer: str | None = _setting(
        "what the claim `iss` of a token must be; unset: it is not looked at", "https://login.example.org/"
    )
    jwt_audience: str | None = _setting(
        "what the claim `aud` of a token must be, or hold; unset: a token with that claim is refused", "rowbell"
    )
    jwt_leeway: int = _setting(
        "seconds by which the clocks of the issuer and of this machine may differ", "5", _whole(0, 300), default=5
    )
    jwt_user_claim: str = _setting("the claim of a token that names the user", "sub", _user_claim, default="sub")
    public_topics: str | None = _setting(
        "the topics that every user may subscribe to, whatever the token says: names with commas, in which * is any "
        "part of a segment and # the segments that follow; unset: none",
        "status,news.#",
        _patterns_of_topics,
    )
    host: str = _setting(
        "the address that a gateway, and the metrics of every process, listen on", "127.0.0.1", default="127.0.0.1"
    )
    port: int = _setting("the port a gateway listens on; 0 takes a free one", "8114", _whole(0, 65535), default=8114)
    workers: int = _setting(
        "how many gateways `rowbell serve` runs on its port, each a process", "2", _whole(1, 256), default=1
    )
    ssl_certfile: str | None = _setting(
        "a PEM file with the gateway's certificate and those between it and the root: the gateway speaks TLS itself",
        "/etc/rowbell/tls.pem",
    )
    ssl_keyfile: str | None = _setting(
        "a PEM file with the certificate's key; unset: it stands in the certificate's file", "/etc/rowbell/tls.key"
    )
    trusted_proxies: str | None = _setting(
        "the addresses and networks, with commas, of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; "
        "unset: nobody's",
        "127.0.0.1,10.1.0.0/16",
        _networks,
    )
    allowed_origins: str | None = _setting(
        "whose pages may connect from a browser, beside those of the gateway's own host: origins with commas, "
        "https://*.example.org for all subdomains, * for everybody",
        "https://app.example.org,https://*.example.org",
        _origins,
    )
    max_connections: int = _setting(
        "how many WebSockets a gateway has at most; 0: no limit",
        "10000",
        _whole(0, 10_000_000),
        default=MAX_CONNECTIONS,
    )
    max_sessions_per_user: int = _setting(
        "how many sessions of one user a gateway has at most; 0: no limit",
        "100",
        _whole(0, 10_000_000),
        default=MAX_SESSIONS_PER_USER,
    )
    max_connect_rate: int = _setting(
        "how many connects a second a gateway takes, two seconds' worth of them at once; 0: no limit",
        "500",
        _whole(0, 1_000_000),
        default=MAX_CONNECT_RATE,
    )
    max_connect_rate_per_address: int = _setting(
        "how many of them from one IPv4 address or one /64 of IPv6, but for this machine's own; 0: no limit",
        "50",
        _whole(0, 1_000_000),
        default=MAX_CONNECT_RATE_PER_ADDRESS,
    )
    max_http_connections: int = _setting(
        "how many connections a gateway has at most that are not WebSockets, or not yet; the one that has asked for "
        "nothing the longest gives way to a new one; 0: no limit",
        "5000",
        _whole(0, 10_000_000),
        default=MAX_HTTP_CONNECTIONS,
    )
    max_frame: int = _setting(
        "how many bytes a frame, or WebSocket message, of a client has at most",
        "65536",
        _whole(1024, 1 << 24),
        default=FRAMES.frame,
    )
    max_headers: int = _setting(
        "how many headers a frame of a client has at most", "64", _whole(8, 10_000), default=FRAMES.headers
    )
    max_header_line: int = _setting(
        "how many characters a header line of a client has at most",
        "8192",
        _whole(256, 1 << 20),
        default=FRAMES.header_line,
    )
    max_body: int = _setting(
        "how many bytes the body of a client's frame has at most", "32768", _whole(256, 1 << 24), default=FRAMES.body
    )
    max_frame_rate: int = _setting(
        "how many frames a second a session sends at most, two seconds' worth of them at once; an ACK or NACK for each "
        "message does not count; 0: no limit",
        "500",
        _whole(0, 1_000_000),
        default=MAX_FRAME_RATE,
    )
    max_subscriptions: int = _setting(
        "how many subscriptions a session has at most", "32", _whole(1, 10_000), default=MAX_SUBSCRIPTIONS
    )
    max_unacknowledged: int = _setting(
        "how many messages of a subscription may wait for the client's ACK; then it is sent no more until some come",
        "5000",
        _whole(1, 1_000_000),
        default=MAX_UNACKNOWLEDGED,
    )
    connect_timeout: int = _setting(
        "how many seconds a connection has until CONNECT", "10", _whole(1, 600), default=CONNECT_TIMEOUT
    )
    metrics_port: int | None = _setting(
        "the port of Prometheus metrics on the same address; unset: none; 0 takes a free one",
        "9114",
        _whole(0, 65535),
    )
    page_database_url: str | None = _setting(
        "switches on the page at /, for development: PostgreSQL, as a login that may insert. Whoever reaches the page "
        "can be any user and write to anybody",
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
    def from_env(cls, environ: Mapping[str, str], warn: Callable[[str], None] = lambda warning: None) -> Settings:
        """Read every `ROWBELL_*` setting; an empty one is unset. SettingsError names each one that is wrong; `warn` is
        told of each name that is none.
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
        """SettingsError that names each of these settings (field names) that is not set."""
        fields = {field.name: field for field in dataclasses.fields(self)}
        missing = [_complaint(fields[name], "is not set") for name in names if getattr(self, name) is None]
        if missing:
            raise SettingsError("\n".join(missing))

    def shown(self) -> Iterator[tuple[str, str | None, str]]:
        """(environment name, value with secrets hidden or None, what it is for) of every setting."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                value = field.metadata["hide"](str(value))
            yield environment_name(field.name), value, field.metadata["doc"]


DEFAULTS = Settings()
"""Where nothing was set."""


def environment_name(field_name: str) -> str:
    return PREFIX + field_name.upper()


def not_listening(what: str, error: OSError | UnicodeError, setting: str) -> SettingsError:
    """For who can serve nothing at an address: `what` went wrong, and what to do with ROWBELL_HOST or the port, which
    `setting` names.
    """
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        advice = f"Stop what uses the port, or set {setting} to another; 0 takes a free one."
    elif number == errno.EACCES:
        advice = f"Set {setting} to a port from 1024 on: those below are the system's."
    else:
        advice = "Set ROWBELL_HOST to an address of this machine: 127.0.0.1, or 0.0.0.0 for all that it has."
    return SettingsError(f"{what}: {getattr(error, 'strerror', None) or error}. {advice}")


def parsed(name: str, text: str) -> Any:
    """The value of the setting of this field name. ValueError says what is wrong with the text."""
    (field,) = (field for field in dataclasses.fields(Settings) if field.name == name)
    return field.metadata["parse"](text)


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    """A warning for each variable that looks like a setting and is none, with the one that may be meant."""
    known = [field.name.upper() for field in dataclasses.fields(Settings)]
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.removeprefix(PREFIX) in known or not environ[name]:
            continue
        near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
        meant = f": did you mean {PREFIX}{near[0]}?" if near else "; rowbell config shows all that there are"
        yield f"{name} is no setting, and is not looked at{meant}"


def _complaint(field: dataclasses.Field[Any], problem: str) -> str:
    name = environment_name(field.name)
    return f"{name} {problem}. It is {field.metadata['doc']}. Example: {name}={field.metadata['example']}"

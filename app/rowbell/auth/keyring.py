"""The keys whose tokens are accepted, from up to three sources, and the checks of their settings.

Accepting a secret and public keys together must be an explicit choice: if the secret of a development machine is left
in the environment of a gateway that relies on an issuer's public keys, anyone who knows it can be any user. So with
both, ROWBELL_JWT_ALGORITHMS must be set, and must name algorithms of both kinds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from urllib.parse import urlsplit

from rowbell.auth.fetch import read_file, read_url
from rowbell.auth.jwks import Jwks
from rowbell.auth.keys import SECRET_BYTES, Key, public_keys, secret_key
from rowbell.config import JWT_ALGORITHMS, Settings, environment_name, hide_password, is_loopback
from rowbell.errors import SettingsError
from rowbell.logs import get_logger

log = get_logger("auth")

SOURCES = ("jwt_secret", "jwt_public_key_file", "jwt_jwks")
"""The settings that name sources of keys. A gateway needs at least one."""

SECRET = environment_name("jwt_secret")
PUBLIC_KEY_FILE = environment_name("jwt_public_key_file")
JWKS = environment_name("jwt_jwks")
ALGORITHMS = environment_name("jwt_algorithms")

ALONE = (
    "Use the gateway's secret, which no other can replace; after `make run` or `make stack`: . .rowbell/env\n"
    "To use a token of your issuer: rowbell listen USER --token TOKEN"
)
"""Advice when there is no secret."""


class Keyring:
    """All keys of a gateway: the secret, fixed public keys, and the issuer's key set."""

    def __init__(self, secret: Key | None = None, public: Sequence[Key] = (), jwks: Jwks | None = None) -> None:
        self.secret = secret
        self.jwks = jwks
        self._fixed = (*([secret] if secret else []), *public)
        self._fixed_algorithms = frozenset().union(*(key.algorithms for key in self._fixed))

    @classmethod
    def of(cls, settings: Settings) -> Keyring:
        """Return the keyring of these settings, for verifying; an issuer's key set at a URL is read later.

        Raises SettingsError if there is no key, or one of them cannot be used.
        """
        _check_sources(settings)
        allowed = _allowed(settings)
        return cls(_secret(settings, allowed), _public(settings, allowed), _jwks(settings, allowed))

    @classmethod
    def for_issuing(cls, settings: Settings) -> Keyring:
        """Return a keyring of the secret alone, the only key that can sign. Raises SettingsError if it is not set or
        unusable.
        """
        try:
            settings.require("jwt_secret")
        except SettingsError as error:
            raise SettingsError(f"{error}\n{ALONE}") from None
        _check_sources(settings)
        return cls(_secret(settings, _allowed(settings)))

    @property
    def can_verify(self) -> bool:
        """Whether any key is known: False until the issuer's key set has been read, if that is the only source."""
        return bool(self._fixed) or (self.jwks is not None and self.jwks.is_loaded)

    def candidates(self, algorithm: str, kid: str | None) -> Iterator[Key]:
        """Yield the keys that may have signed a token with this `alg` and `kid`."""
        listed = self.jwks.candidates(kid) if self.jwks else ()
        return (key for key in (*listed, *self._fixed) if algorithm in key.algorithms)

    def takes(self, algorithm: str) -> bool:
        """Whether a key for this algorithm may exist; the issuer's key set may gain one at any time."""
        return algorithm in self._fixed_algorithms or (self.jwks is not None and algorithm in self.jwks.algorithms)


def _check_sources(settings: Settings) -> None:
    """Raise SettingsError if no source is set, or the sources and algorithms contradict each other."""
    given = [name for name in SOURCES if getattr(settings, name) is not None]
    if not given:
        try:
            settings.require("jwt_secret")
        except SettingsError as error:
            raise SettingsError(
                f"{error}\nOr, for tokens of an issuer with public keys, set {PUBLIC_KEY_FILE} or {JWKS}"
            ) from None
    public = [environment_name(name) for name in given if name != "jwt_secret"]
    if settings.jwt_algorithms is None:
        if public and settings.jwt_secret is not None:
            raise SettingsError(
                f"{SECRET} is set together with {' and '.join(public)}: anyone who knows the secret could be any user. "
                "Unset it; or, to accept tokens of both kinds, name the algorithms of both, for example "
                f"{ALGORITHMS}={','.join(['HS256', *_usual(settings)])}"
            )
        return
    named = settings.jwt_algorithms.split(",")
    _check_named(settings.jwt_secret is not None, SECRET, [name for name in named if name in SECRET_BYTES])
    _check_named(
        bool(public),
        " and ".join(public) or f"{PUBLIC_KEY_FILE} or {JWKS}",
        [name for name in named if name not in SECRET_BYTES],
    )


def _usual(settings: Settings) -> list[str]:
    """Return an algorithm for each public key; for an issuer's key set, which is not read here, the most common one."""
    keys = _public(settings, JWT_ALGORITHMS)
    names = [next(name for name in JWT_ALGORITHMS if name in key.algorithms) for key in keys]
    return list(dict.fromkeys([*names, *(["RS256"] if settings.jwt_jwks else [])]))


def _check_named(is_given: bool, source: str, named: list[str]) -> None:
    if is_given and not named:
        raise SettingsError(f"{ALGORITHMS} names no algorithm for {source}: name one, or unset {source}")
    if named and not is_given:
        raise SettingsError(f"{ALGORITHMS} names {', '.join(named)}, which requires {source}")


def _allowed(settings: Settings) -> Collection[str]:
    return settings.jwt_algorithms.split(",") if settings.jwt_algorithms else JWT_ALGORITHMS


def _secret(settings: Settings, allowed: Collection[str]) -> Key | None:
    if settings.jwt_secret is None:
        return None
    try:
        key = secret_key(settings.jwt_secret, allowed)
    except ValueError as problem:
        raise SettingsError(f"{SECRET} is wrong: {problem}. Example: {SECRET}=$(openssl rand -hex 32)") from None
    if settings.jwt_algorithms and (short := SECRET_BYTES.keys() & set(allowed) - key.algorithms):
        least = max(SECRET_BYTES[name] for name in short)
        raise SettingsError(f"{SECRET} is too short for {', '.join(sorted(short))}: it needs at least {least} bytes")
    return key


def _public(settings: Settings, allowed: Collection[str]) -> list[Key]:
    if (path := settings.jwt_public_key_file) is None:
        return []
    try:
        return public_keys(read_file(path).decode("latin-1"), allowed)
    except OSError as error:
        raise SettingsError(f"{PUBLIC_KEY_FILE}: {path} cannot be read: {error.strerror or error}") from None
    except ValueError as problem:
        raise SettingsError(f"{PUBLIC_KEY_FILE}: {path} is wrong: {problem}") from None


def _jwks(settings: Settings, allowed: Collection[str]) -> Jwks | None:
    """Return the issuer's key set, if one is set.

    A file is read now and must be valid, since only the operator can have put it there; a server may be down at the
    moment.
    """
    if (place := settings.jwt_jwks) is None:
        return None
    if "://" in place:
        if place.startswith("http://") and not is_loopback(urlsplit(place).hostname or ""):
            log.warning("jwks_without_tls", place=hide_password(place))
        return Jwks(partial(read_url, place), hide_password(place), allowed)
    jwks = Jwks(partial(read_file, place), place, allowed)
    try:
        jwks.load()
    except OSError as error:
        raise SettingsError(
            f"{JWKS}: {place} cannot be read: {error.strerror or error}. Without https:// it is read as a file."
        ) from None
    except ValueError as problem:
        raise SettingsError(f"{JWKS}: {place} is wrong: {problem}") from None
    return jwks

"""JSON Web Tokens, issued with the secret and verified with every key of the keyring.

pyjwt verifies the signatures. This module decides which keys may have signed the token, and what its header may ask
for. Of the header, only `alg` and `kid` are read, and only compared with what we know; `jku`, `x5u`, `jwk` and the
like, with which a token would bring its own key, are ignored. No message here contains a token or any part of one,
because messages end up in logs.

Source: RFC 7515 (JWS), RFC 7519 (JWT), RFC 8725 (best current practices), RFC 6750 (Bearer)
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import jwt

from rowbell.auth.claims import Identity, Rules, refusal
from rowbell.auth.keyring import ALONE, SECRET, Keyring
from rowbell.auth.keys import SECRET_BYTES, secret_key
from rowbell.auth.strict_json import read_object
from rowbell.config import JWT_ALGORITHMS, Settings
from rowbell.errors import KeysUnavailable, SettingsError, TokenError

MAX_TOKEN = 8192
"""Characters. Proxies and servers accept headers of 8 KiB; a longer token is not ours, and would take time to
verify."""

WAIT = 3.0
"""Seconds that a client waits for the issuer's key set to be read again: less than its timeout for a handshake."""

_SIGNATURES = jwt.PyJWS(JWT_ALGORITHMS, {"verify_signature": True, "enforce_minimum_key_length": True})


class Tokens:
    """Issues and verifies tokens."""

    def __init__(self, keys: str | Keyring, rules: Rules | None = None, clock: Callable[[], float] = time.time) -> None:
        """`keys` may be just a secret; `clock` returns seconds since the epoch."""
        self._keys = Keyring(secret_key(keys, JWT_ALGORITHMS)) if isinstance(keys, str) else keys
        self._rules = rules or Rules()
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """Use all keys of these settings. Raises SettingsError if there are none, or one cannot be used."""
        return cls(Keyring.of(settings), Rules.of(settings))

    @classmethod
    def for_issuing(cls, settings: Settings) -> Tokens:
        """Use the secret of these settings. Raises SettingsError if it is not set, or cannot be used."""
        return cls(Keyring.for_issuing(settings), Rules.of(settings))

    async def run(self) -> None:
        """Keep the issuer's key set fresh; return at once if there is none."""
        if self._keys.jwks is not None:
            await self._keys.jwks.run()

    @property
    def leeway(self) -> int:
        """Seconds by which the clocks of the issuer and this machine may differ."""
        return self._rules.leeway

    @property
    def can_verify(self) -> bool:
        """Whether there are keys; those of an issuer may not have been read yet."""
        return self._keys.can_verify

    @property
    def can_issue(self) -> bool:
        """Whether there is a secret to sign with."""
        return self._keys.secret is not None

    def issue(self, user: str, lifetime: int, issued_at: int | None = None, **claims: Any) -> str:
        """Return a token for `user` that is valid for `lifetime` seconds, with `claims` in addition.

        Raises TokenError if `user` cannot be a recipient, SettingsError if there is no secret.
        """
        if (secret := self._keys.secret) is None:
            raise SettingsError(f"{SECRET} is not set. {ALONE}")
        issued_at = int(self._clock()) if issued_at is None else issued_at
        payload = {**self._rules.claims(user), "iat": issued_at, "exp": issued_at + lifetime, **claims}
        algorithm = next(name for name in SECRET_BYTES if name in secret.algorithms)
        return jwt.encode(payload, str(secret.material), algorithm)

    def verify(self, token: str) -> Identity:
        """Return the identity that the token establishes; never waits.

        Raises TokenError, with a short reason, if the token is invalid; KeysUnavailable if it cannot be verified at
        present, because its key may be one that was added since the key set was last read.
        """
        return self._identity(token, is_current=False)

    async def identify(self, token: str) -> Identity:
        """Like `verify`, but if the key set must be read again, wait for that, for at most WAIT seconds."""
        try:
            return self._identity(token, is_current=False)
        except KeysUnavailable:
            assert self._keys.jwks is not None, "only a key set can be out of date"
            is_current = await self._keys.jwks.renewed(WAIT)
        return self._identity(token, is_current)

    def _identity(self, token: str, is_current: bool) -> Identity:
        """`is_current` means that a key that is not in the key set does not exist."""
        if not token:
            raise TokenError("the token is missing")
        if len(token) > MAX_TOKEN or not token.isascii():
            raise refusal(f"it is longer than {MAX_TOKEN} characters, or not ASCII")
        algorithm, kid = _header(token)
        if not self._keys.takes(algorithm):
            taken = [name for name in JWT_ALGORITHMS if self._keys.takes(name)]
            raise refusal(f"it is not signed with {'one of ' if len(taken) > 1 else ''}{', '.join(taken)}")
        payload = self._payload(token, algorithm, kid)
        if payload is None:
            raise self._unknown(algorithm, kid, is_current)
        return self._rules.identity(_object(payload), self._clock())

    def _payload(self, token: str, algorithm: str, kid: str | None) -> bytes | None:
        """Return the signed payload, or None if no key verifies the signature."""
        for key in self._keys.candidates(algorithm, kid):
            try:
                payload: bytes = _SIGNATURES.decode(token, key.material, algorithms=[algorithm])
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                raise refusal("it is malformed") from None
            return payload
        return None

    def _unknown(self, algorithm: str, kid: str | None, is_current: bool) -> TokenError:
        """Return the error for a token that no key verifies, and request a read of the key set if that may help."""
        jwks = self._keys.jwks
        if jwks is None or algorithm in SECRET_BYTES or jwks.lists(kid):
            return refusal("it was signed with another key")
        if is_current:
            return refusal("it was signed with a key that its issuer does not list (`kid`)")
        jwks.ask()
        if not jwks.is_loaded:
            return KeysUnavailable("the issuer's keys are not known here yet: try again in a few seconds")
        return KeysUnavailable("the token's key is not known here yet: try again in a few seconds")


def bearer(value: str) -> str:
    """Return the token of an `Authorization: Bearer TOKEN` header. Raises TokenError if the value has another form."""
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenError("the Authorization header must read: Bearer TOKEN")
    return token.strip()


def _header(token: str) -> tuple[str, str | None]:
    """Return `alg` and `kid`. Raises TokenError if the header is malformed or demands an extension."""
    try:
        header = _object(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    except ValueError:
        raise refusal("it is malformed") from None
    if "crit" in header or "b64" in header:
        # RFC 7515, 4.1.11: a recipient that does not understand an extension must refuse it. We understand none.
        raise refusal("its header demands an extension (`crit`, `b64`)")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise refusal("it is malformed")
    return algorithm, kid


def _object(part: bytes) -> dict[str, Any]:
    try:
        return read_object(part)
    except ValueError:
        raise refusal("it is malformed") from None

"""Who is this? JSON Web Tokens, issued with the secret and verified with every key of the ring.

Signatures are pyjwt's business. Around it stand: which key may have made the token, and what its header may ask for.
Of the header `alg` and `kid` are looked at, each only to be compared with what we know; `jku`, `x5u`, `jwk` and the
like, by which a token would bring its own key, are not. No message here holds a token, or any part of one: messages end
up in logs.

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
"""Characters: 8 KiB is what proxies and servers take as a header; more is not ours, and costs time to check."""

WAIT = 3.0
"""Seconds that a client waits for the issuer's keys to be read again: less than its patience for a handshake."""

_SIGNATURES = jwt.PyJWS(JWT_ALGORITHMS, {"verify_signature": True, "enforce_minimum_key_length": True})


class Tokens:
    """Issues and verifies tokens."""

    def __init__(self, keys: str | Keyring, rules: Rules | None = None, clock: Callable[[], float] = time.time) -> None:
        """`keys` may be a secret alone; `clock` gives seconds since the epoch."""
        self._keys = Keyring(secret_key(keys, JWT_ALGORITHMS)) if isinstance(keys, str) else keys
        self._rules = rules or Rules()
        self._clock = clock

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """With all keys of these settings. SettingsError if there is none, or one cannot be used."""
        return cls(Keyring.of(settings), Rules.of(settings))

    @classmethod
    def for_issuing(cls, settings: Settings) -> Tokens:
        """With the secret of these settings. SettingsError if there is none, or it cannot be used."""
        return cls(Keyring.for_issuing(settings), Rules.of(settings))

    async def run(self) -> None:
        """Keep the keys fresh that an issuer lists; ends at once where there is no such list."""
        if self._keys.jwks is not None:
            await self._keys.jwks.run()

    @property
    def leeway(self) -> int:
        """Seconds by which the clocks of the issuer and of this machine may differ."""
        return self._rules.leeway

    @property
    def can_verify(self) -> bool:
        """Are there keys? What an issuer lists may not have been read yet."""
        return self._keys.can_verify

    @property
    def can_issue(self) -> bool:
        return self._keys.secret is not None

    def issue(self, user: str, lifetime: int, issued_at: int | None = None, **claims: Any) -> str:
        """A token for `user` that lasts `lifetime` seconds; `claims` go in beside.

        TokenError: not a user. SettingsError: there is no secret.
        """
        if (secret := self._keys.secret) is None:
            raise SettingsError(f"{SECRET} is not set. {ALONE}")
        issued_at = int(self._clock()) if issued_at is None else issued_at
        payload = {**self._rules.claims(user), "iat": issued_at, "exp": issued_at + lifetime, **claims}
        algorithm = next(name for name in SECRET_BYTES if name in secret.algorithms)
        return jwt.encode(payload, str(secret.material), algorithm)

    def verify(self, token: str) -> Identity:
        """Whom the token names. TokenError says in a few words why it is refused; KeysUnavailable, that it cannot
        be checked: its key may be one that was not listed yet when the list was read last. Never waits.
        """
        return self._identity(token, is_current=False)

    async def identify(self, token: str) -> Identity:
        """The same; but where the list has to be read again it is awaited, for at most WAIT seconds."""
        try:
            return self._identity(token, is_current=False)
        except KeysUnavailable:
            assert self._keys.jwks is not None, "only a list can be out of date"
            is_current = await self._keys.jwks.renewed(WAIT)
        return self._identity(token, is_current)

    def _identity(self, token: str, is_current: bool) -> Identity:
        """`is_current`: a key that is not in the list now does not exist."""
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
        """What was signed. None if none of the keys did."""
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
        """What is said of a token that no key has made."""
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
    """The token of an `Authorization: Bearer TOKEN`. TokenError if it is anything else."""
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenError("the Authorization header must read: Bearer TOKEN")
    return token.strip()


def _header(token: str) -> tuple[str, str | None]:
    """`alg` and `kid`. TokenError if the header is none, or asks for more than a signature."""
    try:
        header = _object(base64.urlsafe_b64decode(token.partition(".")[0] + "=="))
    except ValueError:
        raise refusal("it is malformed") from None
    if "crit" in header or "b64" in header:
        # RFC 7515, 4.1.11: whoever does not know an extension refuses it. We know none, and want none.
        raise refusal("its header asks for an extension (`crit`, `b64`)")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise refusal("it is malformed")
    return algorithm, kid


def _object(part: bytes) -> dict[str, Any]:
    try:
        return read_object(part)
    except ValueError:
        raise refusal("it is malformed") from None

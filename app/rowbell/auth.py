"""Who is this? Tokens: JSON Web Tokens signed with HS256 and the key ROWBELL_JWT_SECRET.

A token's subject is the user, and the user is the recipient of rows, so a subject is what the column
`recipient_id` takes, topics aside. No message here holds a token or any claim of one: they end up in logs.

Source: RFC 7519 (JWT), RFC 8725 (best current practices), RFC 6750 (Bearer)
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

import jwt

from rowbell.config import Settings
from rowbell.errors import TokenError

ALGORITHM = "HS256"
"""The only one: RFC 8725, 3.1. With a list, a public key could pass for a secret one."""

LEEWAY = 5
"""Seconds that the clocks of the issuer and of this machine may differ."""

MAX_TOKEN = 8192
"""Characters: 8 KiB is what proxies and servers take as a header; more is not ours, and costs time to check."""

MAX_SUBJECT = 255
"""Characters, as in the CHECK of `notification.recipient_id`."""

LAST_EXPIRY = 253_402_300_799
"""The end of the year 9999, in seconds since the epoch. An issuer that counts milliseconds would mean for ever."""

_REFUSED_IN_SUBJECT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/*#:]")
"""Control characters, halves of characters (no UTF-8 for them), and what destinations and `topic:` are made of."""

_REASONS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet (`nbf` or `iat` lies ahead): compare the machines' clocks"),
    (jwt.InvalidAudienceError, "it is for another audience (`aud`): issue one without"),
    (jwt.InvalidAlgorithmError, f"it is not signed with {ALGORITHM}"),
    (jwt.InvalidSignatureError, "it was signed with another key"),
    (jwt.exceptions.InvalidSubjectError, "its subject (`sub`) is not a string"),
    (jwt.InvalidIssuedAtError, "its `iat` is not a number"),
    (jwt.InvalidTokenError, "it is malformed"),
)
"""What is said for pyjwt's errors, the narrower first: their own texts quote what came in."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a valid token names, and until when: seconds since the epoch, None without end."""

    user: str
    expires_at: int | None


class Tokens:
    """Issues and verifies tokens with one key."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @classmethod
    def of(cls, settings: Settings) -> Tokens:
        """With the key of these settings. SettingsError if there is none."""
        settings.require("jwt_secret")
        return cls(str(settings.jwt_secret))

    def issue(self, user: str, lifetime: int, issued_at: int | None = None, **claims: Any) -> str:
        """A token for `user` that lasts `lifetime` seconds; `claims` go in beside. TokenError: not a subject."""
        issued_at = int(time.time()) if issued_at is None else issued_at
        payload = {"sub": _subject(user), "iat": issued_at, "exp": issued_at + lifetime, **claims}
        return jwt.encode(payload, self._secret, ALGORITHM)

    def verify(self, token: str) -> Identity:
        """Whom the token names. TokenError says in a few words why it is refused."""
        if not token:
            raise TokenError("the token is missing")
        if len(token) > MAX_TOKEN or not token.isascii():
            raise TokenError(f"the token is refused: it is longer than {MAX_TOKEN} characters, or not ASCII")
        try:
            claims = jwt.decode(
                token, self._secret, algorithms=[ALGORITHM], leeway=LEEWAY, options={"require": ["exp", "sub"]}
            )
        except jwt.MissingRequiredClaimError as error:
            raise TokenError(f"the token is refused: it has no `{error.claim}`") from None
        except jwt.InvalidTokenError as error:
            raise TokenError(f"the token is refused: {_reason(error)}") from None
        if (expires_at := int(claims["exp"])) > LAST_EXPIRY:
            raise TokenError("the token is refused: its `exp` is beyond the year 9999: it must be in seconds")
        return Identity(_subject(claims["sub"]), expires_at)


def bearer(value: str) -> str:
    """the token of an `Authorization: Bearer TOKEN`. TokenError if it is anything else."""
    scheme, _, token = value.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenError("the Authorization header must read: Bearer TOKEN")
    return token.strip()


def _subject(user: str) -> str:
    if not user:
        raise TokenError("the subject (`sub`) is empty: it must be the user's id")
    if len(user) > MAX_SUBJECT:
        raise TokenError(f"the subject (`sub`) is longer than {MAX_SUBJECT} characters")
    if _REFUSED_IN_SUBJECT.search(user):
        raise TokenError("the subject (`sub`) holds a control character or one of / * # : and cannot be a recipient")
    return user


def _reason(error: jwt.InvalidTokenError) -> str:
    return next(text for kind, text in _REASONS if isinstance(error, kind))

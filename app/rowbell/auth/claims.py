"""What a token claims, once its signature is known to be good.

A token's user is the recipient of rows, so it is what the column `recipient_id` takes, topics aside. No message here
holds a claim of the token: messages end up in logs.

Source: RFC 7519, 4.1 (claims) and 2 (NumericDate)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from rowbell.config import Settings
from rowbell.errors import TokenError
from rowbell.patterns import pattern_complaint

MAX_SUBJECT = 255
"""Characters, as in the CHECK of `notification.recipient_id`."""

MAX_TOPICS = 100
"""Patterns in one token: each is compared with each topic that the client asks for."""

LAST_EXPIRY = 253_402_300_799
"""The end of the year 9999, in seconds since the epoch. An issuer that counts milliseconds would mean for ever."""

_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/*#:]")
"""Control characters, halves of characters, for which there is no UTF-8, and what destinations and `topic:` are made
of."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a valid token names, and from when until when: seconds since the epoch, None if it does not say."""

    user: str
    expires_at: int | None
    issued_at: int | None = None
    topics: tuple[str, ...] = ()
    """Patterns of the topics that the user may have, from the claim `topics`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What claims must be."""

    issuer: str | None = None
    """What `iss` must be; None: anything."""
    audience: str | None = None
    """What `aud` must be or hold; None: it must not be there, as the token is meant for somebody."""
    leeway: int = 5
    """Seconds that the clocks of the issuer and of this machine may differ."""
    user_claim: str = "sub"

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        return cls(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway, settings.jwt_user_claim)

    def identity(self, claims: dict[str, Any], now: float) -> Identity:
        """Whom the claims name at this time, in seconds since the epoch. TokenError if they name nobody, or not now.

        A claim that is null counts as missing.
        """
        claims = {name: value for name, value in claims.items() if value is not None}
        expires_at, issued_at = self._times(claims, now)
        self._check_issuer(claims.get("iss"))
        self._check_audience(claims.get("aud"))
        return Identity(self._user(claims), expires_at, issued_at, _topics(claims.get("topics", [])))

    def claims(self, user: str) -> dict[str, Any]:
        """The claims of a token that these rules take. TokenError if `user` cannot be a recipient."""
        claims = {self.user_claim: self.recipient(user), "iss": self.issuer, "aud": self.audience}
        return {name: value for name, value in claims.items() if value is not None}

    def _times(self, claims: dict[str, Any], now: float) -> tuple[int, int | None]:
        expires_at = _seconds(claims, "exp")
        if expires_at is None:
            raise refusal("it has no `exp`")
        if expires_at <= now - self.leeway:
            raise refusal("it has expired")
        if expires_at > LAST_EXPIRY:
            raise refusal("its `exp` is beyond the year 9999: it must be in seconds")
        issued_at = _seconds(claims, "iat")
        for begin in (_seconds(claims, "nbf"), issued_at):
            if begin is not None and begin > now + self.leeway:
                raise refusal("it is not valid yet (`nbf` or `iat` lies ahead): compare the machines' clocks")
        return expires_at, issued_at

    def _check_issuer(self, issuer: object) -> None:
        if self.issuer is None:
            return
        if issuer is None:
            raise refusal("it has no `iss`")
        if issuer != self.issuer:
            raise refusal("it is from another issuer (`iss`)")

    def _check_audience(self, audience: object) -> None:
        if self.audience is None:
            if audience is not None:
                raise refusal("it is for another audience (`aud`): issue one without")
            return
        if audience is None:
            raise refusal("it has no `aud`")
        named = [audience] if isinstance(audience, str) else audience
        if not isinstance(named, list) or self.audience not in named:
            raise refusal("it is for another audience (`aud`)")

    def _user(self, claims: dict[str, Any]) -> str:
        value = claims.get(self.user_claim)
        if value is None:
            raise refusal(f"it has no `{self.user_claim}`")
        if isinstance(value, str):
            return self.recipient(value)
        if self.user_claim == "sub":
            raise refusal("its subject (`sub`) is not a string")
        if isinstance(value, int) and not isinstance(value, bool):
            return self.recipient(str(value))
        raise refusal(f"its `{self.user_claim}` is neither a string nor a whole number")

    def recipient(self, user: str) -> str:
        """`user`, if rows can be for them. TokenError if not."""
        name = "the subject (`sub`)" if self.user_claim == "sub" else f"the user's id (`{self.user_claim}`)"
        if not user:
            raise TokenError(f"{name} is empty: it must be the user's id")
        if len(user) > MAX_SUBJECT:
            raise TokenError(f"{name} is longer than {MAX_SUBJECT} characters")
        if _REFUSED.search(user):
            raise TokenError(f"{name} holds a control character or one of / * # : and cannot be a recipient")
        return user


def refusal(reason: str) -> TokenError:
    return TokenError(f"the token is refused: {reason}")


def _seconds(claims: dict[str, Any], name: str) -> int | None:
    value = claims.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not is_number:
        raise refusal(f"its `{name}` is not a number")
    return int(value)


def _topics(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_TOPICS:
        raise refusal(f"its `topics` is not a list of at most {MAX_TOPICS} strings")
    for pattern in value:
        if not isinstance(pattern, str):
            raise refusal("its `topics` holds something that is not a string")
        if complaint := pattern_complaint(pattern):
            raise refusal(f"its `topics` holds a string that {complaint}")
    return tuple(value)

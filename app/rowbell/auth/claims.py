"""Checks the claims of a token whose signature has been verified.

A token's user is the recipient of rows, so the same values are allowed as in the column `recipient_id`, except topics.
No message here quotes a claim of the token, because messages end up in logs.

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
"""Characters; the same limit as in the CHECK of `notification.recipient_id`."""

MAX_TOPICS = 100
"""Patterns per token; each is compared with every topic that the client subscribes to."""

LAST_EXPIRY = 253_402_300_799
"""The end of the year 9999, in seconds since the epoch. An `exp` in milliseconds exceeds it, and would never expire."""

_REFUSED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff/*#:]")
"""Control characters, lone surrogates (which have no UTF-8), and the characters that have a meaning in destinations and
in `topic:`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that a valid token names, and when it was issued and expires.

    Times are in seconds since the epoch, or None if the token does not state them.
    """

    user: str
    expires_at: int | None
    issued_at: int | None = None
    topics: tuple[str, ...] = ()
    """Patterns of the topics that the user may subscribe to, from the claim `topics`."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The claims that a token must have."""

    issuer: str | None = None
    """The required `iss`; None accepts any."""
    audience: str | None = None
    """The value that `aud` must equal or contain; None requires `aud` to be absent, since a token that has one is not
    for everybody."""
    leeway: int = 5
    """Seconds by which the clocks of the issuer and this machine may differ."""
    user_claim: str = "sub"
    """The claim that holds the user's id."""

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        """Return the rules of these settings."""
        return cls(settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway, settings.jwt_user_claim)

    def identity(self, claims: dict[str, Any], now: float) -> Identity:
        """Return the identity that the claims establish at `now`, in seconds since the epoch.

        A claim that is null counts as missing. Raises TokenError if the claims break a rule.
        """
        claims = {name: value for name, value in claims.items() if value is not None}
        expires_at, issued_at = self._times(claims, now)
        self._check_issuer(claims.get("iss"))
        self._check_audience(claims.get("aud"))
        return Identity(self._user(claims), expires_at, issued_at, _topics(claims.get("topics", [])))

    def claims(self, user: str) -> dict[str, Any]:
        """Return claims, without times, that satisfy these rules. Raises TokenError if `user` cannot be a recipient."""
        claims = {self.user_claim: self.recipient(user), "iss": self.issuer, "aud": self.audience}
        return {name: value for name, value in claims.items() if value is not None}

    def _times(self, claims: dict[str, Any], now: float) -> tuple[int, int | None]:
        expires_at = _seconds(claims, "exp")
        if expires_at is None:
            raise refusal("it has no `exp`")
        if expires_at <= now - self.leeway:
            raise refusal("it has expired")
        if expires_at > LAST_EXPIRY:
            raise refusal("its `exp` is after the year 9999: it must be in seconds")
        issued_at = _seconds(claims, "iat")
        for begin in (_seconds(claims, "nbf"), issued_at):
            if begin is not None and begin > now + self.leeway:
                raise refusal("it is not valid yet (`nbf` or `iat` is in the future): compare the machines' clocks")
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
        if not isinstance(value, str):
            if self.user_claim == "sub":
                raise refusal("its `sub` is not a string")
            if not isinstance(value, int) or isinstance(value, bool):
                raise refusal(f"its `{self.user_claim}` is neither a string nor an integer")
        if problem := _recipient_complaint(user := str(value)):
            raise refusal(f"its `{self.user_claim}` {problem}")
        return user

    def recipient(self, user: str) -> str:
        """Return `user`. Raises TokenError if no row can be addressed to such a user."""
        if problem := _recipient_complaint(user):
            raise TokenError(f"the user's id {problem}")
        return user


def refusal(reason: str) -> TokenError:
    """Return the error for a token that is invalid for this reason, a clause about "it"."""
    return TokenError(f"the token is refused: {reason}")


def _recipient_complaint(user: str) -> str | None:
    """Return why a user's id cannot be a recipient, as a predicate, or None if it can."""
    if not user:
        return "is empty"
    if len(user) > MAX_SUBJECT:
        return f"is longer than {MAX_SUBJECT} characters"
    if _REFUSED.search(user):
        return "contains a control character, a lone surrogate or one of / * # : and cannot be a recipient"
    return None


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
            raise refusal("its `topics` contains a value that is not a string")
        if complaint := pattern_complaint(pattern):
            raise refusal(f"its `topics` contains a string that {complaint}")
    return tuple(value)

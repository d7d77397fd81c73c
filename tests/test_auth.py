"""Tokens: who gets in, who does not, and what they are told."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from rowbell.auth import LEEWAY, MAX_TOKEN, Identity, Tokens, bearer
from rowbell.config import Settings
from rowbell.errors import SettingsError, TokenError

SECRET = "0123456789abcdef0123456789abcdef"
TOKENS = Tokens(SECRET)
NOW = int(time.time())


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(*without: str, key: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token that is good but for `claims`, and for the claims that it goes `without`."""
    payload = {"sub": "alice", "exp": NOW + 3600} | claims
    return jwt.encode({name: value for name, value in payload.items() if name not in without}, key, algorithm)


def refusal(token: str) -> str:
    with pytest.raises(TokenError) as refused:
        TOKENS.verify(token)
    return str(refused.value)


def test_a_token_names_its_user_until_it_expires() -> None:
    token = TOKENS.issue("alice", lifetime=3600, issued_at=NOW)

    assert TOKENS.verify(token) == Identity("alice", NOW + 3600)


def test_a_token_is_issued_from_now_on() -> None:
    issued = jwt.decode(TOKENS.issue("alice", lifetime=60), SECRET, algorithms=["HS256"])

    assert NOW <= issued["iat"] <= time.time()
    assert issued["exp"] == issued["iat"] + 60


def test_more_claims_may_go_in() -> None:
    token = TOKENS.issue("alice", lifetime=60, name="Alice", nbf=NOW - 1)

    assert jwt.decode(token, SECRET, algorithms=["HS256"])["name"] == "Alice"
    assert TOKENS.verify(token).user == "alice"


def test_a_token_of_another_issuer_with_the_same_key_is_good() -> None:
    assert TOKENS.verify(signed()).user == "alice"


def test_a_token_signed_with_another_key_is_refused() -> None:
    assert "another key" in refusal(signed(key="f" * 32))


def test_a_token_whose_claims_were_changed_is_refused() -> None:
    header, _, signature = signed().split(".")

    assert "another key" in refusal(f"{header}.{part({'sub': 'root', 'exp': NOW + 3600})}.{signature}")


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE"])
def test_a_token_without_a_signature_is_refused(alg: str) -> None:
    unsigned = f"{part({'alg': alg, 'typ': 'JWT'})}.{part({'sub': 'alice', 'exp': NOW + 3600})}."

    assert "not signed with HS256" in refusal(unsigned)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_hs256_is_taken_even_with_the_right_key(algorithm: str) -> None:
    key = SECRET * 2  # long enough for the larger hashes
    token = signed(key=key, algorithm=algorithm)

    with pytest.raises(TokenError, match="not signed with HS256"):
        Tokens(key).verify(token)


def test_a_token_of_a_key_pair_is_refused() -> None:
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    token = jwt.encode({"sub": "alice", "exp": NOW + 3600}, pair, "RS256")

    assert "not signed with HS256" in refusal(token)


def test_a_public_key_does_not_pass_for_the_secret_one() -> None:
    # given an attacker who signs with HS256 and a public key, which everybody knows
    public = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    hmac = jwt.get_algorithm_by_name("HS256")
    to_sign = f"{part({'alg': 'HS256'})}.{part({'sub': 'alice', 'exp': NOW + 3600})}"
    signature = base64.urlsafe_b64encode(hmac.sign(to_sign.encode(), public)).rstrip(b"=").decode()

    # then
    assert "another key" in refusal(f"{to_sign}.{signature}")


def test_a_token_that_has_expired_is_refused() -> None:
    assert "has expired" in refusal(signed(exp=NOW - LEEWAY - 1))


def test_clocks_may_differ_by_a_few_seconds() -> None:
    now = int(time.time())
    token = signed(exp=now - LEEWAY + 3, nbf=now + LEEWAY, iat=now + LEEWAY)

    assert TOKENS.verify(token).user == "alice"


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_from_the_future_is_refused(claim: str) -> None:
    assert "not valid yet" in refusal(signed(**{claim: NOW + 3600}))


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_a_token_that_lacks_a_claim_is_refused(claim: str) -> None:
    assert refusal(signed(claim)) == f"the token is refused: it has no `{claim}`"


def test_a_token_that_lasts_beyond_all_calendars_was_counted_in_milliseconds() -> None:
    assert "in seconds" in refusal(signed(exp=NOW * 1000))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "billing"}, "another audience"),
        ({"sub": 42}, "not a string"),
        ({"sub": ["alice"]}, "not a string"),
        ({"iat": "yesterday"}, "`iat` is not a number"),
        ({"exp": "tomorrow"}, "malformed"),
        ({"exp": float("inf")}, "malformed"),
    ],
)
def test_claims_of_the_wrong_kind_are_refused(claims: dict[str, Any], reason: str) -> None:
    assert reason in refusal(signed(**claims))


REFUSED_SUBJECTS = [
    pytest.param("", id="empty"),
    pytest.param("a" * 256, id="longer than the column"),
    pytest.param("al\nice", id="a line end"),
    pytest.param("al\0ice", id="NUL"),
    pytest.param("al\x7fice", id="DEL"),
    pytest.param("al\x85ice", id="a control character beyond ASCII"),
    pytest.param("al\ud800ice", id="half a character"),
    pytest.param("alice/queue", id="a slash"),
    pytest.param("*", id="a star"),
    pytest.param("#", id="a hash"),
    pytest.param("topic:news", id="a topic"),
    pytest.param("oidc:alice", id="a colon"),
]


@pytest.mark.parametrize("subject", REFUSED_SUBJECTS)
def test_a_subject_that_cannot_be_a_recipient_is_refused(subject: str) -> None:
    assert "the subject (`sub`)" in refusal(signed(sub=subject))


@pytest.mark.parametrize("subject", REFUSED_SUBJECTS)
def test_no_token_is_issued_for_a_subject_that_would_be_refused(subject: str) -> None:
    with pytest.raises(TokenError, match="subject"):
        TOKENS.issue(subject, lifetime=60)


@pytest.mark.parametrize(
    "subject", ["a", "a" * 255, "alice@example.org", "auth0|5f7c", "Zoë", "李雷", "a b", "..", "👋"]
)
def test_a_subject_that_can_be_a_recipient_is_taken(subject: str) -> None:
    assert TOKENS.verify(signed(sub=subject)).user == subject


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="nothing"),
        pytest.param("alice", id="a name"),
        pytest.param("a.b.c", id="three letters"),
        pytest.param("é.é.é", id="not ASCII"),
        pytest.param("\ud800.a.b", id="half a character"),
        pytest.param(part([]) + ".e30.AAAA", id="a header that is a list"),
        pytest.param(part({"alg": ["HS256"]}) + ".e30.AAAA", id="a list of algorithms"),
        pytest.param(part({}) + ".e30.AAAA", id="no algorithm"),
        pytest.param(base64.urlsafe_b64encode(b"[" * 6000).decode() + ".e30.AAAA", id="brackets six thousand deep"),
        pytest.param("a" * (MAX_TOKEN + 1), id="too long"),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    assert refusal(token).startswith("the token is ")


@given(st.text())
def test_whatever_comes_the_answer_is_a_token_error(token: str) -> None:
    with pytest.raises(TokenError):
        TOKENS.verify(token)


@pytest.mark.parametrize(
    "token", [signed(exp=1), signed(key="f" * 32), signed(sub="a/b"), signed()[:-3], "nonsense-nonsense"]
)
def test_a_refusal_quotes_nothing_of_the_token(token: str) -> None:
    said = refusal(token)

    assert not any(piece in said for piece in [token, *token.split(".")])
    assert SECRET not in said


def test_the_key_comes_from_the_settings() -> None:
    settings = Settings(jwt_secret=SECRET)

    assert Tokens.of(settings).verify(signed()).user == "alice"


def test_without_a_key_there_are_no_tokens() -> None:
    with pytest.raises(SettingsError, match="ROWBELL_JWT_SECRET is not set"):
        Tokens.of(Settings())


def test_the_key_does_not_show_when_the_object_is_printed() -> None:
    assert SECRET not in repr(TOKENS)


@pytest.mark.parametrize(
    "header", ["Bearer abc.def.ghi", "bearer abc.def.ghi", "BEARER   abc.def.ghi ", " Bearer abc.def.ghi"]
)
def test_the_bearer_header_gives_its_token(header: str) -> None:
    assert bearer(header) == "abc.def.ghi"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "abc.def.ghi", "Basic YWxpY2U6eA==", "Bearerabc"])
def test_another_authorization_header_is_refused_without_being_quoted(header: str) -> None:
    with pytest.raises(TokenError) as refused:
        bearer(header)

    assert str(refused.value) == "the Authorization header must read: Bearer TOKEN"

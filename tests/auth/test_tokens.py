"""Tokens signed with the secret: who gets in, who does not, and what they are told."""

from __future__ import annotations

import base64
import time
from contextlib import suppress
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowbell.auth import Identity, Tokens, bearer
from rowbell.auth.claims import Rules
from rowbell.auth.keyring import Keyring
from rowbell.auth.tokens import MAX_TOKEN
from rowbell.config import Settings
from rowbell.errors import SettingsError, TokenError
from tests.auth.issuer import RSA, Clock, part, sign

SECRET = "0123456789abcdef0123456789abcdef"
TOKENS = Tokens(SECRET)
NOW = int(time.time())
LEEWAY = 5


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

    assert TOKENS.verify(token) == Identity("alice", NOW + 3600, NOW)


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
def test_a_longer_hash_is_not_taken_with_a_key_that_is_too_short_for_it(algorithm: str) -> None:
    token = sign({"alg": algorithm}, {"sub": "alice", "exp": NOW + 3600}, SECRET.encode(), algorithm)

    assert "not signed with HS256" in refusal(token)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_hash_is_taken_with_a_key_that_is_long_enough(algorithm: str) -> None:
    key = SECRET * 2

    assert Tokens(key).verify(signed(key=key, algorithm=algorithm)).user == "alice"


def test_a_token_of_a_key_pair_is_refused() -> None:
    token = jwt.encode({"sub": "alice", "exp": NOW + 3600}, RSA, "RS256")

    assert "not signed with HS256" in refusal(token)


@pytest.mark.parametrize("kid", ["", "k1", "../../etc/passwd", "k" * 3000])
def test_the_name_of_the_key_does_not_matter_for_the_secret(kid: str) -> None:
    token = sign({"alg": "HS256", "kid": kid}, {"sub": "alice", "exp": NOW + 3600}, SECRET.encode(), "HS256")

    assert TOKENS.verify(token).user == "alice"


async def test_identifying_is_verifying_where_no_list_can_be_out_of_date() -> None:
    assert (await TOKENS.identify(signed())).user == "alice"
    with pytest.raises(TokenError, match="another key"):
        await TOKENS.identify(signed(key="f" * 32))
    await TOKENS.run()


def test_time_is_told_by_the_clock() -> None:
    clock = Clock(NOW)
    tokens = Tokens(SECRET, clock=clock)
    token = tokens.issue("alice", lifetime=60)

    clock.now += 60 + LEEWAY - 1
    assert tokens.verify(token).issued_at == NOW

    clock.now += 1
    with pytest.raises(TokenError, match="has expired"):
        tokens.verify(token)


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
        ({"exp": "tomorrow"}, "`exp` is not a number"),
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
    assert refusal(signed(sub=subject)).startswith("the token is refused: its `sub` ")


@pytest.mark.parametrize("subject", REFUSED_SUBJECTS)
def test_no_token_is_issued_for_a_subject_that_would_be_refused(subject: str) -> None:
    with pytest.raises(TokenError, match="the user's id "):
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


GOOD_HEADER = {"alg": "HS256"}
GOOD_CLAIMS = {"sub": "alice", "exp": NOW + 3600}


def remade(header: object = GOOD_HEADER, claims: object = GOOD_CLAIMS) -> str:
    """With the right key, whatever stands in it."""
    return sign(header, claims, SECRET.encode(), "HS256")


def test_a_token_that_is_made_by_hand_is_good() -> None:
    assert TOKENS.verify(remade()).user == "alice"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        pytest.param({"crit": ["exp"], "exp": NOW}, "an extension", id="crit"),
        pytest.param({"crit": []}, "an extension", id="crit that is empty"),
        pytest.param({"crit": ["b64"], "b64": True}, "an extension", id="b64 true"),
        pytest.param({"crit": ["b64"], "b64": False}, "an extension", id="b64 false"),
        pytest.param({"b64": False}, "an extension", id="b64 without crit"),
        pytest.param({"kid": 7}, "malformed", id="a number as kid"),
        pytest.param({"kid": ["k1"]}, "malformed", id="a list as kid"),
        pytest.param({"alg": "hs256"}, "not signed with HS256", id="small letters"),
        pytest.param({"alg": "HS256 "}, "not signed with HS256", id="a space"),
        pytest.param({"alg": ""}, "not signed with HS256", id="an empty algorithm"),
        pytest.param({"alg": None}, "malformed", id="null as algorithm"),
    ],
)
def test_a_header_that_asks_for_more_is_refused(header: dict[str, Any], reason: str) -> None:
    assert reason in refusal(remade(header=GOOD_HEADER | header))


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "file:///etc/passwd"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5c": ["AAAA"]},
        {"typ": "at+jwt"},
        {"cty": "JWT"},
        {"zip": "DEF"},
    ],
)
def test_other_members_of_the_header_are_not_looked_at(header: dict[str, Any]) -> None:
    assert TOKENS.verify(remade(header=GOOD_HEADER | header)).user == "alice"


EXP = str(NOW + 3600).encode()


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(remade(header=b'{"alg":"none","alg":"HS256"}'), id="two algorithms"),
        pytest.param(remade(header=b'{"alg":"HS256","kid":"a","kid":"b"}'), id="two kids"),
        pytest.param(remade(header=b'{"alg":"HS256","x":{"y":1,"y":2}}'), id="twice inside the header"),
        pytest.param(remade(claims=b'{"sub":"bob","sub":"alice","exp":' + EXP + b"}"), id="two subjects"),
        pytest.param(remade(claims=b'{"sub":"alice","exp":1,"exp":' + EXP + b"}"), id="two ends"),
        pytest.param(remade(claims=b'{"sub":"alice","exp":' + EXP + b',"x":[{"y":1,"y":2}]}'), id="twice inside"),
        pytest.param(remade(claims=b'{"sub":"alice","s\\u0075b":"bob","exp":' + EXP + b"}"), id="twice, once escaped"),
        pytest.param(remade(claims=b'{"sub":"alice","exp":Infinity}'), id="Infinity"),
        pytest.param(remade(claims=b'{"sub":"alice","exp":NaN}'), id="NaN"),
        pytest.param(remade(claims=b'{"sub":"al\xffce","exp":' + EXP + b"}"), id="not UTF-8"),
        pytest.param(remade(claims='{"sub":"alice","exp":4000000000}'.encode("utf-16")), id="UTF-16"),
        pytest.param(remade(claims=b"[" * 5000), id="brackets five thousand deep"),
        pytest.param(remade(claims=b'{"sub":"alice","exp":' + b"9" * 5000 + b"}"), id="a number of 5000 digits"),
        pytest.param(remade(claims=["alice"]), id="a list"),
        pytest.param(remade(claims="alice"), id="text"),
        pytest.param(remade(claims=b""), id="nothing"),
        pytest.param(remade() + "!", id="a signature that is not base64"),
        pytest.param(remade() + ".AAAA", id="four parts"),
        pytest.param(remade() + ".AAAA.AAAA", id="five parts, as if encrypted"),
        pytest.param("." + remade(), id="an empty header"),
        pytest.param(remade().partition(".")[0] + "..", id="an empty signature"),
        pytest.param(" " + remade(), id="a space before"),
        pytest.param(remade() + "\n", id="a line end behind"),
    ],
)
def test_a_token_that_readers_may_understand_differently_is_refused(token: str) -> None:
    assert refusal(token).startswith("the token is refused: it ")


def test_a_number_beyond_all_floats_is_no_time() -> None:
    assert "`exp` is not a number" in refusal(remade(claims=b'{"sub":"alice","exp":1e999}'))


def test_an_enormous_token_is_refused_at_once() -> None:
    begun = time.perf_counter()

    assert "longer than 8192" in refusal("a" * 50_000_000)
    assert time.perf_counter() - begun < 0.5


def test_the_longest_token_is_taken() -> None:
    room = MAX_TOKEN - len(remade(claims=GOOD_CLAIMS | {"x": ""}))

    token = remade(claims=GOOD_CLAIMS | {"x": "x" * (room * 3 // 4 - 2)})

    assert MAX_TOKEN - 8 < len(token) <= MAX_TOKEN
    assert TOKENS.verify(token).user == "alice"


@settings(deadline=None)
@given(header=st.binary(max_size=40), claims=st.binary(max_size=40))
def test_whatever_is_signed_with_the_key_the_answer_is_a_token_error(header: bytes, claims: bytes) -> None:
    with pytest.raises(TokenError):
        TOKENS.verify(remade(header=header, claims=claims))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=3)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the first text ever costs seconds
@given(st.dictionaries(st.sampled_from(["sub", "exp", "iat", "nbf", "aud", "iss", "topics"]), JSON))
def test_whatever_is_claimed_the_answer_is_an_identity_or_a_token_error(claims: dict[str, Any]) -> None:
    with suppress(TokenError):
        assert isinstance(TOKENS.verify(remade(claims=GOOD_CLAIMS | claims)), Identity)


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


def test_the_key_and_the_rules_come_from_the_settings() -> None:
    tokens = Tokens.of(
        Settings(jwt_secret=SECRET, jwt_issuer="us", jwt_audience="rowbell", jwt_leeway=60, jwt_user_claim="id")
    )

    assert tokens.can_issue
    assert tokens.verify(tokens.issue("42", lifetime=-30)).user == "42"
    assert tokens.verify(signed("sub", id=42, iss="us", aud="rowbell")).user == "42"
    with pytest.raises(TokenError, match="no `iss`"):
        tokens.verify(signed())


def test_tokens_for_issuing_are_those_that_a_gateway_with_the_same_settings_takes() -> None:
    same = Settings(jwt_secret=SECRET * 2, jwt_algorithms="HS512,HS384", jwt_audience="rowbell")
    token = Tokens.for_issuing(same).issue("alice", lifetime=60)

    assert jwt.get_unverified_header(token)["alg"] == "HS384"
    assert Tokens.of(same).verify(token).user == "alice"


def test_without_a_key_there_are_no_tokens() -> None:
    with pytest.raises(SettingsError, match="ROWBELL_JWT_SECRET is not set"):
        Tokens.of(Settings())


@pytest.mark.parametrize("without", [Settings(), Settings(jwt_jwks="https://login.example.org/jwks.json")])
def test_without_a_secret_none_are_issued_and_what_to_do_is_said(without: Settings) -> None:
    with pytest.raises(SettingsError, match="ROWBELL_JWT_SECRET is not set") as refused:
        Tokens.for_issuing(without)

    assert "rowbell listen USER --token TOKEN" in str(refused.value)


def test_keys_that_only_verify_issue_nothing() -> None:
    tokens = Tokens(Keyring(), Rules())

    assert not tokens.can_issue
    with pytest.raises(SettingsError, match="ROWBELL_JWT_SECRET is not set"):
        tokens.issue("alice", lifetime=60)


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

"""What a token claims: who, from when until when, from whom, for whom, and which topics."""

from __future__ import annotations

from typing import Any

import pytest

from rowbell.auth.claims import MAX_TOPICS, Identity, Rules
from rowbell.errors import TokenError

NOW = 1_800_000_000
GOOD = {"sub": "alice", "exp": NOW + 3600}


def refusal(rules: Rules, claims: dict[str, Any], now: float = NOW) -> str:
    with pytest.raises(TokenError) as refused:
        rules.identity(claims, now)
    return str(refused.value)


def test_claims_make_an_identity() -> None:
    claims = GOOD | {"iat": NOW - 10, "nbf": NOW - 10, "iss": "anybody", "topics": ["news", "orders.*"], "x": {}}

    assert Rules().identity(claims, NOW) == Identity("alice", NOW + 3600, NOW - 10, ("news", "orders.*"))


def test_what_is_not_claimed_is_none() -> None:
    assert Rules().identity(GOOD, NOW) == Identity("alice", NOW + 3600, None, ())


def test_null_counts_as_missing() -> None:
    claims = GOOD | {"iat": None, "nbf": None, "aud": None, "iss": None, "topics": None}

    assert Rules().identity(claims, NOW) == Identity("alice", NOW + 3600, None, ())


# Times.


def test_times_may_have_fractions() -> None:
    claims = {"sub": "alice", "exp": NOW + 60.9, "iat": NOW - 0.5}

    assert Rules().identity(claims, NOW) == Identity("alice", NOW + 60, NOW - 1)


@pytest.mark.parametrize("leeway", [0, 5, 60])
def test_a_token_expires_after_the_leeway(leeway: int) -> None:
    rules = Rules(leeway=leeway)

    assert rules.identity(GOOD, NOW + 3600 + leeway - 1)
    assert "has expired" in refusal(rules, GOOD, NOW + 3600 + leeway)


@pytest.mark.parametrize("leeway", [0, 5, 60])
@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_may_begin_within_the_leeway(claim: str, leeway: int) -> None:
    rules = Rules(leeway=leeway)

    assert rules.identity(GOOD | {claim: NOW + leeway}, NOW)
    assert "not valid yet" in refusal(rules, GOOD | {claim: NOW + leeway + 1}, NOW)


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1800003600", "tomorrow", True, [], {}, float("inf"), float("nan")])
def test_a_time_that_is_not_a_number_is_refused(claim: str, value: object) -> None:
    assert refusal(Rules(), GOOD | {claim: value}) == f"the token is refused: its `{claim}` is not a number"


def test_an_end_beyond_all_calendars_was_counted_in_milliseconds() -> None:
    assert "in seconds" in refusal(Rules(), GOOD | {"exp": NOW * 1000})
    assert "in seconds" in refusal(Rules(), GOOD | {"exp": 10**400})


def test_a_token_without_an_end_is_refused() -> None:
    assert "it has no `exp`" in refusal(Rules(), {"sub": "alice"})


# From whom, and for whom.

ISSUED = Rules(issuer="https://login.example.org/", audience="rowbell")
FROM = {"iss": "https://login.example.org/"}


@pytest.mark.parametrize("audience", ["rowbell", ["rowbell"], ["billing", "rowbell"]])
def test_a_token_of_the_issuer_for_the_audience_is_good(audience: object) -> None:
    assert ISSUED.identity(GOOD | FROM | {"aud": audience}, NOW).user == "alice"


@pytest.mark.parametrize(
    "issuer", ["https://login.example.org", "https://LOGIN.example.org/", "", 7, ["https://login.example.org/"]]
)
def test_another_issuer_is_refused(issuer: object) -> None:
    assert "another issuer" in refusal(ISSUED, GOOD | {"iss": issuer, "aud": "rowbell"})


@pytest.mark.parametrize("audience", ["billing", "", [], ["billing"], [["rowbell"]], {"rowbell": 1}, "rowbells", 7])
def test_another_audience_is_refused(audience: object) -> None:
    assert "another audience" in refusal(ISSUED, GOOD | FROM | {"aud": audience})


def test_a_token_without_an_issuer_or_an_audience_is_refused_where_one_is_set() -> None:
    assert "it has no `iss`" in refusal(ISSUED, GOOD | {"aud": "rowbell"})
    assert "it has no `aud`" in refusal(ISSUED, GOOD | FROM)


@pytest.mark.parametrize("audience", ["billing", ["billing"], "", []])
def test_a_token_for_an_audience_is_refused_where_none_is_set(audience: object) -> None:
    assert "another audience" in refusal(Rules(), GOOD | {"aud": audience})


# Who.

BY_ID = Rules(user_claim="id")


@pytest.mark.parametrize(("value", "user"), [("u-7", "u-7"), (42, "42"), (0, "0"), (-7, "-7"), (2**64, str(2**64))])
def test_another_claim_may_name_the_user_by_text_or_number(value: object, user: str) -> None:
    assert BY_ID.identity(GOOD | {"id": value}, NOW).user == user


@pytest.mark.parametrize("value", [4.2, 42.0, True, False, ["u"], {"id": 1}])
def test_a_user_that_is_neither_text_nor_a_whole_number_is_refused(value: object) -> None:
    assert "its `id` is neither" in refusal(BY_ID, GOOD | {"id": value})


@pytest.mark.parametrize("value", ["", "a/b", "topic:news", "a" * 256, "al\nice", 10**300])
def test_a_user_of_another_claim_must_be_a_recipient_too(value: object) -> None:
    assert refusal(BY_ID, GOOD | {"id": value}).startswith("the token is refused: its `id` ")


def test_a_token_without_the_claim_that_names_the_user_is_refused_whatever_its_subject() -> None:
    assert "it has no `id`" in refusal(BY_ID, GOOD)


@pytest.mark.parametrize("value", [42, ["alice"], True, {}])
def test_a_subject_must_be_text(value: object) -> None:
    assert "not a string" in refusal(Rules(), GOOD | {"sub": value})


def test_the_subject_does_not_matter_where_another_claim_names_the_user() -> None:
    assert BY_ID.identity({"sub": 7, "id": "alice", "exp": NOW + 1}, NOW).user == "alice"


# Topics.


@pytest.mark.parametrize("topics", [[], ["news"], ["*"], ["orders.*", "news", "news", "#", "Zoë 李雷"], ["a" * 255]])
def test_patterns_of_topics_are_taken_as_they_are(topics: list[str]) -> None:
    assert Rules().identity(GOOD | {"topics": topics}, NOW).topics == tuple(topics)


@pytest.mark.parametrize(
    "topics",
    [
        pytest.param("news", id="text"),
        pytest.param({"news": True}, id="an object"),
        pytest.param(True, id="true"),
        pytest.param(["news", 7], id="a number"),
        pytest.param([["news"]], id="a list"),
        pytest.param([None], id="null"),
        pytest.param([""], id="empty"),
        pytest.param(["a" * 256], id="longer than a recipient"),
        pytest.param(["/topic/news"], id="a destination"),
        pytest.param(["topic:news"], id="a recipient"),
        pytest.param(["ne\nws"], id="a line end"),
        pytest.param(["ne\ud800ws"], id="half a character"),
        pytest.param(["news"] * (MAX_TOPICS + 1), id="too many"),
    ],
)
def test_topics_that_are_no_patterns_are_refused_without_being_quoted(topics: object) -> None:
    said = refusal(Rules(), GOOD | {"topics": topics})

    assert "`topics`" in said
    assert "news" not in said


@pytest.mark.parametrize("pattern", ["news.#.old", "#.news", "news#", "news.##", "#news", "#.#"])
def test_a_pattern_that_no_topic_can_match_is_refused_without_being_quoted(pattern: str) -> None:
    said = refusal(Rules(), GOOD | {"topics": ["orders", pattern]})

    assert "`topics`" in said
    assert "has a # that is not its last segment" in said
    assert "news" not in said


def test_claims_of_our_own_tokens_are_what_the_rules_ask_for() -> None:
    rules = Rules("us", "rowbell", 5, "id")

    assert rules.claims("42") == {"id": "42", "iss": "us", "aud": "rowbell"}
    assert rules.identity(rules.claims("42") | {"exp": NOW + 1}, NOW).user == "42"


def test_no_refusal_quotes_a_claim() -> None:
    hidden = "hunter2"
    wrong = [{"iss": hidden}, {"aud": hidden}, {"sub": f"{hidden}/"}, {"exp": hidden}, {"topics": hidden}]

    for claims in wrong:
        assert hidden not in refusal(ISSUED, GOOD | FROM | {"aud": "rowbell"} | claims)

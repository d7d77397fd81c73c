"""Where keys come from: which settings go together, and what is said of those that do not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from rowbell.auth import Tokens
from rowbell.config import Settings
from rowbell.errors import SettingsError, TokenError
from tests.auth.issuer import ED25519, OTHER_RSA, P256, RSA, SECRET, WEAK_RSA, jwk, pem, token

URL = "https://login.example.org/jwks.json"


@pytest.fixture
def pem_file(tmp_path: Path) -> str:
    (tmp_path / "issuer.pem").write_text(pem(RSA) + pem(P256))
    return str(tmp_path / "issuer.pem")


@pytest.fixture
def jwks_file(tmp_path: Path) -> str:
    entries = [jwk(ED25519, kid="ed"), jwk(OTHER_RSA, kid="rsa")]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": entries}))
    return str(tmp_path / "jwks.json")


def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as refused:
        Tokens.of(settings)
    return str(refused.value)


def test_a_file_of_public_keys_is_enough(pem_file: str) -> None:
    tokens = Tokens.of(Settings(jwt_public_key_file=pem_file))

    assert tokens.verify(token(RSA, "PS256")).user == "alice"
    assert tokens.verify(token(P256, "ES256")).user == "alice"
    assert not tokens.can_issue


def test_a_list_in_a_file_is_enough_and_good_at_once(jwks_file: str) -> None:
    tokens = Tokens.of(Settings(jwt_jwks=jwks_file))

    assert tokens.verify(token(ED25519, "EdDSA", kid="ed")).user == "alice"


def test_a_list_at_a_url_is_enough_and_not_waited_for() -> None:
    tokens = Tokens.of(Settings(jwt_jwks="http://127.0.0.1:1/jwks.json"))

    with pytest.raises(TokenError, match="not known here yet"):
        tokens.verify(token(RSA, "RS256"))


def test_public_keys_in_a_file_and_in_a_list_go_together(pem_file: str, jwks_file: str) -> None:
    tokens = Tokens.of(Settings(jwt_public_key_file=pem_file, jwt_jwks=jwks_file))

    assert tokens.verify(token(RSA, "RS256")).user == "alice"
    assert tokens.verify(token(RSA, "RS256", kid="rsa")).user == "alice"
    assert tokens.verify(token(OTHER_RSA, "RS256", kid="rsa")).user == "alice"


@pytest.mark.parametrize("public", ["jwt_public_key_file", "jwt_jwks"])
def test_a_secret_beside_public_keys_is_refused_unless_it_is_asked_for(
    public: str, pem_file: str, jwks_file: str
) -> None:
    said = refusal(Settings(jwt_secret=SECRET, **{public: jwks_file if public == "jwt_jwks" else pem_file}))

    assert f"ROWBELL_JWT_SECRET is set together with ROWBELL_{public.upper()}" in said
    assert "could be any user" in said
    assert "ROWBELL_JWT_ALGORITHMS=HS256,RS256" in said


@pytest.mark.parametrize(
    ("keys", "algorithms"), [([P256], "HS256,ES256"), ([ED25519, RSA, OTHER_RSA], "HS256,EdDSA,RS256")]
)
def test_the_algorithms_that_are_proposed_for_a_secret_beside_public_keys_suit_them(
    keys: list[Any], algorithms: str, tmp_path: Path
) -> None:
    (tmp_path / "keys.pem").write_text("".join(map(pem, keys)))
    both = Settings(jwt_secret=SECRET, jwt_public_key_file=str(tmp_path / "keys.pem"))

    assert refusal(both).endswith(f"ROWBELL_JWT_ALGORITHMS={algorithms}")
    assert Tokens.of(dataclasses.replace(both, jwt_algorithms=algorithms)).can_issue


def test_no_token_is_issued_with_a_secret_beside_public_keys_unless_it_is_asked_for() -> None:
    with pytest.raises(SettingsError, match="could be any user"):
        Tokens.for_issuing(Settings(jwt_secret=SECRET, jwt_jwks=URL))


def test_a_secret_beside_public_keys_is_taken_where_algorithms_of_both_are_named(pem_file: str) -> None:
    both = Settings(jwt_secret=SECRET, jwt_public_key_file=pem_file, jwt_algorithms="HS256,RS256,ES256")
    tokens = Tokens.of(both)

    assert tokens.verify(Tokens.for_issuing(both).issue("alice", 60)).user == "alice"
    assert tokens.verify(token(RSA, "RS256")).user == "alice"
    with pytest.raises(TokenError, match="not signed with one of HS256, RS256, ES256"):
        tokens.verify(token(RSA, "RS512"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            Settings(jwt_secret=SECRET, jwt_jwks=URL, jwt_algorithms="RS256"),
            "ROWBELL_JWT_ALGORITHMS names no algorithm for ROWBELL_JWT_SECRET",
        ),
        (
            Settings(jwt_secret=SECRET, jwt_jwks=URL, jwt_algorithms="HS256"),
            "ROWBELL_JWT_ALGORITHMS names no algorithm for ROWBELL_JWT_JWKS",
        ),
        (
            Settings(jwt_secret=SECRET, jwt_algorithms="HS256,RS256,ES256"),
            "names RS256, ES256, which requires ROWBELL_JWT_PUBLIC_KEY_FILE or ROWBELL_JWT_JWKS",
        ),
        (
            Settings(jwt_jwks=URL, jwt_algorithms="HS256,RS256"),
            "names HS256, which requires ROWBELL_JWT_SECRET",
        ),
        (
            Settings(jwt_secret=SECRET[:40], jwt_algorithms="HS256,HS512"),
            "ROWBELL_JWT_SECRET is too short for HS512: it needs at least 64 bytes",
        ),
        (Settings(jwt_secret=SECRET[:40], jwt_algorithms="HS384"), "it has 40 bytes"),
        (Settings(jwt_secret=pem(RSA)), "ROWBELL_JWT_SECRET is wrong: it is a public key"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: Settings, said: str) -> None:
    refused = refusal(settings)

    assert said in refused
    assert SECRET[:40] not in refused


def test_no_source_at_all_is_refused_with_all_of_them() -> None:
    said = refusal(Settings())

    assert said.startswith("ROWBELL_JWT_SECRET is not set. ")
    assert "ROWBELL_JWT_PUBLIC_KEY_FILE or ROWBELL_JWT_JWKS" in said


def test_a_weak_key_in_a_file_is_refused_with_the_setting_and_the_file(tmp_path: Path) -> None:
    (tmp_path / "weak.pem").write_text(pem(WEAK_RSA))

    said = refusal(Settings(jwt_public_key_file=str(tmp_path / "weak.pem")))

    assert said == (
        f"ROWBELL_JWT_PUBLIC_KEY_FILE: {tmp_path}/weak.pem is wrong: key 1 of 1 cannot be used: "
        "it is an RSA key of 1024 bits: 2048 to 8192 are accepted"
    )


def test_a_key_in_a_file_for_algorithms_that_are_not_named_is_refused(pem_file: str) -> None:
    said = refusal(Settings(jwt_public_key_file=pem_file, jwt_algorithms="RS256"))

    assert "key 2 of 2 cannot be used: it is for ES256, which ROWBELL_JWT_ALGORITHMS does not name" in said


def test_a_file_that_is_not_there_is_refused_with_the_setting() -> None:
    said = refusal(Settings(jwt_public_key_file="/nowhere/keys"))

    assert said == "ROWBELL_JWT_PUBLIC_KEY_FILE: /nowhere/keys cannot be read: No such file or directory"


def test_a_list_that_is_taken_for_a_file_is_refused_with_how_it_would_be_a_url() -> None:
    said = refusal(Settings(jwt_jwks="login.example.org"))

    assert said == (
        "ROWBELL_JWT_JWKS: login.example.org cannot be read: No such file or directory. "
        "Without https:// it is read as a file."
    )


@pytest.mark.parametrize("content", ["", "<html>", "[]", "{}", '{"keys": {}}', '{"keys": [], "keys": []}'])
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "jwks.json").write_text(content)

    assert "is wrong: it " in refusal(Settings(jwt_jwks=str(tmp_path / "jwks.json")))


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://login.example.org/jwks.json", True),
        ("http://localhost.example.org/jwks.json", True),
        ("https://login.example.org/jwks.json", False),
        ("http://127.0.0.1:8080/jwks.json", False),
        ("http://[::1]:8080/jwks.json", False),
        ("http://localhost/jwks.json", False),
    ],
)
def test_a_url_without_tls_to_another_machine_is_warned_of(
    url: str, warned: bool, events: list[MutableMapping[str, Any]]
) -> None:
    Tokens.of(Settings(jwt_jwks=url))

    assert [event["event"] for event in events] == (["jwks_without_tls"] if warned else [])


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("ROWBELL_JWT_ALGORITHMS", "none", "'none' is not one of HS256"),
        ("ROWBELL_JWT_ALGORITHMS", "RS256,", "'' is not one of HS256"),
        ("ROWBELL_JWT_ALGORITHMS", "rs256", "'rs256' is not one of HS256"),
        ("ROWBELL_JWT_ALGORITHMS", "ES512", "'ES512' is not one of HS256"),
        ("ROWBELL_JWT_JWKS", "file:///etc/jwks.json", "must begin with http:// or https://"),
        ("ROWBELL_JWT_JWKS", "https://", "must begin with http:// or https://"),
        ("ROWBELL_JWT_LEEWAY", "301", "a whole number from 0 to 300"),
        ("ROWBELL_JWT_LEEWAY", "-1", "a whole number from 0 to 300"),
        ("ROWBELL_JWT_USER_CLAIM", "exp", "exp has another meaning"),
        ("ROWBELL_JWT_USER_CLAIM", "topics", "topics has another meaning"),
    ],
)
def test_a_wrong_setting_is_named_with_its_problem(name: str, value: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is wrong: ") as refused:
        Settings.from_env({name: value})

    assert problem in str(refused.value)


def test_algorithms_may_have_spaces_between_them() -> None:
    assert Settings.from_env({"ROWBELL_JWT_ALGORITHMS": "RS256, ES256"}).jwt_algorithms == "RS256,ES256"


def test_the_password_of_a_lists_url_is_not_shown() -> None:
    url = Settings(jwt_jwks="https://u:hunter2@login.example.org/jwks.json?token=hunter2")
    path = Settings(jwt_jwks="/etc/rowbell/jwks.json")

    assert "hunter2" not in repr(url)
    assert {name: value for name, value, _ in url.shown()}["ROWBELL_JWT_JWKS"] == (
        "https://u:********@login.example.org/jwks.json?token=********"
    )
    assert {name: value for name, value, _ in path.shown()}["ROWBELL_JWT_JWKS"] == "/etc/rowbell/jwks.json"

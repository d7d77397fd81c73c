"""Tokens signed with private keys: each algorithm with its own type of key, and no other."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rowbell.auth import Tokens
from rowbell.auth.jwks import Jwks
from rowbell.auth.keyring import Keyring
from rowbell.auth.keys import public_keys, secret_key
from rowbell.config import JWT_ALGORITHMS
from rowbell.errors import TokenError
from tests.auth.issuer import ED25519, NOW, OTHER_RSA, P256, P384, P521, RSA, SECRET, jwk, part, pem, sign, token

ASYMMETRIC = [name for name in JWT_ALGORITHMS if not name.startswith("HS")]
SIGNERS = {"RS": RSA, "PS": RSA, "ES256": P256, "ES384": P384, "EdDSA": ED25519}


def signer(algorithm: str) -> Any:
    return SIGNERS.get(algorithm) or SIGNERS[algorithm[:2]]


def in_a_file(*keys: Any) -> Tokens:
    return Tokens(Keyring(public=public_keys("".join(map(pem, keys)), JWT_ALGORITHMS)))


def in_a_list(*entries: dict[str, Any]) -> Tokens:
    jwks = Jwks(lambda: document(*entries), "a test", JWT_ALGORITHMS)
    jwks.load()
    return Tokens(Keyring(jwks=jwks))


def document(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


ALL_IN_A_FILE = in_a_file(RSA, P256, P384, ED25519)
ALL_IN_A_LIST = in_a_list(jwk(RSA, kid="rsa"), jwk(P256, kid="p256"), jwk(P384, kid="p384"), jwk(ED25519, kid="ed"))
EITHER = pytest.mark.parametrize("tokens", [ALL_IN_A_FILE, ALL_IN_A_LIST], ids=["file", "list"])


def refusal(tokens: Tokens, value: str) -> str:
    with pytest.raises(TokenError) as refused:
        tokens.verify(value)
    return str(refused.value)


@EITHER
@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_token_of_each_algorithm_is_good(algorithm: str, tokens: Tokens) -> None:
    assert tokens.verify(token(signer(algorithm), algorithm)).user == "alice"


@pytest.mark.parametrize(("key", "algorithm", "kid"), [(RSA, "PS384", "rsa"), (P256, "ES256", "p256")])
def test_the_key_is_found_by_its_name(key: Any, algorithm: str, kid: str) -> None:
    assert ALL_IN_A_LIST.verify(token(key, algorithm, kid=kid)).user == "alice"


@pytest.mark.parametrize("kid", [None, "k1"])
def test_the_name_of_the_key_does_not_matter_for_a_file(kid: str | None) -> None:
    assert ALL_IN_A_FILE.verify(token(RSA, "RS256", kid=kid)).user == "alice"


def test_a_name_that_is_another_keys_is_refused() -> None:
    tokens = in_a_list(jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="b"))

    assert "another key" in refusal(tokens, token(OTHER_RSA, "RS256", kid="a"))


def test_keys_of_one_name_and_several_types_are_each_found() -> None:
    tokens = in_a_list(jwk(RSA, kid="2026"), jwk(P256, kid="2026"))

    assert tokens.verify(token(RSA, "RS256", kid="2026")).user == "alice"
    assert tokens.verify(token(P256, "ES256", kid="2026")).user == "alice"


def test_a_listed_key_without_a_name_is_good_for_tokens_with_one() -> None:
    assert in_a_list(jwk(RSA)).verify(token(RSA, "RS256", kid="k1")).user == "alice"


def test_a_listed_key_that_names_its_algorithm_is_good_for_no_other() -> None:
    tokens = in_a_list(jwk(RSA, kid="k1", alg="RS512"))

    assert tokens.verify(token(RSA, "RS512", kid="k1")).user == "alice"
    assert "another key" in refusal(tokens, token(RSA, "RS256", kid="k1"))


@EITHER
@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "no\u006ee ", ""])
@pytest.mark.parametrize("kid", [None, "rsa"])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_a_token_without_a_signature_is_refused(tokens: Tokens, alg: str, kid: str | None, signature: str) -> None:
    header = {"alg": alg, "kid": kid} if kid else {"alg": alg}

    assert "not signed with one of" in refusal(
        tokens, f"{part(header)}.{part({'sub': 'alice', 'exp': NOW + 3600})}.{signature}"
    )


def public_forms(key: Any) -> list[bytes]:
    """Everything that an attacker may take for the bytes of a public key."""
    public = key.public_key()
    forms = [pem(key).encode(), pem(key).strip().encode(), part(jwk(key)).encode(), document(jwk(key))]
    forms.append(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    if key is RSA:
        forms += [pem(key, PublicFormat.PKCS1).encode(), public.public_bytes(Encoding.DER, PublicFormat.PKCS1)]
    if key is ED25519:
        forms.append(public.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return forms


def hmac_signed(key: bytes, algorithm: str, kid: str | None) -> str:
    header = {"alg": algorithm} | ({} if kid is None else {"kid": kid})
    return sign(header, {"sub": "alice", "exp": NOW + 3600}, key, algorithm)


@EITHER
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize(("key", "kid"), [(RSA, "rsa"), (P256, "p256"), (ED25519, "ed")], ids=["RSA", "EC", "Ed"])
def test_a_public_key_does_not_pass_for_a_secret_one(tokens: Tokens, algorithm: str, key: Any, kid: str) -> None:
    for form in public_forms(key):
        for name in (None, kid):
            assert "not signed with one of" in refusal(tokens, hmac_signed(form, algorithm, name))


@pytest.mark.parametrize("kid", [None, "rsa"])
def test_a_public_key_does_not_pass_for_the_secret_where_there_is_one_as_well(kid: str | None) -> None:
    jwks = Jwks(lambda: document(jwk(RSA, kid="rsa")), "a test", JWT_ALGORITHMS)
    jwks.load()
    both = Tokens(Keyring(secret_key(SECRET, JWT_ALGORITHMS), public_keys(pem(RSA), JWT_ALGORITHMS), jwks))

    assert both.verify(token(SECRET.encode(), "HS256", kid=kid)).user == "alice"
    assert both.verify(token(RSA, "RS256", kid=kid)).user == "alice"
    for form in public_forms(RSA):
        assert "another key" in refusal(both, hmac_signed(form, "HS256", kid))


@EITHER
@pytest.mark.parametrize(
    ("key", "kid", "said", "used"),
    [
        pytest.param(P256, "p256", "ES384", "ES256", id="P-256 for P-384"),
        pytest.param(P384, "p384", "ES256", "ES384", id="P-384 for P-256"),
        pytest.param(RSA, "rsa", "RS256", "PS256", id="PSS for PKCS1"),
        pytest.param(RSA, "rsa", "PS256", "RS256", id="PKCS1 for PSS"),
        pytest.param(RSA, "rsa", "RS256", "RS512", id="another hash"),
        pytest.param(ED25519, "ed", "ES256", "EdDSA", id="Ed25519 for P-256"),
    ],
)
def test_a_token_signed_otherwise_than_it_says_is_refused(
    tokens: Tokens, key: Any, kid: str, said: str, used: str
) -> None:
    crossed = sign({"alg": said, "kid": kid}, {"sub": "alice", "exp": NOW + 3600}, key, used)

    assert "another key" in refusal(tokens, crossed)


def test_each_curve_is_for_its_own_algorithm_alone() -> None:
    # given a token whose header names the other curve's algorithm, and no key on that curve
    digest_of_384 = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA384)
    head = f"{part({'alg': 'ES384', 'kid': 'k1'})}.{part({'sub': 'alice', 'exp': NOW + 3600})}"
    crossed = f"{head}.{part(digest_of_384.sign(head.encode(), P256))}"

    assert "not signed with ES256" in refusal(in_a_file(P256), crossed)
    assert "another key" in refusal(in_a_list(jwk(P256, kid="k1")), crossed)


@EITHER
@pytest.mark.parametrize(("key", "algorithm"), [(P521, "ES512"), (P521, "ES521")])
def test_a_curve_that_is_not_taken_is_refused(tokens: Tokens, key: Any, algorithm: str) -> None:
    assert "not signed with one of" in refusal(tokens, token(key, algorithm))


@EITHER
@pytest.mark.parametrize(
    ("algorithm", "kid"), [("ES256", "p256"), ("ES384", "p384"), ("EdDSA", "ed"), ("RS256", "rsa")]
)
@pytest.mark.parametrize("size", [1, 64, 96, 256, 257])
def test_a_signature_of_zeros_is_refused(tokens: Tokens, algorithm: str, kid: str, size: int) -> None:
    head = f"{part({'alg': algorithm, 'kid': kid})}.{part({'sub': 'alice', 'exp': NOW + 3600})}"

    assert "another key" in refusal(tokens, f"{head}.{part(bytes(size))}")


INJECTIONS = [
    "' OR '1'='1",
    "rsa' UNION SELECT 'x' --",
    "../../../../dev/null",
    "/etc/passwd",
    "file:///dev/null",
    "http://127.0.0.1:1/jwks.json",
    "rsa\x00",
    "rsa\n",
    " rsa",
    "RSA",
    "ｒｓａ",
    "\ud800",
    "__class__",
    "",
    "0",
    "k" * 5000,
    "${jndi:ldap://127.0.0.1/x}",
    "$(touch /tmp/owned)",
]


@pytest.mark.parametrize("kid", INJECTIONS, ids=ascii)
def test_a_kid_is_nothing_but_a_name(kid: str) -> None:
    # a key that an attacker knows the bytes of, such as an empty file, is found nowhere
    for key in (b"\0", b"x" * 32):
        assert "not signed with one of" in refusal(ALL_IN_A_LIST, hmac_signed(key, "HS256", kid))

    said = refusal(ALL_IN_A_LIST, token(OTHER_RSA, "RS256", kid=kid))
    assert not kid.strip() or kid not in said


@EITHER
@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_a_token_does_not_bring_its_own_key(tokens: Tokens, name: str) -> None:
    brought = {
        "jwk": jwk(OTHER_RSA),
        "jku": "http://127.0.0.1:1/jwks.json",
        "x5u": "http://127.0.0.1:1/chain.pem",
        "x5c": ["AAAA"],
    }
    header = {"alg": "RS256", "kid": "rsa", name: brought[name]}

    assert "another key" in refusal(tokens, sign(header, {"sub": "alice", "exp": NOW + 3600}, OTHER_RSA, "RS256"))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_what_was_changed_after_signing_is_refused(algorithm: str) -> None:
    header, _, signature = token(signer(algorithm), algorithm).split(".")

    changed = f"{header}.{part({'sub': 'root', 'exp': NOW + 3600})}.{signature}"

    assert "another key" in refusal(ALL_IN_A_FILE, changed)


def test_claims_are_checked_whatever_the_key() -> None:
    assert "has expired" in refusal(ALL_IN_A_FILE, token(RSA, "RS256", exp=1))
    assert "another audience" in refusal(ALL_IN_A_LIST, token(P256, "ES256", kid="p256", aud="billing"))

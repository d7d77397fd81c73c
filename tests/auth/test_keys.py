"""Which keys are taken, for which algorithms, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from rowbell.auth.keys import listed_key, public_keys, secret_key
from rowbell.config import JWT_ALGORITHMS
from tests.auth.issuer import ED25519, K256, P256, P384, P521, RSA, WEAK_RSA, jwk, pem

RSA_ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

KEYS = [
    pytest.param(RSA, RSA_ALGORITHMS, id="RSA"),
    pytest.param(P256, {"ES256"}, id="P-256"),
    pytest.param(P384, {"ES384"}, id="P-384"),
    pytest.param(ED25519, {"EdDSA"}, id="Ed25519"),
]

REFUSED_KEYS = [
    pytest.param(WEAK_RSA, "an RSA key of 1024 bits: 2048 to 8192", id="weak RSA"),
    pytest.param(P521, "secp521r1: P-256 and P-384", id="P-521"),
    pytest.param(K256, "secp256k1: P-256 and P-384", id="secp256k1"),
]


@pytest.mark.parametrize(
    ("size", "algorithms"),
    [
        (32, {"HS256"}),
        (47, {"HS256"}),
        (48, {"HS256", "HS384"}),
        (63, {"HS256", "HS384"}),
        (64, {"HS256", "HS384", "HS512"}),
    ],
)
def test_a_secret_is_for_the_hashes_that_it_is_as_long_as(size: int, algorithms: set[str]) -> None:
    assert secret_key("x" * size, JWT_ALGORITHMS).algorithms == algorithms


def test_a_secret_is_counted_in_bytes() -> None:
    assert secret_key("é" * 16, JWT_ALGORITHMS).algorithms == {"HS256"}


def test_a_short_secret_is_refused_without_being_quoted() -> None:
    with pytest.raises(ValueError, match="it has 15 bytes") as refused:
        secret_key("hunter2-hunter2", JWT_ALGORITHMS)

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("secret", [pem(RSA), pem(P256), '{"kty": "oct", "k": "' + "A" * 43 + '"}'])
def test_what_others_may_know_is_refused_as_a_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="which others know"):
        secret_key(secret, JWT_ALGORITHMS)


@pytest.mark.parametrize(("key", "algorithms"), KEYS)
def test_a_public_key_in_a_file_is_for_the_algorithms_of_its_type(key: Any, algorithms: set[str]) -> None:
    [found] = public_keys(pem(key), JWT_ALGORITHMS)

    assert found.algorithms == algorithms


def test_a_file_may_hold_several_keys_with_text_between_them() -> None:
    text = f"of 2026\r\n{pem(RSA)}\nof 2027: Zoë\n{pem(P256)}{pem(ED25519)}"

    assert len(public_keys(text, JWT_ALGORITHMS)) == 3


def test_a_public_key_may_be_in_the_older_form_for_rsa_alone() -> None:
    [found] = public_keys(pem(RSA, PublicFormat.PKCS1), JWT_ALGORITHMS)

    assert found.algorithms == RSA_ALGORITHMS


def test_only_the_algorithms_that_are_allowed_are_taken() -> None:
    [found] = public_keys(pem(RSA), ["RS256", "ES256", "HS256"])

    assert found.algorithms == {"RS256"}


@pytest.mark.parametrize(("key", "problem"), REFUSED_KEYS)
def test_a_weak_key_or_one_on_another_curve_in_a_file_is_refused(key: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="key 2 of 2 cannot be used: ") as refused:
        public_keys(pem(RSA) + pem(key), JWT_ALGORITHMS)

    assert problem in str(refused.value)


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
OLD_PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "no public key in PEM", id="nothing"),
        pytest.param("ssh-rsa AAAA", "no public key in PEM", id="SSH"),
        pytest.param(pem(RSA)[:200], "no public key in PEM", id="half a key"),
        pytest.param(PRIVATE, "a private key, which only the issuer may have", id="a private key"),
        pytest.param(OLD_PRIVATE, "a private key, which only the issuer may have", id="a private RSA key"),
        pytest.param(pem(RSA).replace("PUBLIC KEY", "CERTIFICATE"), "openssl x509 -pubkey", id="a certificate"),
        pytest.param(pem(RSA).replace("PUBLIC KEY", "DH PARAMETERS"), "not a PUBLIC KEY", id="something else"),
        pytest.param(pem(RSA).replace("M", "!"), "damaged", id="not base64"),
        pytest.param(pem(RSA).replace("MII", "AAA"), "damaged", id="no key inside"),
    ],
)
def test_a_file_with_something_else_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        public_keys(text, JWT_ALGORITHMS)


@pytest.mark.parametrize(("key", "algorithms"), KEYS)
def test_a_listed_key_is_for_the_algorithms_of_its_type(key: Any, algorithms: set[str]) -> None:
    found = listed_key(jwk(key, kid="k1", use="sig"), JWT_ALGORITHMS)

    assert (found.kid, found.algorithms) == ("k1", algorithms)


@pytest.mark.parametrize("algorithm", ["RS256", "PS512"])
def test_a_listed_key_that_names_its_algorithm_is_for_no_other(algorithm: str) -> None:
    assert listed_key(jwk(RSA, alg=algorithm), JWT_ALGORITHMS).algorithms == {algorithm}


def test_certificates_and_addresses_in_an_entry_are_not_looked_at() -> None:
    entry = jwk(RSA, x5u="http://127.0.0.1:1/", x5c=["AAAA"], x5t="x", **{"x5t#S256": "x"})

    assert listed_key(entry, JWT_ALGORITHMS).algorithms == RSA_ALGORITHMS


OCT = {"kty": "oct", "k": "A" * 43, "kid": "k1", "alg": "HS256"}
PRIVATE_ENTRY = jwk(RSA) | {"d": "AQAB"}

REFUSED_ENTRIES = [
    pytest.param("a string", "not an object", id="a string"),
    pytest.param(None, "not an object", id="null"),
    pytest.param({}, "its type", id="nothing"),
    pytest.param(OCT, "symmetric", id="oct"),
    pytest.param(OCT | {"alg": "RS256"}, "symmetric", id="oct for RS256"),
    pytest.param({"kty": "AKP", "alg": "ML-DSA-44"}, "its type", id="a type of the future"),
    pytest.param({"kty": ["RSA"]}, "its type", id="a list of types"),
    pytest.param(jwk(RSA, kty="EC"), "its type", id="RSA numbers as EC"),
    pytest.param(jwk(P256, kty="RSA"), "do not form a valid key", id="EC numbers as RSA"),
    pytest.param(jwk(P256, crv="P-384"), "do not form a valid key", id="numbers of another curve"),
    pytest.param(jwk(P521), "its type", id="P-521"),
    pytest.param(jwk(K256), "its type", id="secp256k1"),
    pytest.param(jwk(ED25519, crv="X25519"), "its type", id="for key exchange"),
    pytest.param(jwk(WEAK_RSA), "an RSA key of 1024 bits", id="weak RSA"),
    pytest.param(jwk(RSA, use="enc"), "`use` is not sig", id="for encryption"),
    pytest.param(jwk(RSA, use=["sig"]), "`use` is not sig", id="a list of uses"),
    pytest.param(jwk(RSA, key_ops=["encrypt"]), "`key_ops`", id="not to verify with"),
    pytest.param(jwk(RSA, key_ops="verify"), "`key_ops`", id="operations that are no list"),
    pytest.param(jwk(RSA, alg="RSA-OAEP"), "its `alg`", id="an algorithm of encryption"),
    pytest.param(jwk(RSA, alg="HS256"), "its `alg`", id="RSA for HS256"),
    pytest.param(jwk(RSA, alg="none"), "its `alg`", id="RSA for none"),
    pytest.param(jwk(P256, alg="ES384"), "its `alg`", id="P-256 for ES384"),
    pytest.param(jwk(RSA, alg=["RS256"]), "its `alg`", id="a list of algorithms"),
    pytest.param(jwk(RSA, kid=7), "its `kid`", id="a number as kid"),
    pytest.param(jwk(RSA, kid="k" * 1025), "its `kid`", id="an endless kid"),
    pytest.param(PRIVATE_ENTRY, "a private key", id="a private key"),
    pytest.param(jwk(RSA, n=None), "do not form a valid key", id="no modulus"),
    pytest.param(jwk(RSA, n=7), "do not form a valid key", id="a number as modulus"),
    pytest.param(jwk(RSA, n="é"), "do not form a valid key", id="a modulus that is not base64"),
    pytest.param(jwk(RSA, e="AQ"), "do not form a valid key", id="the exponent 1"),
    pytest.param(jwk(RSA, e="AA"), "do not form a valid key", id="the exponent 0"),
    pytest.param(jwk(P256, y=jwk(P256)["x"]), "do not form a valid key", id="a point beside the curve"),
    pytest.param(jwk(ED25519, x="AAAA"), "do not form a valid key", id="a short point"),
]


@pytest.mark.parametrize(("entry", "problem"), REFUSED_ENTRIES)
def test_an_entry_that_cannot_be_used_is_refused(entry: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        listed_key(entry, JWT_ALGORITHMS)


def test_an_entry_for_algorithms_that_are_not_allowed_is_refused() -> None:
    with pytest.raises(ValueError, match="ES256, which ROWBELL_JWT_ALGORITHMS does not name"):
        listed_key(jwk(P256), ["RS256"])


def test_printing_a_key_shows_nothing_of_it() -> None:
    secret = "0123456789abcdef" * 2

    assert secret not in repr(secret_key(secret, JWT_ALGORITHMS))

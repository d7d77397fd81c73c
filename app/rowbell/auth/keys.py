"""Keys, and the algorithms that each may be used with.

The algorithms belong to the key, never to the token: if a key were used with whatever algorithm a token names, a public
key, which everybody knows, would pass for a secret. Problems raise ValueError, whose text quotes no key.

Source: RFC 7518, 3 (algorithms and sizes), RFC 8037 (EdDSA), RFC 8725, 3.1 and 3.2, RFC 7517 (JWK)
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""Algorithm → minimum length of the secret in bytes, that of the hash. RFC 7518, 3.2."""

RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVE_ALGORITHMS = {"secp256r1": ("ES256",), "secp384r1": ("ES384",)}
"""Curve, by its OpenSSL name → its only algorithm. RFC 7518, 3.4: P-256 and P-384."""

MIN_RSA_BITS = 2048
"""RFC 7518, 3.3."""
MAX_RSA_BITS = 8192
"""Verifying a signature of a 16,384-bit key takes a millisecond of the event loop."""

MAX_KID = 1024
"""Characters. A `kid` is only ever compared; no real one is longer."""

JWK_ALGORITHM: dict[tuple[object, object], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("OKP", "Ed25519"): "EdDSA",
}
"""Key type and curve of a JWK → an algorithm whose pyjwt key reader accepts it."""

_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_PUBLIC_BLOCKS = {"PUBLIC KEY", "RSA PUBLIC KEY"}


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A key that signatures are verified with."""

    material: str | PublicKey = field(repr=False)
    algorithms: frozenset[str]
    kid: str | None = None
    """Its name in the issuer's key set."""


def secret_key(secret: str, allowed: Collection[str]) -> Key:
    """Return the key for those of HS256, HS384 and HS512 that are allowed and that the secret is long enough for.

    Raises ValueError if there is no such algorithm, or the secret looks like a public key.
    """
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("it is a public key, a certificate or a JWK, which others know") from None
    size = len(secret.encode())
    if not (algorithms := {name for name, least in SECRET_BYTES.items() if name in allowed and size >= least}):
        raise ValueError(f"it has {size} bytes, too few for the allowed algorithms")
    return Key(secret, frozenset(algorithms))


def public_keys(pem: str, allowed: Collection[str]) -> list[Key]:
    """Return the public keys of a PEM file; other text between them is skipped.

    Raises ValueError if there is none, or if one is something else, weak, or unusable with the `allowed` algorithms.
    """
    blocks = list(_PEM_BLOCK.finditer(pem))
    if not blocks:
        raise ValueError("it contains no public key in PEM (-----BEGIN PUBLIC KEY-----)")
    keys = []
    for number, block in enumerate(blocks, 1):
        try:
            keys.append(_public_key(block[1], block[0], allowed))
        except ValueError as problem:
            raise ValueError(f"key {number} of {len(blocks)} cannot be used: {problem}") from None
    return keys


def _public_key(label: str, block: str, allowed: Collection[str]) -> Key:
    if label == "CERTIFICATE":
        raise ValueError("it is a certificate: extract its key with `openssl x509 -pubkey -noout -in FILE`")
    if "PRIVATE" in label:
        raise ValueError("it is a private key, which only the issuer may have: `openssl pkey -pubout -in FILE`")
    if label not in _PUBLIC_BLOCKS:
        raise ValueError("it is not a PUBLIC KEY")
    try:
        material = load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is damaged, or its type is not supported") from None
    return _checked(material, allowed)


def listed_key(entry: object, allowed: Collection[str]) -> Key:
    """Return the key of one entry (JWK) of an issuer's key set.

    Only kty, crv, kid, use, key_ops, alg and the key's numbers count; x5c and x5u are ignored. Raises ValueError if the
    entry cannot be used.
    """
    if not isinstance(entry, dict):
        raise ValueError("it is not an object")
    kty, crv, kid, alg = (entry.get(name) for name in ("kty", "crv", "kid", "alg"))
    if kty == "oct":
        raise ValueError("it is symmetric (`oct`), and not a secret in a key set that others can read")
    if "d" in entry:
        raise ValueError("it is a private key: anyone who reads the key set can sign with it. Replace it at the issuer")
    if entry.get("use", "sig") != "sig":
        raise ValueError("its `use` is not sig")
    if not isinstance(operations := entry.get("key_ops", ["verify"]), list) or "verify" not in operations:
        raise ValueError("its `key_ops` do not include verify")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID):
        raise ValueError("its `kid` is not a string or is too long")
    try:
        reader = JWK_ALGORITHM[kty, crv if kty != "RSA" else None]
    except (KeyError, TypeError):
        raise ValueError("its type (`kty`, `crv`) is not one of RSA, P-256, P-384, Ed25519") from None
    try:
        material = jwt.PyJWK(entry, reader).key
    except Exception:  # pyjwt and cryptography raise many kinds for malformed entries
        raise ValueError("its numbers do not form a valid key") from None
    return _checked(material, allowed, only=alg, kid=kid)


def _checked(material: object, allowed: Collection[str], only: object = None, kid: str | None = None) -> Key:
    suits = _suitable(material)
    if only is not None:
        suits = tuple(name for name in suits if name == only)
    if not suits:
        raise ValueError("its `alg` does not fit its type, or is not for signatures")
    if not (algorithms := frozenset(suits) & frozenset(allowed)):
        raise ValueError(f"it is for {', '.join(suits)}, which ROWBELL_JWT_ALGORITHMS does not name")
    assert isinstance(material, PublicKey)
    return Key(material, algorithms, kid)


def _suitable(material: object) -> tuple[str, ...]:
    """Return the algorithms for this key. Raises ValueError if its type or size is not supported."""
    match material:
        case RSAPublicKey(key_size=bits):
            if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
                raise ValueError(f"it is an RSA key of {bits} bits: {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")
            return RSA_ALGORITHMS
        case EllipticCurvePublicKey(curve=curve):
            if curve.name not in CURVE_ALGORITHMS:
                raise ValueError(f"it is on the curve {curve.name}: P-256 and P-384 are accepted")
            return CURVE_ALGORITHMS[curve.name]
        case Ed25519PublicKey():
            return ("EdDSA",)
    raise ValueError("its type is not one of RSA, EC (P-256, P-384), Ed25519")

"""Certificates for 127.0.0.1 and localhost, made on the spot."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)


@dataclass(frozen=True)
class Certificate:
    certfile: Path
    keyfile: Path

    @classmethod
    def made(
        cls,
        directory: Path,
        name: str = "tls",
        passphrase: bytes | None = None,
        lasts: datetime.timedelta = datetime.timedelta(days=1),
    ) -> Certificate:
        """A certificate that signs itself and is a day old, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + lasts)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        encryption: KeySerializationEncryption = (
            BestAvailableEncryption(passphrase) if passphrase is not None else NoEncryption()
        )
        made = cls(directory / f"{name}.pem", directory / f"{name}.key")
        made.certfile.write_bytes(certificate.public_bytes(Encoding.PEM))
        made.keyfile.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return made

    def client(self) -> ssl.SSLContext:
        """For a client that believes it, and nothing else."""
        return ssl.create_default_context(cafile=self.certfile)

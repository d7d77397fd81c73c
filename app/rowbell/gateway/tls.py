"""The gateway's own TLS, where no proxy ends it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from rowbell.config import Settings
from rowbell.errors import SettingsError
from rowbell.logs import get_logger

log = get_logger("gateway.tls")


def context(settings: Settings) -> ssl.SSLContext | None:
    """What the settings say; None if it is to be without. SettingsError if the files cannot be used."""
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None:
        if key is not None:
            raise SettingsError("ROWBELL_SSL_KEYFILE is set and ROWBELL_SSL_CERTFILE is not: a key needs a certificate")
        return None
    for name, file in (("ROWBELL_SSL_CERTFILE", certificate), ("ROWBELL_SSL_KEYFILE", key)):
        _try_to_read(name, file)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: those before must not be used
    tls.set_alpn_protocols(["http/1.1"])
    try:
        tls.load_cert_chain(certificate, key, _refuse_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"ROWBELL_SSL_KEYFILE: the key in {key or certificate} is not that of the first certificate in "
                f"{certificate}. The gateway's own certificate comes first in that file."
            ) from None
        files = certificate if key is None else f"{certificate} and {key}"
        raise SettingsError(
            f"ROWBELL_SSL_CERTFILE: no certificate with its key can be read from {files}. Both are PEM, "
            "-----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----, in one file or in two."
        ) from None
    _warn_if_expired(certificate)
    return tls


def _warn_if_expired(file: str) -> None:
    with suppress(ValueError):  # OpenSSL has taken it, and is less strict
        certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
        if (end := certificate.not_valid_after_utc) < datetime.now(UTC):
            log.warning("certificate_expired", file=file, expired_at=end.isoformat(), effect="clients refuse it")


def _try_to_read(name: str, file: str | None) -> None:
    # OpenSSL does not say which of the two files it could not open.
    if file is None:
        return
    try:
        with open(file, "rb"):
            pass
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{name}: {file} cannot be read: {getattr(error, 'strerror', None) or error}. "
            "The gateway reads it at its start, as the user that it runs as."
        ) from None


def _refuse_passphrase() -> str:
    # Without this OpenSSL asks on the terminal, and waits.
    raise SettingsError(
        "ROWBELL_SSL_KEYFILE: the key is encrypted, and there is nobody to ask for the passphrase. "
        "Decrypt it: openssl pkey -in encrypted.key -out tls.key; chmod 400 tls.key"
    )

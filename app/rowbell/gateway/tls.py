"""The gateway's own TLS, for use without a proxy that terminates it."""

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
    """Return the TLS context of the settings; None without a certificate. SettingsError if the files are not usable."""
    certificate, key = settings.ssl_certfile, settings.ssl_keyfile
    if certificate is None:
        if key is not None:
            raise SettingsError("ROWBELL_SSL_KEYFILE is set but ROWBELL_SSL_CERTFILE is not: a key needs a certificate")
        return None
    for name, file in (("ROWBELL_SSL_CERTFILE", certificate), ("ROWBELL_SSL_KEYFILE", key)):
        _try_to_read(name, file)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: earlier versions must not be used
    tls.set_alpn_protocols(["http/1.1"])
    try:
        tls.load_cert_chain(certificate, key, _refuse_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"ROWBELL_SSL_KEYFILE: the key in {key or certificate} does not match the first certificate in "
                f"{certificate}. The gateway's own certificate must come first in that file."
            ) from None
        files = f"{certificate}, and ROWBELL_SSL_KEYFILE is not set" if key is None else f"{certificate} and {key}"
        raise SettingsError(
            f"ROWBELL_SSL_CERTFILE: no certificate and key can be read from {files}. Both must be PEM, "
            "-----BEGIN CERTIFICATE----- and -----BEGIN PRIVATE KEY-----, in one file or in two."
        ) from None
    _warn_if_expired(certificate)
    return tls


def _warn_if_expired(file: str) -> None:
    with suppress(ValueError):  # OpenSSL, which is less strict, has accepted it
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
            "The gateway reads it at startup, as the user it runs as."
        ) from None


def _refuse_passphrase() -> str:
    # Without this callback OpenSSL prompts on the terminal and waits.
    raise SettingsError(
        "ROWBELL_SSL_KEYFILE: the key is encrypted, and the gateway cannot ask for a passphrase. "
        "Decrypt it: openssl pkey -in encrypted.key -out tls.key; chmod 400 tls.key"
    )

"""TLS contexts, for every side that speaks TLS: version 1.2 at least, the same rules with each version of Python."""

from __future__ import annotations

import os
import ssl

from corten.errors import InvalidParameter

Path = str | os.PathLike[str]


def client_context(*, system: bool = True) -> ssl.SSLContext:
    """A context that checks the other side's certificate and name.

    system: trust the authorities of the machine
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As Go's clients check, whatever Python's own defaults of the day are: whoever is trusted may stand anywhere in the
    # chain, and an authority made with openssl's defaults, which lacks extensions of RFC 5280, is good enough.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if system:
        context.load_default_certs()
    return context


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context for HTTP/1.1.  Errors: InvalidParameter when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_pair(context, certificate, key)
    return context


def trust(context: ssl.SSLContext, authority: Path) -> None:
    """Errors: InvalidParameter when the file holds no certificate."""
    try:
        context.load_verify_locations(authority)
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"could not read CA certificate {authority}: {_reason(error)}") from error


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Errors: InvalidParameter when the files cannot be used; a key with a password cannot: nobody is there to ask."""
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise InvalidParameter(
            f"could not load X509 key pair (cert: {certificate}, key: {key}): {_reason(error)}"
        ) from error


def do_not_verify(context: ssl.SSLContext) -> None:
    """Take any certificate."""
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not in PEM format"
    return (error.strerror if isinstance(error, OSError) else "") or str(error)

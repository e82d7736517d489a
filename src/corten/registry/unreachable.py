"""Why there was no answer: errors of sockets, TLS and the HTTP library in the words that Docker's users know."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from corten.registry.failures import Unreachable
from corten.registry.trust import host_of

_SOCKET_WORDS = {
    ConnectionRefusedError: "connection refused",
    ConnectionResetError: "connection reset by peer",
    BrokenPipeError: "connection reset by peer",
}
_UNKNOWN_AUTHORITY = "certificate signed by unknown authority"
_EXPIRED = "certificate has expired or is not yet valid"
# by OpenSSL's codes (x509_vfy.h), in the words of Go's crypto/x509, which Docker's users know
_X509_WORDS = {
    9: _EXPIRED,
    10: _EXPIRED,
    18: f"{_UNKNOWN_AUTHORITY} (it is signed by itself)",
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    62: "certificate is not valid for this name",
    64: "certificate is not valid for this address",
}


def unreachable(what: str, error: BaseException) -> Unreachable:
    """One clear line for whatever the library says.

    what: the request, 'Get "https://host/path"'
    """
    import ssl

    from urllib3 import exceptions

    cause = _root(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        reason = _X509_WORDS.get(cause.verify_code, cause.verify_message)
        return Unreachable(f"{what}: x509: {reason}", passing=False, is_tls=True)
    if isinstance(cause, ssl.SSLError):
        if "WRONG_VERSION_NUMBER" in str(cause) or "RECORD_LAYER_FAILURE" in str(cause):
            text = f"{what}: http: server gave HTTP response to HTTPS client"
            return Unreachable(text, passing=False)
        return Unreachable(f"{what}: tls: {cause.reason or 'the handshake failed'}", passing=False, is_tls=True)
    if isinstance(cause, socket.gaierror):
        netloc = urlsplit(what.split('"')[1]).netloc
        return Unreachable(f"{what}: lookup {host_of(netloc)}: no such host", passing=False)
    for kind, words in _SOCKET_WORDS.items():
        if isinstance(cause, kind):
            return Unreachable(f"{what}: {words}", passing=kind is not ConnectionRefusedError)
    if isinstance(error, exceptions.ConnectTimeoutError):
        return Unreachable(f"{what}: the connection could not be made in time", passing=False)
    if isinstance(error, exceptions.TimeoutError) or isinstance(cause, TimeoutError):
        return Unreachable(f"{what}: the server is silent: timeout")
    if isinstance(cause, OSError) and cause.strerror:
        return Unreachable(f"{what}: {cause.strerror.lower()}")
    if isinstance(error, exceptions.IncompleteRead) or "IncompleteRead" in str(error):
        return Unreachable(f"{what}: unexpected EOF")
    return Unreachable(f"{what}: {' '.join(str(cause).split())[:200] or 'unexpected EOF'}")


def _root(error: BaseException) -> BaseException:
    """The system's own error below the library's."""
    seen = 0
    while seen < 10:
        seen += 1
        below = error.__cause__ or error.__context__
        inner = next((item for item in error.args if isinstance(item, BaseException)), None)
        reason = getattr(error, "reason", None)
        step = inner or (reason if isinstance(reason, BaseException) else None) or below
        if step is None or step is error:
            return error
        error = step
    return error

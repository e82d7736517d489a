"""What goes wrong at a registry, told apart by what can be done about it.

These stay inside the room: ``words`` turns them into the errors that everybody knows, worded as Docker's.

    RegistryFailure ── Refused      the registry answered, and said no (status, code)
                    └─ Unreachable  no answer, or none that makes sense: another host or another attempt may help
"""

from __future__ import annotations

from typing import Any

from corten.errors import CortenError, Unavailable
from corten.oci import documents

_SHOWN = 300


class Cancelled(CortenError):
    """Nobody wants the transfer any more."""

    def __init__(self) -> None:
        super().__init__("the transfer was cancelled")


class RegistryFailure(Unavailable):
    """Base of what a registry did wrong or refused."""


class Unreachable(RegistryFailure):
    """No connection, a cut or a stalled one, a server's failure, or an answer that is none.

    passing: the next attempt may succeed; False when nothing listens there, or no TLS is spoken
    pause_s: what the server asked to wait, 0 when it did not
    is_tls:  TLS is spoken there and failed: plain HTTP would not help
    """

    def __init__(self, message: str, *, passing: bool = True, pause_s: float = 0.0, is_tls: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
        self.pause_s = pause_s
        self.is_tls = is_tls


class Refused(RegistryFailure):
    """The registry's own error: HTTP status, the first code of its document ("MANIFEST_UNKNOWN", "" without one).

    The message is worded as Docker's: "manifest unknown: manifest unknown".
    """

    def __init__(self, message: str, *, status: int, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def is_missing(self) -> bool:
        return self.status == 404

    @property
    def is_denied(self) -> bool:
        return self.status in (401, 403) or self.code in ("DENIED", "UNAUTHORIZED")


_BY_STATUS = {401: "unauthorized: authentication required", 403: "denied: requested access to the resource is denied"}


def refused(status: int, content_type: str, body: bytes, what: str) -> RegistryFailure:
    """The failure that an answer with ``status`` stands for.  ``what``: method and URL, for the message."""
    code, message = _stated(body)
    if code:
        words = code.lower().replace("_", " ")
        return Refused(f"{words}: {message}", status=status, code=code)
    if status in _BY_STATUS:
        return Refused(_BY_STATUS[status], status=status)
    shown = f" and {content_type.partition(';')[0][:60]}" if content_type else ""
    text = f"{what}: unexpected answer: HTTP status {status}{shown}" + (f": {message}" if message else "")
    if status >= 500 or status in (408, 425, 429):
        return Unreachable(text)
    return Refused(text, status=status)


def _stated(body: bytes) -> tuple[str, str]:
    """(code, message) of the registry's first error; ("", text) for something else that names a reason."""
    try:
        document = documents.load_object(body, "answer")
    except CortenError:
        return "", ""
    errors: Any = document.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        code, message = errors[0].get("code"), errors[0].get("message")
        if isinstance(code, str) and code:
            return _printable(code), _printable(message if isinstance(message, str) and message else "no reason given")
    for name in ("details", "message", "error_description", "error"):
        if isinstance(document.get(name), str):
            return "", _printable(document[name])
    return "", ""


def _printable(text: str) -> str:
    """One line without control characters: it is shown on terminals."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 2 * _SHOWN])
    return " ".join(line.split())[:_SHOWN]

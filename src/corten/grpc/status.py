"""How a call ends: a code, a message, and what both are on the wire.

Source: doc/statuscodes.md and doc/PROTOCOL-HTTP2.md ("Responses", "Errors") of the gRPC project.
"""

from __future__ import annotations

import re
from enum import IntEnum
from urllib.parse import unquote

from corten.errors import (
    Conflict,
    CortenError,
    DataLoss,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotImplementedYet,
    NotModified,
    SystemFailure,
    Unauthorized,
    Unavailable,
)

_MAX_MESSAGE = 8 << 10  # bytes of an error's text: a list of headers has a limit
_UNSAFE = re.compile(rb"[^ -$&-~]")


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(CortenError):
    """A call that did not end well.

    details: a serialized ``google.rpc.Status``, or nothing
    """

    def __init__(self, code: Code, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def as_kind(self, what: str = "") -> CortenError:
        """The same as one of Corten's kinds of error, the text after ``what`` and a colon."""
        text = f"{what}: {self.message}" if what else self.message
        return _KINDS.get(self.code, Unavailable)(text)


_KINDS: dict[Code, type[CortenError]] = {
    Code.INVALID_ARGUMENT: InvalidParameter,
    Code.OUT_OF_RANGE: InvalidParameter,
    Code.RESOURCE_EXHAUSTED: InvalidParameter,
    Code.NOT_FOUND: NotFound,
    Code.ALREADY_EXISTS: Conflict,
    Code.FAILED_PRECONDITION: Conflict,
    Code.ABORTED: Conflict,
    Code.PERMISSION_DENIED: Forbidden,
    Code.UNAUTHENTICATED: Unauthorized,
    Code.UNIMPLEMENTED: NotImplementedYet,
    Code.DATA_LOSS: DataLoss,
}
_CODES: tuple[tuple[type[CortenError], Code], ...] = (
    (NotFound, Code.NOT_FOUND),
    (InvalidParameter, Code.INVALID_ARGUMENT),
    (Conflict, Code.FAILED_PRECONDITION),
    (NotModified, Code.FAILED_PRECONDITION),
    (Unauthorized, Code.UNAUTHENTICATED),
    (Forbidden, Code.PERMISSION_DENIED),
    (Unavailable, Code.UNAVAILABLE),
    (NotImplementedYet, Code.UNIMPLEMENTED),
    (DataLoss, Code.DATA_LOSS),
    (SystemFailure, Code.INTERNAL),
)


def of_error(error: CortenError) -> GrpcError:
    """What a client is told of an error."""
    if isinstance(error, GrpcError):
        return error
    code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.UNKNOWN)
    return GrpcError(code, str(error))


# what an HTTP status means when there is no grpc-status; doc/http-grpc-status-mapping.md
_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
# what a stream's reset means; doc/PROTOCOL-HTTP2.md, "Errors"
_RESETS = {
    0x7: Code.UNAVAILABLE,  # REFUSED_STREAM
    0x8: Code.CANCELLED,
    0xB: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}


def of_http(status: str) -> GrpcError:
    number = int(status) if status.isascii() and status.isdigit() and len(status) == 3 else 0
    return GrpcError(_HTTP.get(number, Code.UNKNOWN), f"the other side answered with HTTP status {status[:20]}")


def of_reset(error_code: int) -> GrpcError:
    code = _RESETS.get(error_code, Code.INTERNAL)
    text = "the call was cancelled by the other side" if code == Code.CANCELLED else "the stream was reset"
    return GrpcError(code, f"{text} (HTTP/2 error code {error_code})")


def of_number(text: str) -> Code:
    """The code of a ``grpc-status``; one that is not known is UNKNOWN."""
    try:
        return Code(int(text))
    except ValueError:
        return Code.UNKNOWN


def encode_message(message: str) -> str:
    """``grpc-message``: percent-encoded UTF-8."""
    raw = message.encode("utf-8", "surrogateescape")[:_MAX_MESSAGE]
    return _UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")


def decode_message(text: str) -> str:
    return unquote(text, errors="replace")

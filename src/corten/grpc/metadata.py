"""What goes with a call beside its messages: custom metadata, timeouts, content types.

Source: doc/PROTOCOL-HTTP2.md of the gRPC project, "Requests".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence

from corten.grpc.status import Code, GrpcError

# lower-case names; the values of those that end with "-bin" are base64, see ``binary``
Metadata = Mapping[str, Sequence[str]]
Headers = list[tuple[bytes, bytes]]

CONTENT_TYPE = "application/grpc"
BINARY = "-bin"
_NAME = re.compile(r"[0-9a-z_.-]{1,256}\Z")
_VALUE = re.compile(r"[ -~]*\Z")
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])\Z")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_RESERVED = frozenset({"te", "content-type", "user-agent", "host", "connection"})


def encode(metadata: Metadata) -> Headers:
    """Errors: GrpcError (INTERNAL) for what no header can hold."""
    headers = []
    for name, values in metadata.items():
        if not _NAME.match(name) or name.startswith("grpc-") or name in _RESERVED:
            raise GrpcError(Code.INTERNAL, f"invalid name of metadata: {name[:100]!r}")
        for value in values:
            if not _VALUE.match(value):
                raise GrpcError(Code.INTERNAL, f"invalid value of metadata {name}: {value[:100]!r}")
            headers.append((name.encode(), value.encode()))
    return headers


def decode(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """All headers by name, those of HTTP/2 and gRPC included."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return found


def first(headers: Metadata, name: str) -> str:
    """The first value of a name, "" without one."""
    values = headers.get(name)
    return values[0] if values else ""


def binary(value: bytes) -> str:
    """A value of a name that ends with "-bin"."""
    return base64.b64encode(value).decode().rstrip("=")


def from_binary(text: str) -> bytes:
    """Errors: GrpcError (INTERNAL)."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise GrpcError(Code.INTERNAL, "binary metadata is no base64") from None


def is_grpc(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == CONTENT_TYPE or kind.startswith(CONTENT_TYPE + "+")


def encode_timeout(seconds: float) -> str:
    micro = max(int(seconds * 1e6), 1)
    for unit, size in (("u", 1), ("m", 1000), ("S", 10**6), ("M", 60 * 10**6)):
        if micro // size < 10**8:
            return f"{micro // size}{unit}"
    return f"{min(micro // (3600 * 10**6), 10**8 - 1)}H"


def decode_timeout(text: str) -> float | None:
    """Seconds; None without one.  Errors: GrpcError (INTERNAL)."""
    if not text:
        return None
    match = _TIMEOUT.match(text)
    if match is None:
        raise GrpcError(Code.INTERNAL, f"malformed grpc-timeout: {text[:40]!r}")
    return int(match[1]) * _UNITS[match[2]]

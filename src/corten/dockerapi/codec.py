"""Reading and writing Engine API documents.

Go's decoder treats ``null`` as "not given"; so does this one.  Errors name the JSON path of the offending value.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from corten.errors import InvalidParameter

T = TypeVar("T")

_MAX_DEPTH = 64
encode = msgspec.json.Encoder().encode


def _without_nulls(value: Any, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise InvalidParameter("invalid JSON: nested too deeply")
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise InvalidParameter("invalid JSON: a number is out of range")
    if isinstance(value, str) and "\0" in value:
        raise InvalidParameter("invalid JSON: a string contains a NUL byte")  # no name, path or argument can
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            raise InvalidParameter("invalid JSON: a key contains a NUL byte")
        return {key: _without_nulls(item, depth + 1) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item, depth + 1) for item in value if item is not None]
    return value


def decode(body: bytes, kind: type[T]) -> T:
    """Parse a request body as ``kind``; unknown fields are ignored as dockerd ignores them.

    Errors: InvalidParameter naming what is wrong and where (``$.HostConfig.Memory``).
    """
    try:
        document = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, numbers of thousands of digits
        raise InvalidParameter(f"invalid JSON: {error}") from error
    try:
        return msgspec.convert(_without_nulls(document), kind)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid request: {error}") from error


def to_builtins(document: Any) -> Any:
    """The document as dicts and lists with wire names."""
    return msgspec.to_builtins(document)

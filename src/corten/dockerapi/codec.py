"""Reading and writing Engine API documents.

Go's decoder treats ``null`` as "not given"; so does this one.  In a map the key is given all the same, with an empty
value (``"ExposedPorts": {"80/tcp": null}``).  Errors name the JSON path of the offending value.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as types

from corten.errors import InvalidParameter

T = TypeVar("T")

_MAX_DEPTH = 64
encode = msgspec.json.Encoder().encode


@functools.lru_cache(64)
def _maps(kind: Hashable) -> dict[str, str | None]:
    """Names of fields that are maps, in a document and what it holds -> what ``null`` means as a value of theirs."""
    found: dict[str, str | None] = {}
    pending, seen = [types.type_info(kind)], set()
    while pending:
        item = pending.pop()
        if isinstance(item, types.StructType) and item.cls not in seen:
            seen.add(item.cls)
            for field in item.fields:
                pending.append(field.type)
                if isinstance(field.type, types.DictType):
                    found[field.encode_name] = "" if isinstance(field.type.value_type, types.StrType) else None
        elif isinstance(item, types.UnionType):
            pending += item.types
        elif isinstance(item, types.ListType):
            pending.append(item.item_type)
        elif isinstance(item, types.DictType):
            pending.append(item.value_type)
    return found


def _without_nulls(value: Any, maps: dict[str, str | None], name: str = "", depth: int = 0) -> Any:
    """name: of the field that holds the value"""
    if depth > _MAX_DEPTH:
        raise InvalidParameter("invalid JSON: nested too deeply")
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise InvalidParameter("invalid JSON: a number is out of range")
    if isinstance(value, str) and "\0" in value:
        raise InvalidParameter("invalid JSON: a string contains a NUL byte")  # no name, path or argument can
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            raise InvalidParameter("invalid JSON: a key contains a NUL byte")
        if name in maps:
            return {
                key: maps[name] if item is None else _without_nulls(item, maps, "", depth + 1)
                for key, item in value.items()
            }
        return {key: _without_nulls(item, maps, key, depth + 1) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item, maps, "", depth + 1) for item in value if item is not None]
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
        return msgspec.convert(_without_nulls(document, _maps(kind)), kind)  # type: ignore[arg-type]  # a class is hashable
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"invalid request: {error}") from error


def to_builtins(document: Any) -> Any:
    """The document as dicts and lists with wire names."""
    return msgspec.to_builtins(document)

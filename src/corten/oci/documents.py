"""JSON of images, read with limits: size, depth, types.  What arrives here was written by strangers.

Errors of every reader: InvalidParameter naming the document and the place.
"""

from __future__ import annotations

from typing import Any

import msgspec

from corten.errors import InvalidParameter

# containerd refuses manifests above 4 MiB; configs of images with long histories stay far below 8
MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 8 << 20
_MAX_DEPTH = 48


def load_object(content: bytes, what: str, *, limit: int = MAX_MANIFEST_BYTES) -> dict[str, Any]:
    """The JSON object in ``content``."""
    document = load_json(content, what, limit=limit)
    if not isinstance(document, dict):
        raise InvalidParameter(f"invalid {what}: expected a JSON object")
    return document


def load_json(content: bytes, what: str, *, limit: int = MAX_MANIFEST_BYTES) -> Any:
    if len(content) > limit:
        raise InvalidParameter(f"invalid {what}: {len(content)} bytes, the limit is {limit}")
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"invalid {what}: {_one_line(str(error))}") from error
    _check_depth(document, what)
    return document


def _check_depth(document: Any, what: str) -> None:
    level = [document]
    for _ in range(_MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        if not below:
            return
        level = below
    raise InvalidParameter(f"invalid {what}: nested too deeply")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def field(document: dict[str, Any], name: str, kind: type, what: str, default: Any = None) -> Any:
    """``document[name]`` when it is of ``kind``; the default when it is missing or null."""
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidParameter(
            f"invalid {what}: {name} must be {_KINDS.get(kind, kind.__name__)}, not {_kind_of(value)}"
        )
    return value


def strings(document: dict[str, Any], name: str, what: str) -> list[str]:
    """A list of strings; missing or null is an empty one."""
    value = field(document, name, list, what, [])
    if not all(isinstance(item, str) for item in value):
        raise InvalidParameter(f"invalid {what}: {name} must be a list of strings")
    return list(value)


def string_map(document: dict[str, Any], name: str, what: str) -> dict[str, str]:
    value = field(document, name, dict, what, {})
    if not all(isinstance(item, str) for item in value.values()):
        raise InvalidParameter(f"invalid {what}: {name} must map strings to strings")
    return dict(value)


_KINDS = {str: "a string", int: "a whole number", list: "a list", dict: "an object", bool: "true or false"}


def _kind_of(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


encode = msgspec.json.Encoder().encode

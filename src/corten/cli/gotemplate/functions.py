"""The functions that a template may call: Go's own and Docker's."""

from __future__ import annotations

import json
import re

from corten.cli.gotemplate.values import (
    NO_VALUE,
    NilList,
    NilMap,
    Object,
    TemplateError,
    is_true,
    quote,
    show,
    type_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _plain(value: Any) -> Any:
    if isinstance(value, Object):
        return _plain(value.document())
    if isinstance(value, NilList | NilMap):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if value is NO_VALUE else value


def to_json(value: Any) -> str:
    """Compact JSON as Go writes it without escaping for HTML."""
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)


def index(value: Any, *keys: Any) -> Any:
    """``index x 1 2`` is ``x[1][2]``; a key that a map does not have gives the empty value."""
    for key in keys:
        if isinstance(value, dict):
            if key in value:
                value = value[key]
            else:
                value = "" if all(isinstance(item, str) for item in value.values()) else None
        elif isinstance(value, list | str):
            if isinstance(key, bool) or not isinstance(key, int):
                raise TemplateError(f"cannot index slice/array with type {type_name(key)}")
            if not 0 <= key < len(value):
                raise TemplateError(f"index out of range: {key}")
            value = value[key] if isinstance(value, list) else value.encode()[key]
        elif value is None and isinstance(key, str):
            value = ""  # a map that is not there
        else:
            what = "untyped nil" if value is None else f"item of type {type_name(value)}"
            raise TemplateError(f"index of {what}" if value is None else f"can't index {what}")
    return value


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if isinstance(value, list | dict):
        return len(value)
    if value is None:
        return 0
    raise TemplateError(f"len of type {type_name(value)}")


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, list | str):
        raise TemplateError(f"can't slice item of type {type_name(value)}")
    limits = [*bounds, len(value)][:2] if bounds else [0, len(value)]
    if any(isinstance(bound, bool) or not isinstance(bound, int) for bound in limits):
        raise TemplateError("cannot slice with something that is no integer")
    if not 0 <= limits[0] <= limits[1] <= len(value):
        raise TemplateError(f"index out of range: {limits[1] if limits[1] > len(value) else limits[0]}")
    return value[limits[0] : limits[1]]


_VERB = re.compile(r"%([-+# 0]*)(\*|[0-9]+)?(?:\.(\*|[0-9]*))?(.)?", re.DOTALL)


def _percent(pattern: str, value: float) -> str:
    """Where Go's and Python's patterns mean the same."""
    return pattern % value


def _verb(flags: str, width: str, precision: str | None, verb: str, value: Any) -> str:
    digits = f".{precision or 0}" if precision is not None else ""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if verb == "v":
        text = show(value)
    elif verb == "s" and not is_integer and not isinstance(value, float | bool):
        text = show(value) if precision is None else show(value)[: int(precision or 0)]
    elif verb == "q" and isinstance(value, str):
        text = quote(value)
    elif verb == "d" and is_integer:
        return _percent(f"%{flags}{width}d", value)
    elif verb in "xX" and (is_integer or isinstance(value, str)):
        if is_integer:
            return _percent(f"%{flags}{width}{verb}", value)
        text = value.encode("utf-8", "surrogateescape").hex()
        text = text.upper() if verb == "X" else text
    elif verb in "ob" and is_integer:
        text = format(value, verb)
    elif verb == "c" and is_integer:
        text = chr(value)
    elif verb == "t" and isinstance(value, bool):
        text = show(value)
    elif verb in "feEgG" and isinstance(value, float):
        return _percent(f"%{flags}{width}{digits}{verb}", value)
    elif verb == "T":
        text = type_name(value)
    else:
        return f"%!{verb}({type_name(value)}={show(value)})"
    return text.ljust(int(width or 0)) if "-" in flags else text.rjust(int(width or 0))


def printf(pattern: Any, *values: Any) -> str:
    """Go's ``Sprintf``, with its marks for verbs and values that do not fit."""
    if not isinstance(pattern, str):
        raise TemplateError(f"wrong type for value; expected string; got {type_name(pattern)}")
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, width, precision, verb = match[1], match[2] or "", match[3], match[4]
        if verb is None:
            return "%!(NOVERB)"
        if verb == "%":
            return "%"
        if width == "*":
            width = str(rest.pop(0)) if rest else ""
        if precision == "*":
            precision = str(rest.pop(0)) if rest else ""
        if not rest:
            return f"%!{verb}(MISSING)"
        return _verb(flags, width, precision, verb, rest.pop(0))

    text = _VERB.sub(one, pattern)
    if rest:
        text += "%!(EXTRA " + ", ".join(f"{type_name(value)}={show(value)}" for value in rest) + ")"
    return text


def _print(*values: Any) -> str:
    """Go's ``Sprint``: a space only between two values of which none is a text."""
    pieces = []
    for position, value in enumerate(values):
        if position and not isinstance(value, str) and not isinstance(values[position - 1], str):
            pieces.append(" ")
        pieces.append(show(value))
    return "".join(pieces)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__


def _equal(value: Any, *others: Any) -> bool:
    if not others:
        raise TemplateError("missing argument for comparison")
    for other in others:
        if value is not None and other is not None and _kind(value) != _kind(other):
            raise TemplateError("incompatible types for comparison")
        if value == other:
            return True
    return False


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def function(left: Any, right: Any) -> bool:
        if _kind(left) != _kind(right):
            raise TemplateError("incompatible types for comparison")
        if _kind(left) not in ("number", "str"):
            raise TemplateError("invalid type for comparison")
        return compare(left, right)

    return function


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TemplateError(f"wrong type for value; expected string; got {type_name(value)}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TemplateError(f"wrong type for value; expected int; got {type_name(value)}")
    return value


def _join(values: Any, separator: Any) -> str:
    if not isinstance(values, list | tuple):
        raise TemplateError(f"wrong type for value; expected []string; got {type_name(values)}")
    return _text(separator).join(map(_text, values))


def _pad(value: Any, before: Any, after: Any) -> str:
    text = _text(value)
    return " " * _count(before) + text + " " * _count(after) if text else text


def _title(value: Any) -> str:
    return re.sub(r"(?<![\w'])\w", lambda match: match[0].upper(), _text(value))


def _html(*values: Any) -> str:
    text = _print(*values)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(plain, escaped)
    return text


def _urlquery(*values: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(_print(*values))


BUILTINS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "split": lambda value, separator: _text(value).split(_text(separator)) if separator else list(_text(value)),
    "join": _join,
    "title": _title,
    "lower": lambda value: _text(value).lower(),
    "upper": lambda value: _text(value).upper(),
    "pad": _pad,
    "truncate": lambda value, length: _text(value)[: _count(length)],
    "index": index,
    "len": _length,
    "slice": _slice,
    "print": _print,
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "printf": printf,
    "html": _html,
    "urlquery": _urlquery,
    "eq": _equal,
    "ne": lambda left, right: not _equal(left, right),
    "lt": _ordered(lambda left, right: left < right),
    "le": _ordered(lambda left, right: left <= right),
    "gt": _ordered(lambda left, right: left > right),
    "ge": _ordered(lambda left, right: left >= right),
    "not": lambda value: not is_true(value),
    # these two stop at the first argument that decides, so the executor knows them by name
    "and": lambda *values: next((value for value in values if not is_true(value)), values[-1]),
    "or": lambda *values: next((value for value in values if is_true(value)), values[-1]),
}

# for the line of column titles: every field is its title, and what would reject a title does not
HEADERS: dict[str, Callable[..., Any]] = {
    "json": lambda value: value,
    "title": lambda value: value,
    "lower": lambda value: value,
    "upper": lambda value: value,
    "truncate": lambda value, _: value,
    "join": lambda value, _: value,
    "split": lambda value, _: value,
}

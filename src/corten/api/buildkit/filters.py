"""Filters as containerd writes them: ``type==regular,size~=…`` all of one text, any of several.

Source: containerd, pkg/filters: presence, ``==``, ``!=``, ``~=`` (a regular expression); values may be quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

from corten.errors import InvalidParameter

_TERM = re.compile(
    r"\s*(?P<name>[A-Za-z][\w./-]*)"
    r"(?:(?P<operator>==|!=|~=|<=|>=|<|>)(?P<value>\"(?:[^\"\\]|\\.)*\"|[^,]*))?\s*(?:,|\Z)"
)
_TIMES = ("startedAt", "completedAt", "duration")


class Filters:
    """Errors: InvalidParameter for a text that is no filter."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._any = [_read(text) for text in texts if text.strip()]

    def match(self, field: Callable[[str], str | None]) -> bool:
        """field: the value of a name; None for one that does not exist"""
        return not self._any or any(all(_holds(*term, field) for term in terms) for terms in self._any)


def _read(text: str) -> list[tuple[str, str, str]]:
    terms = []
    position = 0
    while position < len(text):
        match = _TERM.match(text, position)
        if match is None or match.end() == position:
            raise InvalidParameter(f"invalid filter {text[:100]!r}")
        value = match["value"] or ""
        if value.startswith('"'):
            try:
                value = json.loads(value)
            except ValueError:
                raise InvalidParameter(f"invalid filter {text[:100]!r}") from None
        operator = match["operator"] or ""
        if operator == "~=":
            try:
                re.compile(value)
            except re.error as error:
                raise InvalidParameter(f"invalid filter {text[:100]!r}: {error}") from None
        terms.append((match["name"], operator, value))
        position = match.end()
    return terms


def _holds(name: str, operator: str, value: str, field: Callable[[str], str | None]) -> bool:
    found = field(name)
    if found is None:
        raise InvalidParameter(f"invalid filter: {name} is not known")
    if not operator:
        return found not in ("", "false")
    if operator == "==":
        return found == value
    if operator == "!=":
        return found != value
    if operator == "~=":
        return re.search(value, found) is not None
    if name in _TIMES:
        return True  # the client looks at times again itself, with its own clock
    raise InvalidParameter(f"invalid filter: {operator} needs one of {', '.join(_TIMES)}")

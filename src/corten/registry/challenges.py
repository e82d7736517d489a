"""``WWW-Authenticate``: what a registry asks for before it answers.  Source: RFC 9110, section 11."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+|$|(?=,))")
_MAX = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """scheme: lower case ("basic", "bearer"); parameters: names in lower case"""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """All challenges of the header's values; what cannot be read ends its value."""
    return [challenge for value in values for challenge in _of_value(value[:_MAX])]


def _of_value(text: str) -> Iterator[Challenge]:
    position = 0
    while position < len(text):
        scheme = _SCHEME.match(text, position)
        if scheme is None:
            return
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(text, position):
            quoted, plain = parameter[2], parameter[3]
            parameters[parameter[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            position = parameter.end()
            if text[position : position + 1] != ",":
                break
            # a comma parts parameters, or this challenge from the next
            if _PARAMETER.match(text, position + 1) is None:
                break
            position += 1
        yield Challenge(scheme[1].lower(), parameters)
        while text[position : position + 1] in (",", " "):
            position += 1

"""``.dockerignore``: which files of a context stay out, with the matching of Go's ``path/filepath`` and ``**``.

Source: docs.docker.com/build/concepts/context, ".dockerignore files"; Go's filepath.Match and filepath.Clean.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from corten.errors import InvalidParameter

NAME = ".dockerignore"


def read_patterns(content: bytes) -> list[str]:
    """The patterns of a file, cleaned; those with ``!`` bring files back."""
    patterns = []
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip()
        if not pattern:
            continue
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern.removeprefix("!").strip()
        if pattern:
            pattern = posixpath.normpath(pattern)
            pattern = "/" + pattern.lstrip("/") if pattern.startswith("//") else pattern
            if len(pattern) > 1 and pattern.startswith("/"):
                pattern = pattern[1:]
        patterns.append(mark + pattern)
    return patterns


class Ignore:
    """The last pattern that matches a path, or a directory above it, decides.

    Errors: InvalidParameter for a pattern that is none.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for group, excludes in _grouped(patterns):
            self._rules.append((excludes, re.compile("(?:" + "|".join(group) + r")(?:/.*)?\Z", re.DOTALL)))
        self.has_exceptions = any(not excludes for excludes, _ in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def excludes(self, path: str) -> bool:
        """path: relative to the context, with slashes."""
        for excludes, expression in reversed(self._rules):
            if expression.match(path):
                return excludes
        return False


def _grouped(patterns: Iterable[str]) -> list[tuple[list[str], bool]]:
    groups: list[tuple[list[str], bool]] = []
    for pattern in patterns:
        excludes = not pattern.startswith("!")
        plain = pattern.removeprefix("!").strip()
        if not plain:
            if not excludes:
                raise InvalidParameter('illegal exclusion pattern: "!"')
            continue
        if plain == "." and excludes:
            continue  # as Docker: the context itself cannot be left out
        expression = translate(plain, double_star=True)
        if groups and groups[-1][1] == excludes:
            groups[-1][0].append(expression)
        else:
            groups.append(([expression], excludes))
    return groups


def translate(pattern: str, *, double_star: bool) -> str:
    """A pattern of Go's filepath.Match as a regular expression without an end.

    double_star: ``**`` stands for any number of directories
    Errors: InvalidParameter("syntax error in pattern").
    """
    result: list[str] = []
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            if double_star and pattern[position : position + 1] == "*":
                while pattern[position : position + 1] == "*":
                    position += 1
                if pattern[position : position + 1] == "/":
                    position += 1
                # whole directories, also in the midst of a name, as Docker reads it
                result.append("(?:.*/)?" if position < len(pattern) else ".*")
            else:
                result.append("[^/]*")
        elif letter == "?":
            result.append("[^/]")
        elif letter == "\\":
            if position >= len(pattern):
                raise InvalidParameter("syntax error in pattern")
            result.append(re.escape(pattern[position]))
            position += 1
        elif letter == "[":
            text, position = _letters(pattern, position)
            result.append(text)
        else:
            result.append(re.escape(letter))
    return "".join(result)


def _letters(pattern: str, position: int) -> tuple[str, int]:
    """A class of letters: ``[a-z]``, ``[^x]``; it never matches a slash."""
    negated = pattern[position : position + 1] == "^"
    if negated:
        position += 1
    ranges: list[str] = []
    while True:
        if position >= len(pattern):
            raise InvalidParameter("syntax error in pattern")
        if pattern[position] == "]" and ranges:
            break
        low, position = _letter(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _letter(pattern, position + 1)
        if high >= low:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            ranges.append("")
    inside = "".join(ranges)
    if not inside:
        return ("[^/]" if negated else r"(?!)"), position + 1
    return (f"[^/{inside}]" if negated else f"(?!/)[{inside}]"), position + 1


def _letter(pattern: str, position: int) -> tuple[str, int]:
    letter = pattern[position : position + 1]
    if not letter or letter in "-]":
        raise InvalidParameter("syntax error in pattern")
    if letter == "\\":
        letter = pattern[position + 1 : position + 2]
        position += 1
        if not letter:
            raise InvalidParameter("syntax error in pattern")
    return letter, position + 1


def matcher(pattern: str, *, double_star: bool = False) -> re.Pattern[str]:
    """A whole path against one pattern: filepath.Match.  Errors: InvalidParameter."""
    return re.compile(translate(pattern, double_star=double_star) + r"\Z", re.DOTALL)

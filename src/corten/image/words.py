"""Words of Dockerfile instructions: quotes, escapes and variables.

Source: the Dockerfile reference, "Environment replacement" and "ENV"; behaviour compared with dockerd's ``commit -c``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from corten.errors import InvalidParameter

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]|[@*#]")


def split_words(text: str) -> list[str]:
    """Words apart at blanks that are neither quoted nor escaped; quotes and escapes stay in them."""
    words: list[str] = []
    word = ""
    quote = ""
    position = 0
    while position < len(text):
        letter = text[position]
        if letter == "\\" and quote != "'" and position + 1 < len(text):
            word += text[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter.isspace():
            if word:
                words.append(word)
            word = ""
            position += 1
            continue
        word += letter
        position += 1
    if word:
        words.append(word)
    return words


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The value of one word: quotes removed, escapes resolved, ``$name`` and ``${name}`` replaced.

    ``${name:-word}`` and ``${name:+word}`` work as in a shell; an unknown name is empty.
    Errors: InvalidParameter for an unfinished quote or brace.
    """
    value, position = _until(text, 0, "", variables)
    assert position == len(text)
    return value


def _until(text: str, position: int, stop: str, variables: Mapping[str, str]) -> tuple[str, int]:
    result = ""
    while position < len(text):
        letter = text[position]
        if stop and letter == stop:
            return result, position
        if letter == "'":
            end = text.find("'", position + 1)
            if end < 0:
                raise InvalidParameter("unexpected end of statement while looking for matching single-quote")
            result += text[position + 1 : end]
            position = end + 1
        elif letter == '"':
            quoted, position = _double(text, position + 1, variables)
            result += quoted
        elif letter == "\\":
            result += text[position + 1 : position + 2]
            position += 2
        elif letter == "$":
            value, position = _variable(text, position, variables)
            result += value
        else:
            result += letter
            position += 1
    if stop:
        raise InvalidParameter("syntax error: missing '}'")
    return result, min(position, len(text))


def _double(text: str, position: int, variables: Mapping[str, str]) -> tuple[str, int]:
    result = ""
    while position < len(text):
        letter = text[position]
        if letter == '"':
            return result, position + 1
        if letter == "\\" and text[position + 1 : position + 2] in ('"', "$", "\\"):
            result += text[position + 1]
            position += 2
        elif letter == "$":
            value, position = _variable(text, position, variables)
            result += value
        else:
            result += letter
            position += 1
    raise InvalidParameter("unexpected end of statement while looking for matching double-quote")


def _variable(text: str, position: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """The value of the variable at the ``$`` and where the text goes on."""
    if text[position + 1 : position + 2] != "{":
        match = _NAME.match(text, position + 1)
        if match is None:
            return "$", position + 1
        return variables.get(match[0], ""), match.end()
    match = _NAME.match(text, position + 2)
    if match is None:
        raise InvalidParameter("syntax error: bad substitution")
    known = variables.get(match[0], "")
    rest = match.end()
    if text[rest : rest + 1] == "}":
        return known, rest + 1
    modifier = text[rest : rest + 2]
    if modifier not in (":-", ":+"):
        raise InvalidParameter(f"unsupported modifier ({text[rest : rest + 1]}) in substitution")
    word, end = _until(text, rest + 2, "}", variables)
    if modifier == ":-":
        return known or word, end + 1
    return (word if known else ""), end + 1

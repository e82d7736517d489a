"""Pieces that several instructions are written with: words, the exec form, durations."""

from __future__ import annotations

import json
import re

from corten.errors import InvalidParameter

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


class NotStrings(InvalidParameter):
    """A JSON list that has something else than strings in it."""


def json_words(text: str) -> list[str] | None:
    """The exec form: a JSON list of strings; None for what is no JSON list, which then is the shell form.

    Errors: NotStrings for a list of other things: nobody means that as a command.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text.encode("utf-8", "surrogateescape").decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in value):
        raise NotStrings("when using JSON array syntax, arrays must be comprised of strings only")
    words: list[str] = value
    return words


def words_of(rest: str, escape: str) -> list[str]:
    """Words apart at blanks outside of quotes; quotes and escapes stay, one escape at the very end is dropped."""
    words: list[str] = []
    word = quote = ""
    began = False
    position = 0
    while position < len(rest):
        letter = rest[position]
        if not quote and letter.isspace():
            if began:
                words.append(word)
            word, began = "", False
            position += 1
            continue
        began = True
        if letter == escape and quote != "'":
            if position + 1 == len(rest):
                position += 1
                continue
            word += rest[position : position + 2]
            position += 2
            continue
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        word += letter
        position += 1
    if began:
        words.append(word)
    return words


def duration_ns(text: str) -> int | None:
    """Nanoseconds of a Go duration ("1m30s"); None for anything else."""
    if text in ("0", "+0", "-0"):
        return 0
    sign = -1 if text.startswith("-") else 1
    body = text.lstrip("+-") if text[:1] in "+-" else text
    position = total = 0
    while position < len(body):
        match = _DURATION.match(body, position)
        if match is None:
            return None
        total += int(float(match[1]) * _UNITS_NS[match[2]])
        position = match.end()
    return sign * total if body else None

"""Sizes and times on the command line."""

from __future__ import annotations

import re

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size(text: str) -> int:
    """512m -> bytes; -1 stands for no limit.  Errors: ValueError."""
    word = text.strip().lower()
    if word.lstrip("-").isdigit():
        return int(word)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([bkmgt])(?:i?b)?", word)
    if not found:
        raise ValueError(f"invalid size '{text}'")
    return int(float(found[1]) * _UNITS[found[2]])


def seconds(text: str) -> float:
    """5s, 500ms, 1m -> seconds.  Errors: ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not found or not float(found[1]):
        raise ValueError(f"invalid duration '{text}'")
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[found[2]]

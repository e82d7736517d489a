"""Versions of the Engine API: what this engine serves, and their order."""

from __future__ import annotations

API_VERSION = "1.56"
MIN_API_VERSION = "1.24"

ApiVersion = tuple[int, ...]


def parse_version(text: str) -> ApiVersion:
    """ "1.47" -> (1, 47).  Errors: ValueError."""
    return tuple(int(part) for part in text.split("."))


CURRENT = parse_version(API_VERSION)
OLDEST = parse_version(MIN_API_VERSION)

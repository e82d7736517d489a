"""Platforms in query strings: one JSON document each, as the API has them since version 1.46."""

from __future__ import annotations

import json
from typing import Any

from corten.errors import InvalidParameter

_LONGEST = 1000


def read_platform(text: str) -> str:
    """'{"os":"linux","architecture":"arm64"}' -> "linux/arm64".  Errors: InvalidParameter in dockerd's words."""
    try:
        document: Any = json.loads(text) if len(text) <= _LONGEST else None
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"failed to parse platform: {error}") from None
    if not isinstance(document, dict):
        raise InvalidParameter("failed to parse platform: an object is needed")
    parts = [document.get(name) or "" for name in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) and "/" not in part for part in parts):
        raise InvalidParameter("failed to parse platform: os, architecture and variant are words")
    if not parts[0] and not parts[1]:
        return ""
    if not parts[0] or not parts[1]:
        raise InvalidParameter("failed to parse platform: both os and architecture must be provided")
    return "/".join(part for part in parts if part)

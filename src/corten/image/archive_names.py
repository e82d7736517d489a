"""Names inside an image archive: links resolved among the archive's own members, nothing ever on the host."""

from __future__ import annotations

import posixpath

from corten.errors import InvalidParameter

_MAX_LINKS = 16


def member_name(name: str) -> str:
    """A member's name without "./" and doubled slashes.  Errors: InvalidParameter for one that leads out."""
    clean = posixpath.normpath(name.lstrip("/"))
    if clean == ".." or clean.startswith("../") or "\0" in name:
        raise InvalidParameter(f"invalid image archive: {name[:100]!r} is outside of the archive")
    return clean


def resolve(name: str, links: dict[str, str]) -> str:
    """Where a member leads when it, or a directory above it, is a link.

    Errors: InvalidParameter for loops and links that lead out of the archive.
    """
    current = member_name(name)
    for _ in range(_MAX_LINKS):
        target = _followed(current, links)
        if target is None:
            return current
        current = target
    raise InvalidParameter(f"invalid image archive: too many links at {name[:100]!r}")


def _followed(name: str, links: dict[str, str]) -> str | None:
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        prefix = "/".join(parts[:depth])
        target = links.get(prefix)
        if target is not None:
            base = "" if target.startswith("/") else posixpath.dirname(prefix)
            return member_name(posixpath.join(base, target.lstrip("/"), *parts[depth:]))
    return None

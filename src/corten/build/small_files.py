"""Files of a context that are read whole: Dockerfiles and what they are not to see (``.dockerignore``)."""

from __future__ import annotations

from corten.build.tree import Tree, cleaned, resolve
from corten.dockerfile.ignore import NAME as IGNORE_FILE
from corten.errors import InvalidParameter

_MAX_BYTES = 64 << 20


def read(tree: Tree, path: str) -> bytes | None:
    """The content of a small file, links followed inside the context; None when there is none.

    Errors: InvalidParameter for one that is too large.
    """
    found = resolve(tree, path)
    if found is None or not found[1].is_regular:
        return None
    if found[1].size > _MAX_BYTES:
        raise InvalidParameter(f"{path} has {found[1].size} bytes, the limit is {_MAX_BYTES}")
    return b"".join(tree.chunks(*found))


def read_dockerfile(tree: Tree, name: str) -> bytes | None:
    """The content of the Dockerfile of that name; "Dockerfile" may be written in lower case."""
    path = cleaned(name.lstrip("/") or "Dockerfile")
    content = read(tree, path)
    return read(tree, "dockerfile") if content is None and path == "Dockerfile" else content


def read_ignore(tree: Tree, dockerfile: str) -> bytes | None:
    """The ignore file that goes with a Dockerfile: ``<Dockerfile>.dockerignore``, else ``.dockerignore``."""
    content = read(tree, f"{dockerfile}.dockerignore")
    return read(tree, IGNORE_FILE) if content is None else content

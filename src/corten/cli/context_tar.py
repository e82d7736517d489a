"""A build's context on its way to the daemon: a directory without what ``.dockerignore`` names, as a tar.

Files belong to nobody in it (root, as the daemon has it anyway); a directory that is ignored with all below it is not
even read.
"""

from __future__ import annotations

import os
import tarfile

from corten.cli.archive import contents, header_of
from corten.dockerfile.ignore import NAME, Ignore, read_patterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def find_ignore(directory: str, dockerfile: str, patterns: str | None = None) -> Ignore:
    """dockerfile: its path in the context; an ignore file of its own comes first, before that ``patterns``.

    Errors: InvalidParameter.
    """
    if patterns is not None:
        return Ignore(read_patterns(patterns.encode("utf-8", "surrogateescape")))
    for name in (f"{dockerfile}.dockerignore", NAME):
        try:
            with open(os.path.join(directory, name), "rb") as file:
                return Ignore(read_patterns(file.read()))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return Ignore(())


def pack_context(directory: str, ignore: Ignore, keep: tuple[str, ...]) -> Iterator[bytes]:
    """keep: paths that are sent although they are ignored

    Errors: OSError for what cannot be read, DataLoss for a file that shrinks meanwhile.
    """
    links: dict[tuple[int, int], str] = {}
    pending = _children(directory, "", ignore, keep)
    while pending:
        name, excluded = pending.pop()
        path = os.path.join(directory, name)
        found = None if excluded else header_of(path, name, links)
        if found is not None:
            header, _ = found
            header.uid = header.gid = 0
            yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            if header.isreg() and header.size:
                yield from contents(path, header.size)
        if os.path.isdir(path) and not os.path.islink(path):
            pending += _children(directory, name, ignore, keep)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _children(directory: str, above: str, ignore: Ignore, keep: tuple[str, ...]) -> list[tuple[str, bool]]:
    """(path in the context, whether it is left out) of a directory's entries, last first; what need not be read is not
    among them."""
    listed = []
    with os.scandir(os.path.join(directory, above)) as entries:
        for entry in entries:
            name = f"{above}/{entry.name}" if above else entry.name
            excluded = bool(ignore) and ignore.excludes(name) and name not in keep
            if excluded and not (entry.is_dir(follow_symlinks=False) and _may_hold(name, ignore, keep)):
                continue
            listed.append((name, excluded))
    return sorted(listed, reverse=True)


def _may_hold(name: str, ignore: Ignore, keep: tuple[str, ...]) -> bool:
    return ignore.has_exceptions or any(path.startswith(f"{name}/") for path in keep)


def pack_files(directory: str, replaced: dict[str, bytes]) -> Iterator[bytes]:
    """A directory's files with some contents replaced, without a ``manifest.json``: an OCI layout for the daemon."""
    for name, content in replaced.items():
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        yield header.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    links: dict[tuple[int, int], str] = {}
    for name in _walk(directory):
        found = header_of(os.path.join(directory, name), name, links)
        if found is None or name in replaced or name == "manifest.json":
            continue
        yield found[0].tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if found[0].isreg() and found[0].size:
            yield from contents(os.path.join(directory, name), found[0].size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _walk(directory: str) -> Iterator[str]:
    pending = _children(directory, "", Ignore(()), ())
    while pending:
        name, _ = pending.pop()
        yield name
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            pending += _children(directory, name, Ignore(()), ())

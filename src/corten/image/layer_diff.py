"""What a container changed, as a layer tar.

From an overlay's upper directory, which *is* the difference: a whiteout device becomes ``.wh.name``, an opaque
directory gets ``.wh..wh..opq``.  From a plain copy, by a list of changes.  The order is fixed, so the same tree
gives the same bytes.

Source: OCI image-spec v1.1, layer.md, "Representing Changes"; Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from corten.image import tarwrite
from corten.image.directories import split
from corten.image.layer_apply import OPAQUE, WHITEOUT, opaque_attribute
from corten.image.treewalk import TreeWriter
from corten.linux import fuse_overlay
from corten.linux.user_namespace import Rights
from corten.snapshot.api import Change


def overlay_tar(upper: Path, rights: Rights) -> Iterator[bytes]:
    """The layer tar of an upper directory; the root itself is no member."""
    opaque = (opaque_attribute(rights), f"{fuse_overlay.ATTRIBUTES}opaque")
    root = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    writer = TreeWriter(root)
    try:
        pending = [(b"", _visible(writer, b""))]
        while pending:
            path, entries = pending[-1]
            base, status = next(entries, (b"", None))
            if status is None:
                pending.pop()
                continue
            child = path + b"/" + base if path else base
            yield from writer.member(writer.directories.get(path), base, status, child)
            yield from writer.take()
            if stat.S_ISDIR(status.st_mode):
                if any(writer.attribute(child, name) == b"y" for name in opaque):
                    writer.bare(child + b"/" + OPAQUE)
                pending.append((child, _visible(writer, child)))
        yield from writer.take(all=True)
        yield tarwrite.END
    finally:
        writer.close()
        os.close(root)


def _visible(writer: TreeWriter, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """The entries of a directory that are no whiteouts; those are written first, as the specification asks."""
    directory = writer.directories.get(path)
    found = []
    for base in writer.listed(path):
        if os.fsdecode(base) in fuse_overlay.MARKS:
            continue
        status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            writer.bare((path + b"/" if path else b"") + WHITEOUT + base)
        else:
            found.append((base, status))
    return iter(found)


def changes_tar(root_path: Path, changes: Iterable[Change]) -> Iterator[bytes]:
    """The layer tar of listed changes in a tree that holds everything.

    Parents of what changed are listed too, so that a layer names every directory it uses.
    """
    root = os.open(root_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    writer = TreeWriter(root)
    listed: set[bytes] = set()
    deleted: set[bytes] = set()
    try:
        for change in sorted(changes, key=lambda item: (os.path.dirname(item.path), item.kind != "D", item.path)):
            path = os.fsencode(change.path).strip(b"/")
            if not path:
                continue
            if any(parent in deleted for parent in _parents(path)):
                continue
            for parent in _parents(path):
                if parent not in listed:
                    yield from _one(writer, parent)
                    listed.add(parent)
            if change.kind == "D":
                parent, base = split(path)
                writer.bare((parent + b"/" if parent else b"") + WHITEOUT + base)
                deleted.add(path)
            elif path not in listed:
                yield from _one(writer, path)
                listed.add(path)
        yield from writer.take(all=True)
        yield tarwrite.END
    finally:
        writer.close()
        os.close(root)


def _parents(path: bytes) -> Iterator[bytes]:
    position = path.find(b"/")
    while position >= 0:
        yield path[:position]
        position = path.find(b"/", position + 1)


def _one(writer: TreeWriter, path: bytes) -> Iterator[bytes]:
    parent, base = split(path)
    directory = writer.directories.get(parent)
    status = os.stat(base, dir_fd=directory, follow_symlinks=False)
    yield from writer.member(directory, base, status, path)
    yield from writer.take()

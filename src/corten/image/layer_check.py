"""Whether a layer's files are still what its archive says: content by the diff ID, and what the archive says beside it.

The archive is put together from the files and the split (``Layers.tar``), which finds changed content; its headers are
then compared with what is there: kinds, modes, owners, targets of links, whiteouts, and names that it does not have.

Source: OCI image-spec v1.1, layer.md; kernel documentation, overlayfs, "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from corten.errors import CortenError
from corten.image import tarheader as header
from corten.image.directories import clean, split
from corten.image.layer_apply import META, OPAQUE, WHITEOUT
from corten.image.pipes import iterated
from corten.image.tarheader import TarEntry, shown
from corten.image.tarstream import TarReader
from corten.linux.user_namespace import Rights

_NAMED = 3  # differences that are told one by one

_FORMATS = {
    header.REGULAR: stat.S_IFREG,
    header.DIRECTORY: stat.S_IFDIR,
    header.SYMLINK: stat.S_IFLNK,
    header.CHARACTER: stat.S_IFCHR,
    header.BLOCK_DEVICE: stat.S_IFBLK,
    header.FIFO: stat.S_IFIFO,
}
_WORDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket",
}  # fmt: skip


class _Wanted(NamedTuple):
    """format: 0 for a hard link, which is whatever its target is; detail: target of a link, number of a device"""

    format: int
    mode: int
    owner: tuple[int, int]
    detail: bytes | int


class _Archive:
    """What an archive says that there is, by clean path."""

    def __init__(self) -> None:
        self.entries: dict[bytes, _Wanted] = {}
        self.hidden: set[bytes] = set()
        self.implied: set[bytes] = set()
        self.hides_all = False

    def read(self, chunks: Iterable[bytes]) -> None:
        """Errors: what ``chunks`` raises; InvalidParameter."""
        reader = TarReader(iterated(chunks))
        while (entry := reader.next()) is not None:
            path = clean(entry.name)
            parent, base = split(path)
            if base != OPAQUE and (path.startswith(META) or base.startswith(META)):
                continue
            self._imply(parent)
            if base == OPAQUE:
                self.hides_all = self.hides_all or not parent
            elif base.startswith(WHITEOUT):
                name = base[len(WHITEOUT) :]
                self.hidden.add(parent + b"/" + name if parent else name)
            elif not _is_dropped(entry):
                self.entries[path] = _wanted(entry)

    def _imply(self, path: bytes) -> None:
        while path and path not in self.implied:
            self.implied.add(path)
            path = split(path)[0]

    @property
    def goes_through_links(self) -> bool:
        """Whether it names things below its own links: where those are is only known by unpacking."""
        return any(
            (above := self.entries.get(path)) is not None and above.format not in (stat.S_IFDIR, 0)
            for path in self.implied
        )


def _is_dropped(entry: TarEntry) -> bool:
    """A device that would be a whiteout is not unpacked."""
    return entry.kind == header.CHARACTER and entry.devmajor == entry.devminor == 0


def _wanted(entry: TarEntry) -> _Wanted:
    detail: bytes | int = 0
    if entry.kind == header.SYMLINK:
        detail = entry.linkname
    elif entry.kind in (header.CHARACTER, header.BLOCK_DEVICE):
        detail = os.makedev(entry.devmajor, entry.devminor)
    return _Wanted(_FORMATS.get(entry.kind, 0), entry.mode & 0o7777, (entry.uid, entry.gid), detail)


def damage(chunks: Iterable[bytes], root: Path, *, overlay: bool, rights: Rights) -> str:
    """What is wrong with a layer's files, "" for nothing.

    chunks: its archive, as ``Layers.tar`` makes it; root: its files
    overlay: they are the layer's own, and not a copy of everything below as well: then names are compared too
    rights: by which it was unpacked: what was left out then is not missed
    """
    archive = _Archive()
    try:
        archive.read(chunks)
    except (CortenError, OSError) as error:
        return str(error)
    if not overlay or archive.goes_through_links:
        return ""
    found = []
    try:
        for difference in _differences(archive, root, rights):
            found.append(difference)
            if len(found) > _NAMED:
                return ", ".join(found[:_NAMED]) + " and more"
    except OSError as error:
        found.append(str(error))
    return ", ".join(found)


def _differences(archive: _Archive, root: Path, rights: Rights) -> Iterator[str]:
    seen: set[bytes] = set()
    for path, status in _walk(os.fsencode(root)):
        seen.add(path)
        wanted = archive.entries.get(path)
        if wanted is not None:
            yield from _compared(path, wanted, status, os.fsencode(root), rights)
        elif path in archive.hidden or not path:
            continue
        elif path in archive.implied:
            if not stat.S_ISDIR(status.st_mode):
                yield f"{shown(path)} is no directory"
        elif not (archive.hides_all and _is_whiteout(status)):
            yield f"{shown(path)} does not belong to it"
    for path, wanted in archive.entries.items():
        is_device = wanted.format in (stat.S_IFCHR, stat.S_IFBLK)
        if path not in seen and path and (rights.devices or not is_device):
            yield f"{shown(path)} is missing"
    for path in archive.hidden:
        if path not in seen and path not in archive.entries:
            yield f"the whiteout of {shown(path)} is missing"


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything below and including ``top``, by relative path; links are not followed."""
    yield b"", os.lstat(top)
    pending = [b""]
    while pending:
        directory = pending.pop()
        with os.scandir(top + b"/" + directory) as entries:
            for entry in entries:
                path = directory + b"/" + entry.name if directory else entry.name
                status = entry.stat(follow_symlinks=False)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _compared(path: bytes, wanted: _Wanted, status: os.stat_result, root: bytes, rights: Rights) -> Iterator[str]:
    if not wanted.format:
        return
    name = shown(path) if path else "its root"
    if stat.S_IFMT(status.st_mode) != wanted.format:
        yield f"{name} is no {_WORDS[wanted.format]}"
        return
    mode = stat.S_IMODE(status.st_mode)
    if wanted.format != stat.S_IFLNK and mode != wanted.mode:
        yield f"{name} has mode {mode:04o} instead of {wanted.mode:04o}"
    if rights.owners and (status.st_uid, status.st_gid) != wanted.owner:
        yield f"{name} belongs to {status.st_uid}:{status.st_gid} instead of {wanted.owner[0]}:{wanted.owner[1]}"
    if wanted.format == stat.S_IFLNK and os.readlink(root + b"/" + path) != wanted.detail:
        yield f"{name} leads somewhere else"
    if wanted.format in (stat.S_IFCHR, stat.S_IFBLK) and status.st_rdev != wanted.detail:
        yield f"{name} is another device"

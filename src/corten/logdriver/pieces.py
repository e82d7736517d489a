"""The files of one log, opened in their order although their names shift meanwhile.

A rotation only ever moves a file to the next higher index.  Whoever opens from the newest to the oldest may meet a file
twice, which its identity tells, and never misses one.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import struct
from typing import BinaryIO, cast

from corten.logdriver.parsing import parse_time
from corten.logdriver.rotation import GZIP_EXTRA, GZIP_HEADER, highest_index, identity


class Piece:
    """One open file.  ``last_ns``: no entry is later, 0 when unknown."""

    def __init__(self, descriptor: int, *, packed: bool) -> None:
        self._descriptor = descriptor
        self.packed = packed
        self.last_ns = 0
        if packed:
            self._packed_identity, self._inode, self.last_ns = gzip_facts(os.pread(descriptor, 4096, 0))
        else:
            self._packed_identity, self._inode = "", os.fstat(descriptor).st_ino
        self._raw: BinaryIO | None = None

    @property
    def _identity(self) -> str:
        # of a plain file as it is now: a writer gives it when it opens one that had none
        return self._packed_identity if self.packed else identity(self._descriptor)

    def is_same_as(self, other: Piece) -> bool:
        """Both are one file of the log, one of them perhaps compressed."""
        if not self.packed and not other.packed:
            return os.path.samestat(os.fstat(self._descriptor), os.fstat(other._descriptor))
        mine, theirs = self._identity, other._identity
        if mine and theirs:
            return mine == theirs
        # the number of an inode is used again once its file has gone: the time must agree too
        return bool(self._inode) and self._inode == other._inode and self._ended_ns() == other._ended_ns()

    def is_at(self, path: str) -> bool:
        """This plain file still has that name."""
        try:
            return not self.packed and os.path.samestat(os.fstat(self._descriptor), os.lstat(path))
        except FileNotFoundError:
            return False

    def _ended_ns(self) -> int:
        return self.last_ns if self.packed else self.modified_ns()

    def present_size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def modified_ns(self) -> int:
        return os.fstat(self._descriptor).st_mtime_ns

    def pread(self, size: int, offset: int) -> bytes:
        """Of a plain file."""
        return os.pread(self._descriptor, size, offset)

    def open_stream(self) -> BinaryIO:
        """The content from the start."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._raw = open(self._descriptor, "rb", closefd=False)  # noqa: SIM115  # read after this returns
        return cast(BinaryIO, gzip.GzipFile(fileobj=self._raw)) if self.packed else self._raw

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def _open_index(path: str, index: int) -> Piece | None:
    if not index:
        descriptor = _open(path)
        return None if descriptor is None else Piece(descriptor, packed=False)
    # the compressed file is put in place before the plain one goes, so this order finds one of them
    for name, packed in ((f"{path}.{index}", False), (f"{path}.{index}.gz", True)):
        descriptor = _open(name)
        if descriptor is not None:
            return Piece(descriptor, packed=packed)
    return None


def open_pieces(path: str, known: Piece | None = None, limit: int = 1 << 16) -> list[Piece]:
    """All files of the log, oldest first; with ``known`` only those that are newer, at most about ``limit``."""
    found: list[Piece] = []
    index = 0
    try:
        while len(found) < limit:
            piece = _open_index(path, index)
            index += 1
            if piece is None:
                if index > highest_index(path):
                    break
            elif known is not None and piece.is_same_as(known):
                piece.close()
                break
            elif any(piece.is_same_as(other) for other in found):
                piece.close()
            else:
                found.append(piece)
    except BaseException:
        for piece in found:
            with contextlib.suppress(OSError):
                piece.close()
        raise
    found.reverse()
    return found


def gzip_facts(header: bytes) -> tuple[str, int, int]:
    """From a compressed piece's first bytes: (identity, inode it had before, time of its last entry in ns).

    What it does not tell is empty.
    """
    try:
        magic, deflate, method, flags, _, _, _, length = GZIP_HEADER.unpack_from(header)
        if (magic, deflate, method) != (0x1F, 0x8B, 8) or not flags & GZIP_EXTRA:
            return "", 0, 0
        document = json.loads(header[GZIP_HEADER.size : GZIP_HEADER.size + length])
        return str(document.get("identity", "")), int(document.get("inode", 0)), parse_time(document["lastTime"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        return "", 0, 0

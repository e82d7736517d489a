"""What a layer's files do not hold of its tar: headers, padding, order.  With the files it gives back the exact bytes.

The file is a gzip stream.  It begins with ``MAGIC``; then records follow, integers little-endian::

    R u32 length, bytes                         literal bytes of the archive
    Z u64 count                                 that many zero bytes
    F u32 length, u64 size, path                the whole content of the file at ``path``
    S u32 length, u32 count, path, count x (u64 offset, u64 length)    pieces of the file at ``path``
D u32 length, u32 number, path              from here on ``path`` holds something new: what was there is
displaced/<number>
    E u64 size                                  the archive's length in bytes; the last record

Paths are relative to the layer's root and contain no links.  A ``D`` record names files and whole directories; it holds
for the ``F`` and ``S`` records *before* it, so readers collect the ``D`` records first.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any

from corten.errors import DataLoss
from corten.image.directories import Directories, split

MAGIC = b"corten-tar-split 1\n"
_BATCH = 1 << 18
_RAW = struct.Struct("<cI")
_ZEROS = struct.Struct("<cQ")
_FILE = struct.Struct("<cIQ")
_SPARSE = struct.Struct("<cII")
_PAIR = struct.Struct("<QQ")
_END = struct.Struct("<cQ")
_ZERO_RUN = bytes(1 << 16)
_READ = 1 << 20
MAX_DISPLACED = 100_000


class SplitWriter:
    """Takes an archive apart while it is read; a ``Recorder`` for ``TarReader``."""

    def __init__(self, target: IO[bytes]) -> None:
        from isal import isal_zlib

        self._target = target
        self._compressor = isal_zlib.compressobj(level=1, wbits=31)
        self._literal: list[bytes] = []
        self._records: list[bytes] = [MAGIC]
        self._pending = len(MAGIC)
        self._displaced = 0
        self.size = 0  # bytes of the archive so far

    def raw(self, data: bytes) -> None:
        self._literal.append(data)
        self.size += len(data)
        self._pending += len(data)
        if self._pending > _BATCH:
            self._flush()

    def file(self, path: bytes, size: int) -> None:
        """The next ``size`` bytes of the archive are the content of the file at ``path``."""
        self._end_literal()
        self._records.append(_FILE.pack(b"F", len(path), size))
        self._records.append(path)
        self.size += size

    def sparse(self, path: bytes, pairs: list[tuple[int, int]]) -> None:
        """The next bytes are those pieces of the file at ``path``."""
        self._end_literal()
        self._records.append(_SPARSE.pack(b"S", len(path), len(pairs)))
        self._records.append(path)
        self._records += [_PAIR.pack(*pair) for pair in pairs]
        self.size += sum(length for _, length in pairs)

    def displaced(self, path: bytes) -> int:
        """What is at ``path`` moves to ``displaced/<the number returned>``.

        Errors: DataLoss for archives that replace their own entries without end.
        """
        if self._displaced >= MAX_DISPLACED:
            raise DataLoss(f"invalid tar archive: more than {MAX_DISPLACED} entries that replace earlier ones")
        self._end_literal()
        number = self._displaced
        self._displaced += 1
        self._records.append(_SPARSE.pack(b"D", len(path), number))
        self._records.append(path)
        return number

    def _end_literal(self) -> None:
        if self._literal:
            data = b"".join(self._literal)
            self._literal.clear()
            if len(data) > 4096 and not data.strip(b"\0"):
                self._records.append(_ZEROS.pack(b"Z", len(data)))
            else:
                self._records.append(_RAW.pack(b"R", len(data)))
                self._records.append(data)

    def _flush(self) -> None:
        self._end_literal()
        data = b"".join(self._records)
        self._records.clear()
        self._pending = 0
        self._target.write(self._compressor.compress(data))

    def close(self) -> None:
        """Write what is left; the target stays open."""
        self._end_literal()
        self._records.append(_END.pack(b"E", self.size))
        self._flush()
        self._target.write(self._compressor.flush())


class _Records:
    """The records of a split file, in order."""

    def __init__(self, source: IO[bytes]) -> None:
        from isal import igzip_lib

        self._source = source
        self._inflate: Any = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        self._bad: Any = igzip_lib.IsalError
        self._buffer = b""
        self._position = 0
        if self._take(len(MAGIC)) != MAGIC:
            raise DataLoss("the layer's tar-split is not of a known version")

    def _take(self, size: int) -> bytes:
        while len(self._buffer) - self._position < size:
            more = b""
            while not more and not self._inflate.eof:
                block = self._source.read(_BATCH) if self._inflate.needs_input else b""
                if not block and self._inflate.needs_input:
                    break
                try:
                    more = self._inflate.decompress(block, _READ)
                except self._bad as error:
                    raise DataLoss(f"the layer's tar-split is damaged: {error}") from error
            if not more:
                raise DataLoss("the layer's tar-split is truncated")
            self._buffer = self._buffer[self._position :] + more
            self._position = 0
        data = self._buffer[self._position : self._position + size]
        self._position += size
        return data

    def __iter__(self) -> Iterator[tuple[bytes, Any, Any]]:
        """(kind, first, second): R data - | Z count - | F path size | S path pairs | D path number."""
        while True:
            kind = self._take(1)
            if kind == b"R":
                yield kind, self._take(int.from_bytes(self._take(4), "little")), None
            elif kind == b"F":
                length = int.from_bytes(self._take(4), "little")
                size = int.from_bytes(self._take(8), "little")
                yield kind, self._take(length), size
            elif kind == b"S":
                length = int.from_bytes(self._take(4), "little")
                count = int.from_bytes(self._take(4), "little")
                path = self._take(length)
                yield kind, path, [_PAIR.unpack(self._take(16)) for _ in range(count)]
            elif kind == b"Z":
                yield kind, int.from_bytes(self._take(8), "little"), None
            elif kind == b"D":
                length = int.from_bytes(self._take(4), "little")
                number = int.from_bytes(self._take(4), "little")
                yield kind, self._take(length), number
            elif kind == b"E":
                self._take(8)
                return
            else:
                raise DataLoss("the layer's tar-split is damaged")


def _displacements(split_path: str) -> dict[bytes, list[tuple[int, int]]]:
    """Path -> [(how many data records came before, number)], in order."""
    found: dict[bytes, list[tuple[int, int]]] = {}
    with open(split_path, "rb") as source:
        index = 0
        for kind, path, number in _Records(source):
            if kind == b"D":
                found.setdefault(path, []).append((index, number))
            elif kind in (b"F", b"S"):
                index += 1
    return found


class _Contents:
    """Opens the file that a data record means."""

    def __init__(self, root_fd: int, displaced: dict[bytes, list[tuple[int, int]]], displaced_path: str) -> None:
        self._directories = Directories(root_fd)
        self._displaced = displaced
        self._displaced_fd = os.open(displaced_path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if displaced else -1
        self._displaced_directories = Directories(self._displaced_fd) if displaced else None

    def close(self) -> None:
        self._directories.forget()
        if self._displaced_directories:
            self._displaced_directories.forget()
            os.close(self._displaced_fd)

    def open(self, path: bytes, index: int) -> int:
        directories = self._directories
        if self._displaced_directories:
            moved = self._moved(path, index)
            if moved:
                directories, path = self._displaced_directories, moved
        parent, base = split(path)
        return os.open(base, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directories.get(parent))

    def _moved(self, path: bytes, index: int) -> bytes:
        """Where the content went when it, or a directory above it, was first displaced after record ``index``."""
        best: tuple[int, int, bytes] | None = None
        prefix, rest = path, b""
        while prefix:
            for at, number in self._displaced.get(prefix, ()):
                if at > index:
                    if best is None or (at, number) < best[:2]:
                        best = (at, number, rest)
                    break
            prefix, _, last = prefix.rpartition(b"/")
            rest = b"/" + last + rest
        return b"%d%s" % (best[1], best[2]) if best else b""


def _has_displaced(displaced_path: str) -> bool:
    try:
        return bool(os.listdir(displaced_path))
    except FileNotFoundError:
        return False


def rebuild(split_path: str, root_fd: int, displaced_path: str, chunk: int = _READ) -> Iterator[bytes]:
    """The archive's exact bytes, in pieces of about ``chunk``.

    split_path, displaced_path: what ``SplitWriter`` and the extractor left beside the layer; root_fd: the layer's files
    Errors: DataLoss when a file is not what it was.
    """
    displaced = _displacements(split_path) if _has_displaced(displaced_path) else {}
    contents = _Contents(root_fd, displaced, displaced_path)
    parts: list[bytes] = []
    held = index = 0
    try:
        with open(split_path, "rb") as source:
            for kind, first, second in _Records(source):
                if kind == b"R":
                    parts.append(first)
                    held += len(first)
                elif kind == b"F":
                    for piece in _file(contents.open, first, index, [(0, second)], exact=True):
                        parts.append(piece)
                        held += len(piece)
                        if held >= chunk:
                            yield b"".join(parts) if len(parts) > 1 else piece
                            parts.clear()
                            held = 0
                    index += 1
                elif kind == b"S":
                    for piece in _file(contents.open, first, index, second, exact=False):
                        yield b"".join(parts)
                        parts, held = [piece], len(piece)
                    index += 1
                elif kind == b"Z":
                    yield b"".join(parts)
                    parts.clear()
                    held = 0
                    yield from _zeros(first)
                if held >= chunk:
                    yield b"".join(parts)
                    parts.clear()
                    held = 0
        if parts:
            yield b"".join(parts)
    finally:
        contents.close()


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        piece = _ZERO_RUN[:count]
        count -= len(piece)
        yield piece


def _file(
    opener: Callable[[bytes, int], int], path: bytes, index: int, pairs: list[tuple[int, int]], *, exact: bool
) -> Iterator[bytes]:
    try:
        descriptor = opener(path, index)
    except OSError as error:
        raise _changed(path) from error
    try:
        if exact and os.fstat(descriptor).st_size != pairs[0][1]:
            raise _changed(path)
        for offset, length in pairs:
            end = offset + length
            while offset < end:
                piece = os.pread(descriptor, min(_READ, end - offset), offset)
                if not piece:
                    raise _changed(path)
                offset += len(piece)
                yield piece
    finally:
        os.close(descriptor)


def _changed(path: bytes) -> DataLoss:
    return DataLoss(f"a layer was changed behind the engine's back: {path.decode('utf-8', 'backslashreplace')!r}")

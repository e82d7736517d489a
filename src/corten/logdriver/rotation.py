"""A log file that is cut into pieces: <name>, <name>.1, <name>.2 … the newest first, rotated ones compressed if wanted.

Names change only while the directory is locked, files are replaced and never cut short: whoever holds a file open reads
it to its end.  Compression is a child's work; it finds its file again by the inode, since names shift meanwhile.  Every
file has an identity of its own, in an extended attribute and, once compressed, in the gzip header, so that a follower
knows what it has read.  An inode's number would not do: it is used again within milliseconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import struct
import zlib
from collections.abc import Callable, Iterator

from corten.logdriver.options import LogOptions
from corten.logdriver.times import format_time

_COPY = 1 << 20
# at level 1 one core keeps up with a program that writes 100 MB/s
_LEVEL = 1
_IDENTITY = "user.corten.log"
# ID1 ID2, deflate, FEXTRA, mtime, fastest, Unix (RFC 1952)
GZIP_HEADER = struct.Struct("<BBBBIBBH")
GZIP_EXTRA = 4
_ROTATED = re.compile(r"\.([1-9][0-9]{0,8})(\.gz)?\Z", re.ASCII)


class RotatingFile:
    """Append-only.

    repair: called with the descriptor and the size of a file that exists already; gives back the size up to which it is
            sound.  The rest, an entry that a crash cut off, is taken away.
    """

    def __init__(self, path: str, options: LogOptions, repair: Callable[[int, int], int], *, mode: int = 0o640) -> None:
        """Errors: OSError."""
        self._path = path
        self._options = options
        self._mode = mode
        self._descriptor = -1
        self._size = 0
        self._compressor = -1
        self._working = -1
        self._open(self._path, 0)
        sound = repair(self._descriptor, self._size) if self._size else 0
        if sound < self._size:
            os.ftruncate(self._descriptor, sound)
            self._size = sound
        if options.compress:
            self._remove_unfinished()
            self._compress()

    def _open(self, path: str, extra: int) -> None:
        self._descriptor = open_append(path, extra, self._mode)
        self._size = os.lseek(self._descriptor, 0, os.SEEK_END)
        if self._options.max_size >= 0 and not identity(self._descriptor):
            try:
                os.setxattr(self._descriptor, _IDENTITY, os.urandom(8).hex().encode())
            except OSError:
                return  # a file system without attributes: inode and time must do

    def write(self, block: bytes, boundary: Callable[[bytes, int], int]) -> None:
        """Append whole entries.

        boundary: (block, n) -> the end of the entry that holds byte n
        Errors:   OSError; the entry that did not fit is taken back
        """
        limit = self._options.max_size
        position, end = 0, len(block)
        while position < end:
            if 0 <= limit <= self._size:
                self.rotate()
            cut = end
            if limit >= 0 and end - position > limit - self._size:
                cut = boundary(block, position + limit - self._size - 1)
            self._append(block if cut - position == end else memoryview(block)[position:cut])
            position = cut

    def _append(self, data: bytes | memoryview) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, memoryview(data)[written:] if written else data)
        except OSError:
            if written:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, self._size)
            raise
        self._size += written

    # -- rotation -----------------------------------------------------------------------------------------------------

    def rotate(self) -> None:
        """Begin a new file; the oldest goes when there are enough.  Errors: OSError; the old file goes on then."""
        fresh = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        old = self._descriptor
        self._open(fresh, os.O_EXCL)
        os.close(old)
        with _locked(self._path):
            self._shift()
            os.rename(fresh, self._path)
        if self._options.compress:
            self._compress()

    def _shift(self) -> None:
        kept = self._options.max_files - 1
        for index, name in sorted(_names(self._path), reverse=True):
            if index >= kept:
                os.unlink(name)
            else:
                os.rename(name, f"{self._path}.{index + 1}{'.gz' if name.endswith('.gz') else ''}")
        if kept:
            os.rename(self._path, f"{self._path}.1")

    # -- compression --------------------------------------------------------------------------------------------------

    def _compress(self) -> None:
        """Have all plain rotated files compressed by one child; one that is at it already finds them itself.

        The child closes its end of a pipe in the same locked moment in which it finds nothing more to do: a file
        rotated before that is seen by the child, one rotated after it by us.
        """
        if self._compressor >= 0:
            if not select.select([self._working], [], [], 0)[0]:
                return
            self._collect()
        if not _plain_pieces(self._path):
            return
        self._working, child_end = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _compress_all(self._path, child_end)
        os.close(child_end)
        self._compressor = os.pidfd_open(pid)

    def _collect(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._compressor, os.WEXITED)
        os.close(self._compressor)
        os.close(self._working)
        self._compressor = self._working = -1

    def _remove_unfinished(self) -> None:
        directory, base = os.path.split(self._path)
        for name in os.listdir(directory or "."):
            if name.startswith(f"{base}.") and name.endswith(".gz.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, name))

    def close(self) -> None:
        """Compression that is not finished goes on with the next writer."""
        if self._compressor >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._compressor, signal.SIGKILL)
            self._collect()
            self._remove_unfinished()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def identity(descriptor: int) -> str:
    """What no other file of any log has; "" when the file system keeps no attributes."""
    try:
        return os.getxattr(descriptor, _IDENTITY).decode()
    except OSError:
        return ""


def open_append(path: str, extra: int, mode: int = 0o640) -> int:
    """A descriptor of the file, made with its directory when it is not there.  Errors: OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | extra
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o710, exist_ok=True)
        return os.open(path, flags, mode)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Nobody else shifts names meanwhile: the writer does, and its compressor puts its result in place."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def _names(path: str) -> list[tuple[int, str]]:
    """(index, path) of every rotated file; a plain and a compressed one may share an index for a moment."""
    directory, base = os.path.split(path)
    found = []
    for name in os.listdir(directory or "."):
        match = _ROTATED.match(name, len(base)) if name.startswith(base) else None
        if match is not None:
            found.append((int(match[1]), os.path.join(directory, name)))
    return found


def highest_index(path: str) -> int:
    """Of the rotated files that exist now, 0 for none."""
    try:
        return max((index for index, _ in _names(path)), default=0)
    except FileNotFoundError:
        return 0


def _plain_pieces(path: str) -> list[str]:
    """Rotated files that are not compressed, oldest first."""
    return [name for _, name in sorted(_names(path), reverse=True) if not name.endswith(".gz")]


def _compress_all(path: str, working: int) -> None:
    """The compressor's whole life: one piece after the other until none is plain, which closing ``working`` tells."""
    try:
        # the program's pipes and its clients' sockets must not stay open through us
        for number in os.listdir("/proc/self/fd"):
            if int(number) > 2 and int(number) != working:
                with contextlib.suppress(OSError):
                    os.close(int(number))
        os.nice(10)
        while (piece := _next_piece(path, working)) is not None:
            with contextlib.suppress(FileNotFoundError):
                compress_piece(path, piece)
    finally:
        os._exit(0)


def _next_piece(path: str, working: int) -> str | None:
    with _locked(path):
        if pieces := _plain_pieces(path):
            return pieces[0]
        os.close(working)
        return None


def compress_piece(path: str, name: str) -> None:
    """Replace one rotated file of the log ``path`` by a compressed one, wherever its name has shifted to by then.

    Errors: OSError; FileNotFoundError when it has gone.
    """
    source = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    unfinished = f"{path}.{os.getpid()}.gz.tmp"
    try:
        status = os.fstat(source)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        target = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, status.st_mode & 0o777)
        try:
            with open(target, "wb", buffering=0) as file:
                for block in _gzip(source, status):
                    file.write(block)
            with _locked(path):
                _put_in_place(path, unfinished, status)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
    finally:
        os.close(source)


def _gzip(source: int, status: os.stat_result) -> Iterator[bytes]:
    facts = {"lastTime": format_time(status.st_mtime_ns), "inode": status.st_ino, "identity": identity(source)}
    extra = json.dumps(facts, separators=(",", ":")).encode()
    yield GZIP_HEADER.pack(0x1F, 0x8B, 8, GZIP_EXTRA, int(status.st_mtime) & 0xFFFFFFFF, 4, 3, len(extra)) + extra
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    checksum = size = 0
    while block := os.read(source, _COPY):
        checksum = zlib.crc32(block, checksum)
        size += len(block)
        yield packer.compress(block)
    yield packer.flush() + struct.pack("<II", checksum, size & 0xFFFFFFFF)


def _put_in_place(path: str, unfinished: str, status: os.stat_result) -> None:
    for index, name in _names(path):
        present = os.lstat(name)
        if (present.st_ino, present.st_dev) == (status.st_ino, status.st_dev):
            os.rename(unfinished, f"{path}.{index}.gz")
            os.unlink(name)
            return
    # rotated out while it was being compressed

"""Reading a log: from the start, the last entries, or a moment on; across rotated files, and on while it grows."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from corten.errors import NotImplementedYet
from corten.logdriver.formats import JsonFormat, LocalFormat, RecordFormat
from corten.logdriver.pieces import Piece, open_pieces
from corten.logdriver.reading import LogReader, ReadRequest

NOT_READABLE = "configured logging driver does not support reading"

_BLOCK = 512 * 1024
_TAIL_BLOCK = 64 * 1024
_SEEK_BLOCK = 128 * 1024
# clocks are set back now and then: a search by time begins to read this much earlier
_SEEK_MARGIN = 1 << 20
# files that a follower holds open because a slow client has not read them yet
_HELD = 128
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


def open_reader(driver: str, path: str, request: ReadRequest, *, follow: bool = False) -> LogReader:
    """Errors: NotImplementedYet for a driver whose log cannot be read."""
    if driver == "json-file":
        return FileLogReader(path, JsonFormat(), request, follow=follow)
    if driver == "local":
        return FileLogReader(path, LocalFormat(), request, follow=follow)
    raise NotImplementedYet(NOT_READABLE)


class FileLogReader:
    """A log in files.

    follow: ``chunks`` may be called again and again; without it one call reads what was there at its beginning
    """

    def __init__(self, path: str, record_format: RecordFormat, request: ReadRequest, *, follow: bool = False) -> None:
        self._path = path
        self._format = record_format
        self._request = request
        self._follow = follow
        self._pieces: deque[Piece] = deque()
        self._lock = threading.Lock()
        self._stream: BinaryIO | None = None
        self._position = 0
        self._skip = 0
        self._end = -1
        self._rest = b""
        self._done = False
        self._started = False

    @property
    def done(self) -> bool:
        return self._done

    def close(self) -> None:
        self._leave()
        while self._pieces:
            self._pieces.popleft().close()

    def keep_up(self) -> None:
        """Safe to call while another thread is in ``chunks``."""
        with self._lock:
            if not self._started or not self._follow or len(self._pieces) >= _HELD:
                return
            newest = self._pieces[-1] if self._pieces else None
            if newest is None or not newest.is_at(self._path):
                self._pieces += open_pieces(self._path, newest, _HELD)

    # -- where to begin -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._lock:
            self._pieces += open_pieces(self._path)
            self._started = True
        if self._pieces and not self._follow:
            self._end = self._pieces[-1].present_size()
        if self._request.tail >= 0:
            self._begin_at_tail(self._request.tail)
        elif self._request.since:
            self._begin_at_time(self._request.since)

    def _drop_older(self, count: int) -> None:
        for _ in range(count):
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            self._pieces.popleft().close()

    def _begin_at_tail(self, count: int) -> None:
        """Leave out files and entries before the last ``count`` entries."""
        for index in range(len(self._pieces) - 1, -1, -1):
            piece = self._pieces[index]
            if not count:
                # behind what is there: only what comes is wanted
                self._drop_older(index)
                self._position = 0 if piece.packed else piece.present_size()
                self._skip = self._count(piece) if piece.packed else 0
                return
            if piece.packed:
                have = self._count(piece)
                position, skip = 0, max(0, have - count)
            else:
                position, have = self._tail_position(piece, count)
                skip = 0
            if have >= count:
                self._drop_older(index)
                self._position, self._skip = position, skip
                return
            count -= have

    def _count(self, piece: Piece) -> int:
        """Entries of a compressed file."""
        found, rest = 0, b""
        with piece.open_stream() as stream:
            try:
                while block := stream.read(_BLOCK):
                    block = rest + block
                    whole = self._format.whole(block)
                    found += self._format.count(block[:whole])
                    rest = block[whole:]
            except _DAMAGED:
                pass
        return found

    def _tail_position(self, piece: Piece, count: int) -> tuple[int, int]:
        """(where the last ``count`` entries of a plain file begin, how many there are); reads backwards, ever more."""
        size = piece.present_size() if self._end < 0 or piece is not self._pieces[-1] else self._end
        length = _TAIL_BLOCK
        while True:
            start = max(0, size - length)
            block = piece.pread(size - start, start)
            # unless it begins the file, the block begins in the midst of an entry
            first = 0 if not start else self._format.skip(block, 1)
            have = self._format.count(block[first : first + self._format.whole(block[first:])])
            if have >= count:
                return start + first + self._format.skip(block[first:], have - count), count
            if not start:
                return 0, have
            length *= 4

    def _begin_at_time(self, moment: int) -> None:
        """Leave out files, and the part of a file, in which everything is earlier."""
        while len(self._pieces) > 1:
            piece = self._pieces[0]
            last = piece.last_ns if piece.packed else piece.modified_ns()
            if not last or last >= moment:
                break
            self._drop_older(1)
        if not self._pieces or self._pieces[0].packed:
            return
        piece = self._pieces[0]
        low, high = 0, piece.present_size()
        while high - low > _SEEK_MARGIN:
            middle = (low + high) // 2
            found = self._format.first_time(piece.pread(_SEEK_BLOCK, middle))
            if not found:
                return
            if found < moment:
                low = middle
            else:
                high = middle
        start = max(0, low - _SEEK_MARGIN)
        if start:
            block = piece.pread(_SEEK_BLOCK, start)
            self._position = start + self._format.skip(block, 1)

    # -- reading ------------------------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[bytes]:
        if not self._started:
            self._start()
        while not self._done:
            block = self._next_block()
            if not block:
                return
            output, self._done = self._format.render(block, self._request)
            if output:
                yield output

    def _next_block(self) -> bytes:
        """Whole entries, nothing at the present end."""
        while self._pieces:
            data = self._read()
            if data:
                data = self._rest + data
                whole = self._format.whole(data)
                block, self._rest = data[:whole], data[whole:]
                if self._skip and block:
                    have = self._format.count(block)
                    start = self._format.skip(block, self._skip)
                    self._skip -= min(self._skip, have)
                    block = block[start:]
                if block:
                    return block
            elif not self._advance():
                return b""
        if self._follow:
            self.keep_up()
            return self._next_block() if self._pieces else b""
        return b""

    def _read(self) -> bytes:
        piece = self._pieces[0]
        if piece.packed:
            if self._stream is None:
                self._stream = piece.open_stream()
            try:
                return self._stream.read(_BLOCK)
            except _DAMAGED:
                return b""
        size = _BLOCK
        if self._end >= 0 and len(self._pieces) == 1:
            size = min(size, self._end - self._position)
        data = piece.pread(size, self._position) if size > 0 else b""
        self._position += len(data)
        return data

    def _advance(self) -> bool:
        """Go to the next file when this one is at its end; False when it is the one being written."""
        if len(self._pieces) == 1:
            if not self._follow:
                return False
            self.keep_up()
            if len(self._pieces) == 1:
                return False
            # it may have grown between our last look and its rotation
            if not self._pieces[0].packed and self._position < self._pieces[0].present_size():
                return True
        self._leave()
        self._drop()
        return True

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._position = self._skip = 0
        self._rest = b""

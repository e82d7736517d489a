"""Reading a log: from the start, the last lines or a moment on, across rotated pieces, and on while it grows.

Blocks of whole records are turned into Docker's frames.  The json-file driver's blocks are cut by one regular expression
and unescaped by one call where nothing but the text is wanted; only filters and prefixes need a look at each line.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from corten.errors import NotImplementedYet
from corten.logdriver import local
from corten.logdriver.rotation import pieces
from corten.logdriver.times import format_time, parse_time

BLOCK = 1 << 20
_TAIL_BLOCK = 64 * 1024
_STREAM_NUMBERS = {"stdout": 1, "stderr": 2}
_BETWEEN = {
    stream: re.compile(rb'","stream":"' + stream.encode() + rb'","time":"[^"]*"}\n\{"log":"') for stream in _STREAM_NUMBERS
}
_LAST_TIME = re.compile(rb'"time":"([^"]*)"\}\n?\Z')
_STREAM = re.compile(rb'","stream":"(stdout|stderr)","time":"[^"]*"\}\n')


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """since, until: ns since the epoch, 0 for no bound; tail: number of lines, -1 for all."""

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    timestamps: bool = False
    details: bool = False
    tail: int = -1
    follow: bool = False


def frame(stream: str, payload: bytes) -> bytes:
    """One frame of Docker's multiplexed stream: stream number, three zeros, length."""
    return bytes((_STREAM_NUMBERS[stream], 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


class LogReader:
    """One pass over a container's log; ``chunks`` may be called again for what has come since."""

    def __init__(self, driver: str, path: str, query: LogQuery, *, tty: bool) -> None:
        """Errors: NotImplementedYet for a driver that keeps nothing to read."""
        if driver not in ("json-file", "local"):
            raise NotImplementedYet("configured logging driver does not support reading")
        self._binary = driver == "local"
        self._path = path
        self._query = query
        self._tty = tty
        self._waiting: list[str] = []
        self._file: IO[bytes] | None = None
        self._plain = False
        self._inode = 0
        self._rest = b""
        self._started = False
        self.done = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- position -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._started = True
        self._waiting = pieces(self._path)
        if self._query.tail >= 0:
            self._seek_tail(self._query.tail)

    def _seek_tail(self, count: int) -> None:
        """Leave out pieces and bytes before the last ``count`` records."""
        chosen: list[str] = []
        offset = 0
        for name in reversed(self._waiting):
            chosen.insert(0, name)
            offset, found = self._tail_of(name, count)
            count -= found
            if count <= 0:
                break
        self._waiting = chosen
        if chosen:
            self._open(self._waiting.pop(0))
            if self._file is not None:
                self._file.seek(offset)

    def _tail_of(self, name: str, count: int) -> tuple[int, int]:
        """(offset of the last ``count`` records of a piece, how many it has of them)."""
        if count == 0:
            return self._size(name), 0
        if self._binary or name.endswith(".gz"):
            with _opened(name) as file:
                data = file.read()
            if self._binary:
                return local.tail_offset(data, count)
            return _tail_of_bytes(data, count)
        return _tail_of_file(name, count)

    @staticmethod
    def _size(name: str) -> int:
        if not name.endswith(".gz"):
            return os.stat(name).st_size
        with _opened(name) as file:
            return file.seek(0, os.SEEK_END)

    def _open(self, name: str) -> None:
        self.close()
        try:
            self._file = _opened(name)
        except FileNotFoundError:
            self._file = None  # rotated away between listing and opening: the next piece follows
            return
        self._plain = not name.endswith(".gz")
        self._inode = os.fstat(self._file.fileno()).st_ino

    def _advance(self) -> bool:
        """Go to the next piece; False when this is the file being written."""
        if self._waiting:
            self._open(self._waiting.pop(0))
            return True
        following = self._after_rotation()
        if not following:
            return False
        self._waiting = following
        self._open(self._waiting.pop(0))
        return True

    def _after_rotation(self) -> list[str]:
        """The pieces that are newer than the one we hold, oldest first."""
        present = pieces(self._path)
        if not present:
            return []
        newer: list[str] = []
        for name in reversed(present):
            try:
                if os.stat(name).st_ino == self._inode:
                    return newer
            except FileNotFoundError:
                continue
            newer.insert(0, name)
        # ours is gone or compressed: go on with everything that is certainly newer
        return newer if self._inode == 0 else [name for name in newer if not name.endswith(".gz")]

    def _raw_blocks(self) -> Iterator[bytes]:
        """Blocks of whole records up to the present end."""
        if not self._started:
            self._start()
        while True:
            data = self._file.read(BLOCK) if self._file is not None else b""
            if data:
                data = self._rest + data if self._rest else data
                end = local.complete_length(data) if self._binary else data.rfind(b"\n") + 1
                self._rest = data[end:]
                if end:
                    yield data[:end]
                continue
            if self._rest and self._is_left_behind():
                self._rest = b""  # a half record at the end of a piece that nobody writes any more
            if not self._advance():
                return

    def _is_left_behind(self) -> bool:
        return bool(self._waiting) or bool(self._after_rotation())

    # -- output -------------------------------------------------------------------------------------------------------

    def chunks(self) -> Iterator[bytes]:
        """Frames (raw bytes for a terminal) of what is there; ``done`` is set once ``until`` has been passed."""
        for block in self._raw_blocks():
            text = self._binary_block(block) if self._binary else self._json_block(block)
            if text:
                yield text
            if self.done:
                return

    def _json_block(self, block: bytes) -> bytes:
        query = self._query
        if query.since and not query.until and self._ends_before(block, query.since):
            return b""
        if not (query.since or query.until or query.timestamps):
            fast = self._fast_block(block)
            if fast is not None:
                return fast
        return self._output(self._json_records(block))

    def _ends_before(self, block: bytes, moment: int) -> bool:
        match = _LAST_TIME.search(block[-128:])
        try:
            return match is not None and parse_time(match[1].decode()) < moment
        except ValueError:
            return False

    def _fast_block(self, block: bytes) -> bytes | None:
        """The text of a block that comes from one stream; None when a look at each line is needed."""
        first = _STREAM.search(block)
        if first is None or not block.startswith(b'{"log":"'):
            return None
        stream = first[1].decode()
        other = "stderr" if stream == "stdout" else "stdout"
        if b'","stream":"' + other.encode() + b'","time":"' in block:
            return None
        joined = _BETWEEN[stream].sub(b"", block)
        last = joined.rfind(b'","stream":"')
        try:
            text: str = json.loads(b'"' + joined[8:last] + b'"', strict=False)
        except ValueError:
            return None
        wanted = self._query.stdout if stream == "stdout" else self._query.stderr
        if not wanted:
            return b""
        payload = text.encode("utf-8", "surrogatepass")
        return payload if self._tty else frame(stream, payload)

    @staticmethod
    def _json_records(block: bytes) -> Iterator[tuple[str, int, bytes]]:
        for line in block.split(b"\n"):
            if not line:
                continue
            try:
                record = json.loads(line)
                yield record["stream"], parse_time(record["time"]), record["log"].encode("utf-8", "surrogatepass")
            except (ValueError, KeyError, AttributeError, TypeError):
                continue  # a line that a crash cut off

    def _binary_block(self, block: bytes) -> bytes:
        return self._output(local.decode_entries(block))

    def _output(self, records: Iterator[tuple[str, int, bytes]]) -> bytes:
        query = self._query
        parts: list[bytes] = []
        for stream, moment, text in records:
            if query.since and moment < query.since:
                continue
            if query.until and moment > query.until:
                self.done = True
                break
            if not (query.stdout if stream == "stdout" else query.stderr):
                continue
            prefix = f"{_padded(moment)} ".encode() if query.timestamps else b""
            if query.details:
                prefix += b" "
            parts.append(prefix + text if self._tty else frame(stream, prefix + text))
        return b"".join(parts)


def _padded(moment: int) -> str:
    """Times in front of lines have nine digits always, so that lines stay aligned."""
    whole = format_time(moment - moment % 10**9)[:-1]
    return f"{whole}.{moment % 10**9:09d}Z"


def _opened(name: str) -> IO[bytes]:
    if name.endswith(".gz"):
        return gzip.open(name, "rb")  # type: ignore[return-value]  # a GzipFile reads like a binary file
    return open(name, "rb", buffering=0)  # type: ignore[return-value]  # a FileIO does too


def _tail_of_bytes(data: bytes, count: int) -> tuple[int, int]:
    position, found = data.rfind(b"\n"), 0
    while position >= 0 and found < count:
        found += 1
        position = data.rfind(b"\n", 0, position)
    return position + 1, found


def _tail_of_file(name: str, count: int) -> tuple[int, int]:
    """Backwards in blocks: only the end of a long file is read."""
    with open(name, "rb", buffering=0) as file:
        position = file.seek(0, os.SEEK_END)
        newlines = 0
        while position > 0:
            size = min(_TAIL_BLOCK, position)
            position -= size
            block = os.pread(file.fileno(), size, position)
            here = block.count(b"\n")
            if newlines + here > count:
                # the newline before the first wanted line is in this block
                place = len(block)
                for _ in range(count + 1 - newlines):
                    place = block.rfind(b"\n", 0, place)
                return position + place + 1, count
            newlines += here
        return 0, newlines

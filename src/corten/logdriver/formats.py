"""Entries of log files turned into what a client gets, block by block.  Used by the engine only: needs msgspec."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Protocol
from urllib.parse import quote_plus

import msgspec

from corten.logdriver import local
from corten.logdriver.parsing import parse_time
from corten.logdriver.reading import ReadRequest
from corten.logdriver.times import format_time_fixed

_NUMBERS = {"stdout": 1, "stderr": 2}
_HEADER = struct.Struct(">B3xI")
_SHORT = 1024
# headers of short entries, made once: most lines are short
_HEADERS = {
    stream: [_HEADER.pack(number, length) for length in range(_SHORT)] for stream, number in _NUMBERS.items()
}  # fmt: skip
# a block without the end of an entry that is larger than this is damage
_LONGEST = 4 << 20


class RecordFormat(Protocol):
    """How entries lie in a file."""

    def whole(self, block: bytes) -> int:
        """How many bytes of the block need not be looked at again."""
        ...

    def count(self, block: bytes) -> int:
        """Entries in a block of whole entries."""
        ...

    def skip(self, block: bytes, count: int) -> int:
        """Where the entry after the first ``count`` begins."""
        ...

    def first_time(self, block: bytes) -> int:
        """Nanoseconds of the first entry that begins in a block, which may begin in the midst of one; 0 for none."""
        ...

    def render(self, block: bytes, request: ReadRequest) -> tuple[bytes, bool]:
        """(output, entries after ``until`` have been met) of whole entries.  Damaged entries are left out."""
        ...


def _frame(stream: str, text: bytes) -> bytes:
    return (_HEADERS[stream][len(text)] if len(text) < _SHORT else _HEADER.pack(_NUMBERS[stream], len(text))) + text


def _details(attributes: dict[str, str]) -> bytes:
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(attributes.items())).encode()


class _Moment:
    """Of neighbouring entries: many bear the same time, since one is taken for all that a program wrote at once."""

    __slots__ = ("_prefix", "_prefix_of", "_text", "_value")

    def __init__(self) -> None:
        self._text = ""
        self._value = 0
        self._prefix_of = -1
        self._prefix = b""

    def parse(self, text: str) -> int:
        """Nanoseconds.  Errors: ValueError."""
        if text != self._text:
            self._value = parse_time(text)
            self._text = text
        return self._value

    def prefix(self, moment_ns: int) -> bytes:
        """What stands before an entry when times are asked for."""
        if moment_ns != self._prefix_of:
            self._prefix_of = moment_ns
            self._prefix = format_time_fixed(moment_ns).encode() + b" "
        return self._prefix


def _render(entries: Iterable[local.Entry], request: ReadRequest) -> tuple[bytes, bool]:
    """With a look at each entry: filters and what stands before the text."""
    wanted = {"stdout": request.stdout, "stderr": request.stderr}
    times = _Moment()
    output: list[bytes] = []
    for stream, moment, text, attributes in entries:
        if moment < request.since or not wanted.get(stream, False):
            continue
        if request.until and moment > request.until:
            return b"".join(output), True
        if request.details:
            text = _details(attributes) + b" " + text
        if request.timestamps:
            text = times.prefix(moment) + text
        output.append(_frame(stream, text) if request.framed else text)
    return b"".join(output), False


class _JsonEntry(msgspec.Struct, gc=False):
    log: str = ""
    stream: str = ""
    time: str = ""
    attrs: dict[str, str] | None = None


class JsonFormat:
    """Lines of JSON."""

    def __init__(self) -> None:
        self._decoder = msgspec.json.Decoder(_JsonEntry)

    def whole(self, block: bytes) -> int:
        end = block.rfind(b"\n") + 1
        return len(block) if not end and len(block) > _LONGEST else end

    def count(self, block: bytes) -> int:
        return block.count(b"\n")

    def skip(self, block: bytes, count: int) -> int:
        position = 0
        for _ in range(count):
            position = block.find(b"\n", position) + 1
            if not position:
                return len(block)
        return position

    def first_time(self, block: bytes) -> int:
        start = block.find(b"\n") + 1
        while start and (end := block.find(b"\n", start)) >= 0:
            moment = self._time(block[start:end])
            if moment:
                return moment
            start = end + 1
        return 0

    def _time(self, line: bytes) -> int:
        try:
            return parse_time(self._decoder.decode(line).time)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return 0

    def _decode(self, block: bytes) -> list[_JsonEntry]:
        try:
            return self._decoder.decode_lines(block)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._decode_sound(block)

    def _decode_sound(self, block: bytes) -> list[_JsonEntry]:
        """One line at a time: a crash or another hand has left something that is no entry."""
        entries = []
        for line in block.split(b"\n"):
            try:
                entries.append(self._decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
        return entries

    def render(self, block: bytes, request: ReadRequest) -> tuple[bytes, bool]:
        entries = self._decode(block)
        if request.since or request.until or request.timestamps or request.details:
            return _render(self._described(entries), request)
        output: list[bytes] = []
        append = output.append
        wanted = {stream: heads for stream, heads in _HEADERS.items() if getattr(request, stream)}
        for entry in entries:
            heads = wanted.get(entry.stream)
            if heads is None:
                continue
            text = entry.log.encode()
            if request.framed:
                length = len(text)
                append(heads[length] if length < _SHORT else _HEADER.pack(_NUMBERS[entry.stream], length))
            append(text)
        return b"".join(output), False

    @staticmethod
    def _described(entries: list[_JsonEntry]) -> Iterable[local.Entry]:
        times = _Moment()
        for entry in entries:
            try:
                moment = times.parse(entry.time)
            except ValueError:
                continue
            yield local.Entry(entry.stream, moment, entry.log.encode(), entry.attrs or {})


class LocalFormat:
    """Docker's binary entries."""

    def whole(self, block: bytes) -> int:
        return local.bounds(block)[1]

    def count(self, block: bytes) -> int:
        return len(local.bounds(block)[0])

    def skip(self, block: bytes, count: int) -> int:
        found, done = local.bounds(block)
        return found[count][0] - 4 if count < len(found) else done

    def first_time(self, block: bytes) -> int:
        found, _ = local.bounds(block)
        return self._time(block, *found[0]) if found else 0

    @staticmethod
    def _time(block: bytes, start: int, end: int) -> int:
        try:
            return local.decode_entry(block, start, end).moment_ns
        except (ValueError, IndexError):
            return 0

    def render(self, block: bytes, request: ReadRequest) -> tuple[bytes, bool]:
        if request.since or request.until or request.timestamps or request.details:
            return _render(self._entries(block), request)
        wanted = [stream for stream in _HEADERS if getattr(request, stream)]
        output: list[bytes] = []
        append = output.append
        for start, end in local.bounds(block)[0]:
            stream, text = local.plain_text(block, start, end)
            if not stream:
                try:
                    stream, _, text, _ = local.decode_entry(block, start, end)
                except (ValueError, IndexError):
                    continue
            if stream in wanted:
                append(_frame(stream, text) if request.framed else text)
        return b"".join(output), False

    @staticmethod
    def _entries(block: bytes) -> Iterable[local.Entry]:
        for start, end in local.bounds(block)[0]:
            try:
                yield local.decode_entry(block, start, end)
            except (ValueError, IndexError):
                continue

"""The local driver: Docker's compact binary format.

An entry is a big-endian length, a protobuf ``LogEntry`` and the length again: a file can be read from both ends. ::

    source = 1 (string)   time_nano = 2 (int64)   line = 3 (bytes, no newline)   partial = 4 (bool)
    partial_log_metadata = 5 { last = 1 (bool)  id = 2 (string)  ordinal = 3 (int32) }
    attrs = 6, repeated { key = 1  value = 2 }
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from corten.logdriver.cutting import CuttingWriter
from corten.logdriver.lines import Piece
from corten.logdriver.options import LogOptions
from corten.logdriver.rotation import RotatingFile

LENGTH = struct.Struct(">I")
OVERHEAD = 2 * LENGTH.size
# an entry holds 16 KiB of a line and attributes; what claims to be longer is damage
MAXIMUM_ENTRY = 1_000_000

_SOURCES = {"stdout": b"\x0a\x06stdout", "stderr": b"\x0a\x06stderr"}
_RESYNC = b"\x0a\x06std"
_SCAN = 1 << 20


class Entry(NamedTuple):
    """One entry.  ``text`` ends with a newline unless it is a part of a line that goes on."""

    stream: str
    moment_ns: int
    text: bytes
    attributes: dict[str, str]


# -- encoding ---------------------------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _bytes_field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


_SHORT_LENGTHS = [_varint(length) for length in range(4096)]


def encode_pieces(stream: str, pieces: list[Piece], attributes: bytes = b"") -> list[bytes]:
    """One item for each entry.  ``attributes``: the encoded fields of number 6."""
    entries = []
    pack = LENGTH.pack
    for piece in pieces:
        head = _SOURCES[stream] + b"\x10" + _varint(piece.moment_ns) + b"\x1a"
        if piece.ordinal:
            details = (
                (b"\x08\x01" if piece.last else b"")
                + _bytes_field(2, piece.line_id.encode())
                + b"\x18"
                + _varint(piece.ordinal)
            )
            entry = head + _varint(len(piece.text)) + piece.text + b"\x20\x01" + _bytes_field(5, details) + attributes
            length = pack(len(entry))
            entries.append(length + entry + length)
            continue
        fixed = len(head) + len(attributes)
        for line in piece.text[:-1].split(b"\n"):
            size = len(line)
            prefix = _SHORT_LENGTHS[size] if size < 4096 else _varint(size)
            length = pack(fixed + len(prefix) + size)
            entries.append(b"%b%b%b%b%b%b" % (length, head, prefix, line, attributes, length))
    return entries


def encode_attributes(attributes: dict[str, str]) -> bytes:
    fields = b""
    for key, value in sorted(attributes.items()):
        names = (key.encode("utf-8", "replace"), value.encode("utf-8", "replace"))
        fields += _bytes_field(6, _bytes_field(1, names[0]) + _bytes_field(2, names[1]))
    return fields


# -- decoding ---------------------------------------------------------------------------------------------------------


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """(number, value of a varint, bytes of a string).  Errors: ValueError, IndexError."""
    while position < end:
        key, position = _read_varint(data, position)
        kind = key & 7
        if kind == 0:
            number, position = _read_varint(data, position)
            yield key >> 3, number, b""
        elif kind == 2:
            size, position = _read_varint(data, position)
            if position + size > end:
                raise ValueError("a field that is longer than its entry")
            yield key >> 3, 0, data[position : position + size]
            position += size
        else:
            raise ValueError(f"wire type {kind} in a log entry")


def decode_entry(data: bytes, start: int, end: int) -> Entry:
    """Errors: ValueError, IndexError for what is no entry."""
    stream, moment, text, partial, last = "", 0, b"", False, False
    attributes: dict[str, str] = {}
    for number, value, content in _fields(data, start, end):
        if number == 1:
            stream = content.decode()
        elif number == 2:
            moment = value
        elif number == 3:
            text = content
        elif number == 4:
            partial = bool(value)
        elif number == 5:
            last = any(field == 1 and flag for field, flag, _ in _fields(content, 0, len(content)))
        elif number == 6:
            pair = {field: name.decode("utf-8", "replace") for field, _, name in _fields(content, 0, len(content))}
            attributes[pair.get(1, "")] = pair.get(2, "")
    return Entry(stream, moment, text if partial and not last else text + b"\n", attributes)


# a whole line of less than 128 bytes as every writer lays it out: source, nine bytes of time, line
_LINE_AT = 20
_STREAM_OF = {source: stream for stream, source in _SOURCES.items()}


def plain_text(block: bytes, start: int, end: int) -> tuple[str, bytes]:
    """(stream, text) of an entry that is a short line and nothing else, which most are; ("", …) for any other."""
    line = start + _LINE_AT
    if line > end or block[line - 2] != 0x1A or end - line != block[line - 1] or block[start + 8] != 0x10:
        return "", b""
    return _STREAM_OF.get(block[start : start + 8], ""), block[line:end] + b"\n"


def bounds(block: bytes) -> tuple[list[tuple[int, int]], int]:
    """(start and end of each whole entry's message, bytes that need not be looked at again).

    Damage is stepped over to the next entry whose two lengths agree.
    """
    found: list[tuple[int, int]] = []
    position, size = 0, len(block)
    unpack = LENGTH.unpack_from
    while position + OVERHEAD <= size:
        length = unpack(block, position)[0]
        end = position + 4 + length
        if length <= MAXIMUM_ENTRY:
            if end + 4 > size:
                if not _looks_like_entry(block, position):
                    position = _resynchronise(block, position + 1)
                    continue
                return found, position
            if unpack(block, end)[0] == length:
                found.append((position + 4, end))
                position = end + 4
                continue
        position = _resynchronise(block, position + 1)
    return found, min(position, size)


def _looks_like_entry(block: bytes, position: int) -> bool:
    return block.startswith(_RESYNC, position + 4)


def _resynchronise(block: bytes, position: int) -> int:
    """Where the next entry may begin: four bytes before a source; else near the end, where one may have begun."""
    place = block.find(_RESYNC, position + 4)
    return place - 4 if place >= 0 else max(position, len(block) - OVERHEAD + 1)


def _sound_size(descriptor: int, size: int) -> int:
    """The end of the last whole entry: at once when the last two lengths agree, else by reading from the start."""
    if size >= OVERHEAD:
        (length,) = LENGTH.unpack(os.pread(descriptor, 4, size - 4))
        start = size - OVERHEAD - length
        if start >= 0 and os.pread(descriptor, 4, start) == LENGTH.pack(length):
            return size
    sound = position = 0
    rest = b""
    while block := os.pread(descriptor, _SCAN, position):
        position += len(block)
        block = rest + block
        found, done = bounds(block)
        if found:
            sound = position - len(block) + found[-1][1] + 4
        rest = block[done:]
    return sound


# -- writing ----------------------------------------------------------------------------------------------------------


class LocalWriter(CuttingWriter):
    """Writes one container's output.  Not thread-safe."""

    def __init__(self, path: str, options: LogOptions, attributes: dict[str, str]) -> None:
        """Errors: OSError."""
        CuttingWriter.__init__(self)
        self._file = RotatingFile(path, options, _sound_size)
        self._attributes = encode_attributes(attributes)

    def put(self, stream: str, pieces: list[Piece]) -> None:
        entries = encode_pieces(stream, pieces, self._attributes)

        def after_entry(block: bytes, place: int) -> int:
            end = 0
            for entry in entries:
                end += len(entry)
                if end > place:
                    break
            return end

        try:
            self._file.write(b"".join(entries), after_entry)
        except OSError:
            self._dropped += sum(len(piece.text) for piece in pieces)
            raise

    def rotate(self) -> None:
        self._file.rotate()

    def close(self) -> None:
        self._file.close()

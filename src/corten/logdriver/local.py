"""The local driver: Docker's compact binary format.

An entry is a big-endian length, a protobuf ``LogEntry`` (source = 1, time_nano = 2, line = 3, partial = 4) and the length
again, so that a file can be read from both ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from corten.logdriver.lines import LineCutter
from corten.logdriver.options import LogOptions
from corten.logdriver.rotation import RotatingFile

_SOURCES = {"stdout": b"\x0a\x06stdout", "stderr": b"\x0a\x06stderr"}
_LENGTH = struct.Struct(">I")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def encode_entry(stream: str, moment_ns: int, line: bytes, *, partial: bool) -> bytes:
    message = _SOURCES[stream] + b"\x10" + _varint(moment_ns) + b"\x1a" + _varint(len(line)) + line
    if partial:
        message += b"\x20\x01"
    length = _LENGTH.pack(len(message))
    return length + message + length


class LocalWriter:
    """Writes one container's output."""

    def __init__(self, path: str, options: LogOptions) -> None:
        self._file = RotatingFile(path, options)
        self._cutters = {"stdout": LineCutter(), "stderr": LineCutter()}

    def write(self, stream: str, data: bytes, moment_ns: int) -> None:
        whole, pieces = self._cutters[stream].feed(data)
        lines = whole.split(b"\n")[:-1] if whole else []
        if lines:
            # one write for all lines but where a file would grow far beyond its size
            for start in range(0, len(lines), 256):
                batch = lines[start : start + 256]
                self._file.write(b"".join(encode_entry(stream, moment_ns, line, partial=False) for line in batch))
        for piece in pieces:
            ended = piece.endswith(b"\n")
            self._file.write(encode_entry(stream, moment_ns, piece[:-1] if ended else piece, partial=not ended))

    def finish(self, moment_ns: int) -> None:
        for stream, cutter in self._cutters.items():
            rest = cutter.finish()
            if rest:
                self._file.write(encode_entry(stream, moment_ns, rest, partial=True))

    def close(self) -> None:
        self._file.close()


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def decode_entries(block: bytes) -> Iterator[tuple[str, int, bytes]]:
    """(stream, time in ns, text with its newline) of complete entries; stops at a damaged one."""
    position = 0
    while position + 8 <= len(block):
        (length,) = _LENGTH.unpack_from(block, position)
        start, end = position + 4, position + 4 + length
        if end + 4 > len(block):
            return
        stream, moment, line, partial = "stdout", 0, b"", False
        while start < end:
            key, start = _read_varint(block, start)
            if key & 7 == 2:
                size, start = _read_varint(block, start)
                value = block[start : start + size]
                start += size
                if key >> 3 == 1:
                    stream = value.decode()
                elif key >> 3 == 3:
                    line = value
            else:
                number, start = _read_varint(block, start)
                if key >> 3 == 2:
                    moment = number
                elif key >> 3 == 4:
                    partial = bool(number)
        yield stream, moment, line if partial else line + b"\n"
        position = end + 4


def complete_length(block: bytes) -> int:
    """How many bytes of ``block`` are whole entries."""
    position = 0
    while position + 8 <= len(block):
        (length,) = _LENGTH.unpack_from(block, position)
        if position + 8 + length > len(block):
            break
        position += 8 + length
    return position


def tail_offset(data: bytes, count: int) -> tuple[int, int]:
    """(offset of the last ``count`` entries, how many there are)."""
    position, found = complete_length(data), 0
    while position >= 8 and found < count:
        (length,) = _LENGTH.unpack_from(data, position - 4)
        position -= length + 8
        found += 1
    return max(0, position), found

"""The json-file driver: Docker's format, written and read block by block instead of line by line.

``{"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}`` a line, ``<``, ``>``, ``&`` and U+2028/9 escaped
and invalid UTF-8 replaced, as Go's encoder does.
"""

from __future__ import annotations

import re

from corten.logdriver.lines import LineCutter
from corten.logdriver.options import LogOptions
from corten.logdriver.rotation import RotatingFile
from corten.logdriver.times import format_time

_PLAIN = bytes(set(range(0x20, 0x7F)) - set(b'"\\<>&')) + b"\n"
_ESCAPES = [
    (bytes([code]), {0x08: b"\\b", 0x09: b"\\t", 0x0C: b"\\f", 0x0D: b"\\r"}.get(code, b"\\u%04x" % code))
    for code in [*range(0x00, 0x0A), *range(0x0B, 0x20)]
]
_SPECIAL = re.compile(rb"[\x00-\x09\x0b-\x1f]")


def escape(text: bytes) -> bytes:
    """The inside of a JSON string; newlines are left as they are for the caller."""
    if not text.translate(None, _PLAIN):
        return text
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            text = text.decode("utf-8", "replace").encode()
    text = text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    text = text.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if b"\xe2\x80" in text:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if _SPECIAL.search(text):
        for raw, escaped in _ESCAPES:
            if raw in text:
                text = text.replace(raw, escaped)
    return text


class JsonFileWriter:
    """Writes one container's output.  Not thread-safe; never blocks but on the disk."""

    def __init__(self, path: str, options: LogOptions) -> None:
        self._file = RotatingFile(path, options)
        self._cutters = {"stdout": LineCutter(), "stderr": LineCutter()}

    def write(self, stream: str, data: bytes, moment_ns: int) -> None:
        """Log what a program wrote to ``stream`` ("stdout", "stderr")."""
        whole, pieces = self._cutters[stream].feed(data)
        tail = f'","stream":"{stream}","time":"{format_time(moment_ns)}"}}\n'.encode()
        if whole:
            self._write_block(escape(whole), tail)
        for piece in pieces:
            text = escape(piece)
            self._file.write(b'{"log":"' + text.replace(b"\n", b"\\n") + tail)

    def _write_block(self, text: bytes, tail: bytes) -> None:
        """Whole lines with one time, in pieces that respect the size of a file."""
        while text:
            room = self._file.room
            end = len(text)
            if 0 <= room < len(text) * 2:
                lines = max(1, room // (len(tail) + 90))
                end = _after_lines(text, lines)
            block, text = text[:end], text[end:]
            body = block[:-1].replace(b"\n", b"\\n" + tail + b'{"log":"')
            self._file.write(b'{"log":"' + body + b"\\n" + tail)

    def finish(self, moment_ns: int) -> None:
        """The program has ended: log what it left without a newline."""
        for stream, cutter in self._cutters.items():
            rest = cutter.finish()
            if rest:
                tail = f'","stream":"{stream}","time":"{format_time(moment_ns)}"}}\n'.encode()
                self._file.write(b'{"log":"' + escape(rest) + tail)

    def close(self) -> None:
        self._file.close()


def _after_lines(text: bytes, lines: int) -> int:
    position = 0
    for _ in range(lines):
        newline = text.find(b"\n", position)
        if newline < 0:
            return len(text)
        position = newline + 1
    return position

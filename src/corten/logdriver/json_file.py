"""The json-file driver's writer: Docker's format, written block by block instead of line by line.

``{"log":"text\\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}`` a line, escaped as Docker's encoder does: also
``<``, ``>``, ``&`` and U+2028/9, short forms only for the quote, the backslash, newline and carriage return, and one
U+FFFD for every byte that is not UTF-8.
"""

from __future__ import annotations

import codecs
import json
import os

from corten.logdriver.cutting import CuttingWriter
from corten.logdriver.lines import Piece
from corten.logdriver.options import LogOptions
from corten.logdriver.rotation import RotatingFile
from corten.logdriver.times import format_time

# what is left of a text without these needs a closer look
_PLAIN = bytes(set(range(0x20, 0x80)) - set(b'"\\<>&')) + b"\n"
_HIGH = bytes(range(0x80, 0x100))
_HEAD = b'{"log":"'
_TAIL_READ = 256 * 1024

_ESCAPES = {
    code: b"\\u%04x" % code for code in [*range(0x20), *b"<>&"] if code not in b"\n\r"
} | {0x0D: b"\\r", 0x22: b'\\"'}  # fmt: skip


def _replacement(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "\\ufffd" * (error.end - error.start), error.end


codecs.register_error("corten.logdriver.json", _replacement)


def escape(text: bytes) -> bytes:
    """The inside of a JSON string; newlines are left as they are for the caller."""
    special = text.translate(None, _PLAIN)
    if not special:
        return text
    if b"\\" in special:
        text = text.replace(b"\\", b"\\\\")
    # few different bytes are special: one pass in C for each that occurs
    for code in set(special.translate(None, _HIGH)):
        escaped = _ESCAPES.get(code)
        if escaped is not None:
            text = text.replace(b"%c" % code, escaped)
    if special.isascii():
        return text
    try:
        text.decode()
    except UnicodeDecodeError:
        text = text.decode("utf-8", "surrogateescape").encode("utf-8", "corten.logdriver.json")
    if b"\xe2\x80" in special:
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def _after_entry(block: bytes, place: int) -> int:
    newline = block.find(b"\n", max(0, place))
    return newline + 1 if newline >= 0 else len(block)


def _sound_size(descriptor: int, size: int) -> int:
    """The end of the last whole line."""
    position = size
    while position > 0:
        length = min(_TAIL_READ, position)
        position -= length
        newline = os.pread(descriptor, length, position).rfind(b"\n")
        if newline >= 0:
            return position + newline + 1
    return 0


class JsonFileWriter(CuttingWriter):
    """Writes one container's output.  Not thread-safe; never blocks but on the disk.

    attributes: go into every entry
    """

    def __init__(self, path: str, options: LogOptions, attributes: dict[str, str]) -> None:
        """Errors: OSError."""
        CuttingWriter.__init__(self)
        self._file = RotatingFile(path, options, _sound_size)
        self._attributes = b""
        if attributes:
            text = json.dumps(attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            raw = text.encode("utf-8", "surrogateescape")
            # inside strings only: JSON's own syntax has none of these
            for sign in b"<>&":
                raw = raw.replace(b"%c" % sign, _ESCAPES[sign])
            self._attributes = b'"attrs":' + raw + b","

    def put(self, stream: str, pieces: list[Piece]) -> None:
        blocks = []
        known, after = -1, b""
        for piece in pieces:
            if piece.moment_ns != known:
                known = piece.moment_ns
                after = b'","stream":"%b",%b"time":"%b"}\n' % (
                    stream.encode(),
                    self._attributes,
                    format_time(known).encode(),
                )
            text = escape(piece.text)
            if piece.ordinal:
                blocks.append(_HEAD + text + (b"\\n" + after if piece.last else after))
            else:
                # one replacement makes entries of all lines; the head behind the last one is one too many
                blocks.append(_HEAD + text.replace(b"\n", b"\\n" + after + _HEAD)[: -len(_HEAD)])
        try:
            self._file.write(blocks[0] if len(blocks) == 1 else b"".join(blocks), _after_entry)
        except OSError:
            self._dropped += sum(len(piece.text) for piece in pieces)
            raise

    def rotate(self) -> None:
        self._file.rotate()

    def close(self) -> None:
        self._file.close()

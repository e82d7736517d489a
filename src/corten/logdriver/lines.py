"""Cutting a program's output into log lines as Docker does: at newlines, and every 16 KiB of a line that is longer."""

from __future__ import annotations

MAXIMUM_LINE = 16 * 1024


class LineCutter:
    """One per stream.  ``feed`` gives back what is complete; the rest waits for more."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """(whole lines as one piece, pieces one by one).

        The first is the fast way: nothing but lines that end and are short.  When a line is too long the pieces come
        one by one instead, partial ones without a newline at their end.
        """
        data = self._rest + data if self._rest else data
        end = data.rfind(b"\n") + 1
        whole, rest = data[:end], data[end:]
        if len(rest) < MAXIMUM_LINE and not _has_long_line(whole):
            self._rest = rest
            return whole, []
        pieces: list[bytes] = []
        for line in _split(whole):
            pieces += _cut(line)
        while len(rest) >= MAXIMUM_LINE:
            pieces.append(rest[:MAXIMUM_LINE])
            rest = rest[MAXIMUM_LINE:]
        self._rest = rest
        return b"", pieces

    def finish(self) -> bytes:
        """What is left at the end of the stream, without a newline."""
        rest, self._rest = self._rest, b""
        return rest


def _split(whole: bytes) -> list[bytes]:
    return [line + b"\n" for line in whole.split(b"\n")[:-1]]


def _cut(line: bytes) -> list[bytes]:
    if len(line) <= MAXIMUM_LINE + 1:
        return [line] if len(line) <= MAXIMUM_LINE else [line[:MAXIMUM_LINE], line[MAXIMUM_LINE:]]
    return [line[start : start + MAXIMUM_LINE] for start in range(0, len(line), MAXIMUM_LINE)]


def _has_long_line(whole: bytes) -> bool:
    """Any line of more than 16 KiB: looked for in strides, since most output has short lines."""
    position = 0
    length = len(whole)
    while position + MAXIMUM_LINE < length:
        newline = whole.rfind(b"\n", position, position + MAXIMUM_LINE + 1)
        if newline < 0:
            return True
        position = newline + 1
    return False

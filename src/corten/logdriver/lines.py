"""Cutting a program's output into log entries as Docker's copier does.

An entry is a line, or 16 KiB of a line that is longer: then every part but the last lacks the newline, and all parts
bear the time of the first.  What has no newline yet waits for more, up to 16 KiB, or for the end of the stream.
"""

from __future__ import annotations

import os
from typing import NamedTuple

MAXIMUM_LINE = 16 * 1024


class Piece(NamedTuple):
    """One or more entries with one time.

    text:    whole lines with their newlines (ordinal 0), or one part of a long line without its newline
    ordinal: 1 for the first part of a long line, 2 for the next …
    last:    the part that ends the line
    line_id: what the parts of one line have in common
    """

    text: bytes
    moment_ns: int
    ordinal: int = 0
    last: bool = True
    line_id: str = ""


class LineCutter:
    """One for each stream."""

    __slots__ = ("_line_id", "_ordinal", "_rest", "_since_ns")

    def __init__(self) -> None:
        self._rest = b""
        self._ordinal = 0  # parts of the present line that have been given out
        self._line_id = ""
        self._since_ns = 0

    def feed(self, data: bytes, moment_ns: int) -> list[Piece]:
        """What is complete now."""
        if self._rest:
            data = self._rest + data
        pieces: list[Piece] = []
        start = position = 0
        if self._ordinal:
            start = position = self._go_on(data, 0, pieces)
        while not self._ordinal:
            # the last newline of the next 16 KiB: every line up to it is short, so one look is enough for many lines
            newline = data.rfind(b"\n", position, position + MAXIMUM_LINE)
            if newline >= 0:
                position = newline + 1
                continue
            if position > start:
                pieces.append(Piece(data[start:position] if start or position < len(data) else data, moment_ns))
                start = position
            if len(data) - position < MAXIMUM_LINE:
                break
            self._since_ns = moment_ns
            start = position = self._go_on(data, position, pieces)
        self._rest = data[position:]
        return pieces

    def _go_on(self, data: bytes, position: int, pieces: list[Piece]) -> int:
        """Give out parts of a long line; where the next line, or what is too short for a part, begins."""
        while True:
            newline = data.find(b"\n", position, position + MAXIMUM_LINE)
            if newline < 0 and len(data) - position < MAXIMUM_LINE:
                return position
            last = newline >= 0
            end = newline if last else position + MAXIMUM_LINE
            pieces.append(self._part(data[position:end], last=last))
            if last:
                return newline + 1
            position = end

    def _part(self, text: bytes, *, last: bool) -> Piece:
        if not self._ordinal:
            self._line_id = os.urandom(32).hex()
        self._ordinal += 1
        piece = Piece(text, self._since_ns, self._ordinal, last, self._line_id)
        if last:
            self._ordinal = 0
        return piece

    def finish(self, moment_ns: int) -> list[Piece]:
        """The end of the stream: what is left has no newline and gets none."""
        rest, self._rest = self._rest, b""
        if not rest:
            return []
        if not self._ordinal:
            self._since_ns = moment_ns
        piece = self._part(rest, last=False)
        self._ordinal = 0
        return [piece]

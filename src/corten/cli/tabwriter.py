"""Columns that are as wide as their widest cell.  Source: documentation of Go's ``text/tabwriter``.

A cell ends with a tab; what follows the last tab of a line belongs to no column.  A column is a block of neighbouring
lines that have a cell at this place: a line without one ends it.
"""

from __future__ import annotations


def display_width(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def align(text: str, *, least: int = 10, padding: int = 3) -> str:
    """The text with spaces for tabs.

    least:   smallest width of a column
    padding: spaces after its widest cell
    """
    lines = [line.split("\t") for line in text.split("\n")]
    widths: list[list[int]] = [[0] * (len(cells) - 1) for cells in lines]
    for number, cells in enumerate(lines):
        for column in range(len(cells) - 1):
            if widths[number][column]:
                continue
            end = number
            widest = 0
            while end < len(lines) and len(lines[end]) - 1 > column:
                widest = max(widest, display_width(lines[end][column]))
                end += 1
            for other in range(number, end):
                widths[other][column] = max(least, widest + padding)
    return "\n".join(
        "".join(cell + " " * (width - display_width(cell)) for cell, width in zip(cells, line_widths, strict=False))
        + cells[-1]
        for cells, line_widths in zip(lines, widths, strict=True)
    )

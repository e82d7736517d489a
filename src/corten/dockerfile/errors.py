"""What is wrong with a Dockerfile, with the place where it is."""

from __future__ import annotations

from corten.errors import InvalidParameter


class DockerfileError(InvalidParameter):
    """A Dockerfile that cannot be built.

    line, column: where, counted from 1; text: that line
    """

    def __init__(self, what: str, *, line: int = 0, column: int = 0, text: str = "") -> None:
        self.what = what
        self.line = line
        self.column = column
        self.text = text
        super().__init__(_shown(what, line, column, text) if line else f"dockerfile parse error: {what}")


def _shown(what: str, line: int, column: int, text: str) -> str:
    head = f"dockerfile parse error on line {line}: {what}"
    if not text:
        return head
    number = f"{line:4}"
    # tabs stay tabs, so that the mark stands below what it means
    lead = "".join("\t" if letter == "\t" else " " for letter in text[: max(0, column - 1)])
    return f"{head}\n{number} | {text[:500]}\n{' ' * len(number)} | {lead[:500]}^"

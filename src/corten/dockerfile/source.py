"""Physical lines become logical ones: directives, comments, continuation lines and here-documents.

Source: Dockerfile reference, "Parser directives", "Format", "Here-Documents".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.words import WordError, raw_words, unquote

MAX_BYTES = 4 << 20
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*\Z")
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)\Z")
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
_DIRECTIVES = frozenset({"syntax", "escape", "check"})


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document.

    name: the word that ends it; expand: variables in it are replaced (its name was not quoted)
    chomp: leading tabs are no part of it (``<<-``); content: as it stands
    """

    name: str
    content: str
    expand: bool
    chomp: bool
    descriptor: int = 0

    @property
    def text(self) -> str:
        """The content without the tabs that ``<<-`` leaves out."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """One instruction with its arguments, joined.

    number, end: first and last physical line, counted from 1; first: the first physical line as it stands
    comment: text of the comment lines right above it
    """

    number: int
    end: int
    text: str
    first: str
    heredocs: tuple[Heredoc, ...] = ()
    comment: str = ""

    def error(self, what: str, at: str = "") -> DockerfileError:
        """at: the word of the first line that the error is about."""
        column = self.first.find(at) if at else -1
        if column < 0:
            column = len(self.first) - len(self.first.lstrip())
        return DockerfileError(what, line=self.number, column=column + 1, text=self.first)


@dataclass(frozen=True, slots=True)
class Source:
    """A Dockerfile as logical lines.

    directives: parser directives by lower-case name; lines: its physical lines
    empty_continuations: numbers of empty lines inside instructions, which are deprecated
    """

    lines: tuple[str, ...]
    logical: tuple[LogicalLine, ...]
    escape: str
    directives: dict[str, str] = field(default_factory=dict)
    empty_continuations: tuple[int, ...] = ()


def read_source(content: bytes) -> Source:
    """Errors: DockerfileError for bad directives, unfinished here-documents, too long files."""
    if len(content) > MAX_BYTES:
        raise DockerfileError(f"the Dockerfile has {len(content)} bytes, the limit is {MAX_BYTES}")
    # whatever bytes a file has come through to the shell that will read them
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DockerfileError("a NUL byte in the Dockerfile", line=line)
    physical = [line.removesuffix("\r") for line in text.split("\n")]
    if physical and not physical[-1]:
        physical.pop()
    directives, start = _directives(physical)
    escape = directives.get("escape", "\\")
    reader = _Reader(physical, escape)
    logical = reader.read(start)
    return Source(tuple(physical), tuple(logical), escape, directives, tuple(reader.empty))


def _directives(lines: list[str]) -> tuple[dict[str, str], int]:
    """(values, index of the first line after them)."""
    found: dict[str, str] = {}
    for index, line in enumerate(lines):
        if index == 0 and line.startswith("#!"):
            continue
        match = _DIRECTIVE.match(line.strip())
        if match is None or match[1].lower() not in _DIRECTIVES:
            return found, index
        name = match[1].lower()
        if name in found:
            raise DockerfileError(f"only one {name} parser directive can be used", line=index + 1, column=1, text=line)
        if name == "escape" and match[2] not in ("\\", "`"):
            raise DockerfileError(
                f"invalid escape token '{match[2]}' does not match ` or \\",
                line=index + 1,
                column=line.find(match[2]) + 1,
                text=line,
            )
        found[name] = match[2]
    return found, len(lines)


class _Reader:
    def __init__(self, lines: list[str], escape: str) -> None:
        self._lines = lines
        self._escape = escape
        token = re.escape(escape)
        self._continued = re.compile(rf"(?:(?<=[^{token}])|^){token}[ \t]*\Z")
        self.empty: list[int] = []

    def read(self, index: int) -> list[LogicalLine]:
        found: list[LogicalLine] = []
        comment: list[str] = []
        while index < len(self._lines):
            line = self._lines[index]
            stripped = line.strip()
            if not stripped:
                comment.clear()
                index += 1
            elif stripped.startswith("#"):
                comment.append(stripped[1:].strip())
                index += 1
            else:
                logical, index = self._one(index, "\n".join(comment))
                comment.clear()
                if logical.text.strip():
                    found.append(logical)
        return found

    def _one(self, index: int, comment: str) -> tuple[LogicalLine, int]:
        start = index
        text, goes_on = self._cut(self._lines[index].lstrip())
        index += 1
        while goes_on and index < len(self._lines):
            line = self._lines[index]
            index += 1
            if line.lstrip().startswith("#"):
                continue
            if not line.strip():
                self.empty.append(index)
                continue
            more, goes_on = self._cut(line)
            text += more
        logical = LogicalLine(start + 1, index, text, self._lines[start], comment=comment)
        heredocs: list[Heredoc] = []
        for marked in _marks(text, self._escape):
            heredoc, index = self._heredoc(marked, index, logical)
            heredocs.append(heredoc)
        if heredocs:
            logical = LogicalLine(start + 1, index, text, self._lines[start], tuple(heredocs), comment)
        return logical, index

    def _cut(self, line: str) -> tuple[str, bool]:
        """(the line without its continuation mark, whether it had one)."""
        match = self._continued.search(line)
        return (line[: match.start()], True) if match else (line, False)

    def _heredoc(self, mark: Heredoc, index: int, logical: LogicalLine) -> tuple[Heredoc, int]:
        content: list[str] = []
        while index < len(self._lines):
            line = self._lines[index]
            index += 1
            if (line.lstrip("\t") if mark.chomp else line) == mark.name:
                text = "".join(item + "\n" for item in content)
                return Heredoc(mark.name, text, mark.expand, mark.chomp, mark.descriptor), index
            content.append(line)
        raise logical.error(f"unterminated heredoc: no line is {mark.name!r}", "<<")


def _marks(text: str, escape: str) -> list[Heredoc]:
    """The here-documents that an instruction opens, without content."""
    if "<<" not in text:
        return []
    word, rest = _first_word(text)
    if word.upper() == "ONBUILD":
        word, rest = _first_word(rest)
    if word.upper() not in _WITH_HEREDOCS:
        return []
    try:
        words = raw_words(rest, escape)
    except WordError:
        return []
    found = []
    for item in words:
        mark = heredoc_mark(item, escape)
        if mark is not None:
            found.append(mark)
    return found


def _first_word(text: str) -> tuple[str, str]:
    """(the first word, what follows it)."""
    match = re.match(r"\s*(\S*)\s*", text)
    assert match is not None
    return match[1], text[match.end() :]


def heredoc_mark(word: str, escape: str = "\\") -> Heredoc | None:
    """What ``<<EOF`` opens; None for any other word."""
    match = _HEREDOC.match(word)
    if match is None or not match[3]:
        return None
    try:
        names = unquote(match[3], escape)
    except WordError:
        return None
    if len(names) != 1 or not names[0]:
        return None
    return Heredoc(names[0], "", names[0] == match[3], match[2] == "-", int(match[1] or 0))

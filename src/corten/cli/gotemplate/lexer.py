"""A template's text, cut into plain text and the tokens of actions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from corten.cli.gotemplate.values import TemplateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<raw>`[^`]*`)
  | (?P<char>'(?:[^'\\\n]|\\.)+')
  | (?P<number>[+-]?(?:
        0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+ | (?:[0-9][0-9_]*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?
    ))
  | (?P<field>\.[^\W\d]\w*)
  | (?P<variable>\$\w*)
  | (?P<dot>\.)
  | (?P<word>[^\W\d]\w*)
  | (?P<declare>:=)
  | (?P<symbol>[=|(),])
    """,
    re.VERBOSE,
)


class Token:
    """One token: ``kind`` is a group of the pattern above, "text", or "end" for the end of an action.

    value:  of literals
    line:   for messages
    spaced: white space stands before it
    """

    __slots__ = ("kind", "line", "position", "spaced", "text", "value")

    def __init__(
        self, kind: str, text: str, line: int, position: int, *, value: Any = None, spaced: bool = False
    ) -> None:
        self.kind = kind
        self.text = text
        self.line = line
        self.position = position
        self.value = value
        self.spaced = spaced


def failure(line: int, what: str) -> TemplateError:
    """An error of the parser, in the form that Go gives it."""
    return TemplateError(f"template: :{line}: {what}")


def _unquote(body: str, line: int) -> str:
    escapes = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\"}
    pieces: list[str] = []
    position = 0
    while position < len(body):
        character = body[position]
        position += 1
        if character != "\\":
            pieces.append(character)
            continue
        kind = body[position]
        position += 1
        if kind in escapes:
            pieces.append(escapes[kind])
        elif kind in "\"'":
            pieces.append(kind)
        elif kind in "xuU":
            width = {"x": 2, "u": 4, "U": 8}[kind]
            digits = body[position : position + width]
            position += width
            try:
                pieces.append(chr(int(digits, 16)) if len(digits) == width else "")
            except (ValueError, OverflowError):
                raise failure(line, f'invalid syntax: "{body}"') from None
        elif kind in "01234567":
            digits = body[position - 1 : position + 2]
            position += 2
            try:
                pieces.append(chr(int(digits, 8)))
            except ValueError:
                raise failure(line, f'invalid syntax: "{body}"') from None
        else:
            raise failure(line, f'invalid syntax: "{body}"')
    return "".join(pieces)


def _number(text: str, line: int) -> int | float:
    plain = text.replace("_", "")
    try:
        return int(plain, 0)
    except ValueError:
        pass
    try:
        return float(plain)
    except ValueError:
        raise failure(line, f'bad number syntax: "{text}"') from None


def _literal(kind: str, text: str, line: int) -> Any:
    if kind == "string":
        return _unquote(text[1:-1], line)
    if kind == "raw":
        return text[1:-1]
    if kind == "char":
        value = _unquote(text[1:-1], line)
        if len(value) != 1:
            raise failure(line, f"malformed character constant: {text}")
        return ord(value)
    if kind == "number":
        return _number(text, line)
    return None


def _action(text: str, start: int, line: int) -> tuple[list[Token], int]:
    """The tokens of the action whose inside begins at ``start``, and where its closing braces begin."""
    tokens: list[Token] = []
    position = start
    spaced = False
    while True:
        if text.startswith("}}", position):
            return tokens, position
        trimming = text[position : position + 1] in _SPACE and text[position : position + 1]
        if trimming and text.startswith("-}}", len(text) - len(text[position:].lstrip(_SPACE))):
            return tokens, len(text) - len(text[position:].lstrip(_SPACE))
        match = _TOKEN.match(text, position)
        if match is None:
            if position >= len(text):
                raise failure(line, "unclosed action")
            character = text[position]
            if character in "\"'":
                raise failure(
                    line, "unterminated quoted string" if character == '"' else "unterminated character constant"
                )
            if character == "`":
                raise failure(line, "unterminated raw quoted string")
            raise failure(
                line,
                f'unexpected "{character}" in operand'
                if character == "}"
                else f"unexpected bad character {character!r} in command",
            )
        kind = match.lastgroup or ""
        if kind == "space":
            spaced = True
        else:
            tokens.append(Token(kind, match[0], line, position, value=_literal(kind, match[0], line), spaced=spaced))
            spaced = False
        line += match[0].count("\n")
        position = match.end()


def tokens(template: str) -> Iterator[Token]:
    """All tokens; each action ends with one of kind "end".

    Errors: TemplateError.
    """
    position = 0
    line = 1
    trim_next = False
    while True:
        start = template.find("{{", position)
        text = template[position:] if start < 0 else template[position:start]
        lines = text.count("\n")
        if trim_next:
            text = text.lstrip(_SPACE)
        trim_this = (
            start >= 0 and template.startswith("-", start + 2) and template[start + 3 : start + 4] in tuple(_SPACE)
        )
        if trim_this:
            text = text.rstrip(_SPACE)
        if text:
            yield Token("text", text, line, position)
        if start < 0:
            return
        line += lines
        inside = start + (3 if trim_this else 2)
        comment = len(template) - len(template[inside:].lstrip(_SPACE)) if trim_this else inside
        if template.startswith("/*", comment):
            position, trim_next, line = _comment(template, comment, line)
            continue
        found, closing = _action(template, inside, line)
        yield from found
        line += template.count("\n", start, closing)
        trim_next = template.startswith("-", closing)
        position = closing + (3 if trim_next else 2)
        yield Token("end", "}}", line, closing)


def _comment(template: str, start: int, line: int) -> tuple[int, bool, int]:
    end = template.find("*/", start)
    if end < 0:
        raise failure(line, "unclosed comment")
    line += template.count("\n", start, end)
    rest = template[end + 2 :]
    if rest.startswith("}}"):
        return end + 4, False, line
    stripped = rest.lstrip(_SPACE)
    if stripped.startswith("-}}") and len(stripped) < len(rest):
        return len(template) - len(stripped) + 3, True, line
    raise failure(line, "comment ends before closing delimiter")

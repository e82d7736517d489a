"""Words: apart at blanks, without quotes and escapes, with variables replaced as a shell does it.

Source: Dockerfile reference, "Environment replacement".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from corten.errors import InvalidParameter

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]|[@*#]")
_MAX_VALUE = 1 << 20
_MAX_DEPTH = 64


class WordError(InvalidParameter):
    """A word with an unfinished quote or a substitution that does not exist."""


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """The value of one word.

    Errors: WordError, also for ``${name:?message}`` of a missing name.
    """
    return _Reader(text, variables, escape).word()


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """The same, apart at blanks that are not quoted; values of variables are taken apart as well."""
    return _Reader(text, variables, escape).words()


def expand_heredoc(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Variables and escapes in a here-document: quotes are ordinary letters there."""
    return _Reader(text, variables, escape, quotes=False).word()


def raw_words(text: str, escape: str = "\\") -> list[str]:
    """Words apart, quotes and escapes still in them.  Errors: WordError for an unfinished quote."""
    words: list[str] = []
    word = quote = ""
    began = False
    position = 0
    while position < len(text):
        letter = text[position]
        if letter == escape and quote != "'" and position + 1 < len(text):
            word += text[position : position + 2]
            began = True
            position += 2
            continue
        position += 1
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter.isspace():
            if began:
                words.append(word)
            word, began = "", False
            continue
        word += letter
        began = True
    if quote:
        raise WordError(f"unexpected end of statement while looking for matching {_QUOTES[quote]}")
    if began:
        words.append(word)
    return words


def unquote(text: str, escape: str = "\\") -> list[str]:
    """Words without quotes and escapes, ``$`` left alone."""
    return _Reader(text, {}, escape, variables_too=False).words()


_QUOTES = {"'": "single-quote", '"': "double-quote"}


class _Reader:
    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        escape: str,
        *,
        quotes: bool = True,
        variables_too: bool = True,
        raw_escapes: bool = False,
    ) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._quotes = quotes
        self._variables_too = variables_too
        self._raw_escapes = raw_escapes
        self._position = 0
        self._depth = 0

    def word(self) -> str:
        return self._bounded("".join(part for part, _ in self._parts("")))

    def words(self) -> list[str]:
        words: list[str] = []
        word: list[str] = []
        for part, literal in self._parts(""):
            if literal:
                word.append(part)
                continue
            for piece in re.split(r"(\s+)", part):
                if piece and not piece.isspace():
                    word.append(piece)
                elif piece and word:
                    words.append("".join(word))
                    word = []
        if word:
            words.append("".join(word))
        return words

    @staticmethod
    def _bounded(value: str) -> str:
        if len(value) > _MAX_VALUE:
            raise WordError(f"a value of more than {_MAX_VALUE} characters")
        return value

    def _parts(self, stop: str) -> Iterable[tuple[str, bool]]:
        """(text, whether it was quoted or escaped) up to ``stop`` or the end."""
        text = self._text
        total = 0
        while self._position < len(text):
            letter = text[self._position]
            if stop and letter == stop:
                self._position += 1
                return
            if self._quotes and letter == "'":
                part, literal = self._single(), True
            elif self._quotes and letter == '"':
                part, literal = self._double(), True
            elif letter == "$" and self._variables_too:
                part, literal = self._dollar(), False
            elif letter == self._escape:
                part, literal = self._escaped(), True
            else:
                self._position += 1
                part, literal = letter, False
            total += len(part)
            if total > _MAX_VALUE:
                raise WordError(f"a value of more than {_MAX_VALUE} characters")
            yield part, literal
        if stop:
            raise WordError(f"unexpected end of statement while looking for matching {stop}")

    def _escaped(self) -> str:
        text = self._text[self._position : self._position + 2]
        self._position += 2
        if self._raw_escapes:
            return text
        if not self._quotes and len(text) == 2 and text[1] not in "$" + self._escape:
            return text  # in a here-document an escape means itself but before what it can escape
        return text[1:]

    def _single(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            raise WordError("unexpected end of statement while looking for matching single-quote")
        part = self._text[self._position + 1 : end]
        self._position = end + 1
        return part

    def _double(self) -> str:
        self._position += 1
        text = self._text
        parts: list[str] = []
        while self._position < len(text):
            letter = text[self._position]
            if letter == '"':
                self._position += 1
                return "".join(parts)
            if letter == "$" and self._variables_too:
                parts.append(self._dollar())
                continue
            if letter == self._escape and text[self._position + 1 : self._position + 2] in ('"', "$", self._escape):
                if self._raw_escapes:
                    parts.append(letter)
                self._position += 1
            parts.append(text[self._position : self._position + 1])
            self._position += 1
        raise WordError("unexpected end of statement while looking for matching double-quote")

    # -- variables ----------------------------------------------------------------------------------------------------

    def _dollar(self) -> str:
        text = self._text
        if text[self._position + 1 : self._position + 2] != "{":
            match = _NAME.match(text, self._position + 1)
            if match is None:
                self._position += 1
                return "$"
            self._position = match.end()
            return self._variables.get(match[0], "")
        match = _NAME.match(text, self._position + 2)
        if match is None:
            raise WordError("syntax error: bad substitution")
        self._position = match.end()
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise WordError("substitutions are nested too deeply")
        value = self._modified(match[0])
        self._depth -= 1
        return value

    def _next(self) -> str:
        letter = self._text[self._position : self._position + 1]
        if not letter:
            raise WordError("syntax error: missing '}'")
        self._position += 1
        return letter

    def _until(self, stop: str, *, raw: bool = False) -> str:
        before, self._raw_escapes = self._raw_escapes, raw
        try:
            return "".join(part for part, _ in self._parts(stop))
        finally:
            self._raw_escapes = before

    def _modified(self, name: str) -> str:
        known = self._variables.get(name)
        modifier = self._next()
        if modifier == "}":
            return known or ""
        if modifier in "#%":
            greedy = self._text[self._position : self._position + 1] == modifier
            if greedy:
                self._position += 1
            pattern = self._until("}", raw=True)
            return _trimmed(known or "", pattern, self._escape, suffix=modifier == "%", greedy=greedy)
        if modifier == "/":
            everywhere = self._text[self._position : self._position + 1] == "/"
            if everywhere:
                self._position += 1
            pattern = self._until("/", raw=True)
            replacement = self._until("}")
            expression = _pattern(pattern, self._escape, greedy=True)
            return expression.sub(lambda _: replacement, known or "", count=0 if everywhere else 1)
        empty_is_unset = modifier == ":"
        if empty_is_unset:
            modifier = self._next()
        if modifier not in "+-?":
            shown = f":{modifier}" if empty_is_unset else modifier
            raise WordError(f"unsupported modifier ({shown}) in substitution")
        word = self._until("}")
        is_set = bool(known) if empty_is_unset else known is not None
        if modifier == "+":
            return word if is_set else ""
        if modifier == "-":
            return (known or "") if is_set else word
        if not is_set:
            raise WordError(
                f"{name}: {word or ('not allowed to be empty' if known == '' else 'not allowed to be unset')}"
            )
        return known or ""


def _pattern(pattern: str, escape: str, *, greedy: bool, start: str = "") -> re.Pattern[str]:
    """A shell pattern (``*``, ``?``, escapes) as a regular expression.  Without alternatives it cannot explode badly:

    runs of ``*`` count once.
    """
    return re.compile(start + "".join(_tokens(pattern, escape, greedy=greedy)), re.DOTALL)


def _tokens(pattern: str, escape: str, *, greedy: bool) -> list[str]:
    tokens: list[str] = []
    star = ".*" if greedy else ".*?"
    position = 0
    while position < len(pattern):
        letter = pattern[position]
        position += 1
        if letter == "*":
            if not tokens or tokens[-1] != star:
                tokens.append(star)
        elif letter == "?":
            tokens.append(".")
        elif letter == escape and position < len(pattern):
            tokens.append(re.escape(pattern[position]))
            position += 1
        else:
            tokens.append(re.escape(letter))
    if tokens.count(star) > 8:
        raise WordError("a pattern with more than eight stars")
    return tokens


def _trimmed(value: str, pattern: str, escape: str, *, suffix: bool, greedy: bool) -> str:
    tokens = _tokens(pattern, escape, greedy=greedy)
    if suffix:  # the shortest match at the end is the shortest one at the beginning of the reversed text
        match = re.match("".join(reversed(tokens)), value[::-1], re.DOTALL)
        return value[: len(value) - match.end()] if match else value
    match = re.match("".join(tokens), value, re.DOTALL)
    return value[match.end() :] if match else value

"""Options of commands, with the grammar of Docker's command line.

``-it``, ``-e=x``, ``-ex``, ``--rm=false``, ``--`` and options that end at the first argument are read as Docker's
tools read them.  ``argparse`` and ``click`` know no ``--sig-proxy=false`` beside ``--sig-proxy``, and importing
``click`` takes as long as a whole ``corten ps``.  Source of the grammar: the documentation of Go's ``pflag``.
"""

from __future__ import annotations

from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs 3 ms at start-up
    from collections.abc import Callable, Iterable
    from typing import Any

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


class BadValue(ValueError):
    """A value that its option does not take; the text says why."""


class UsageError(InvalidParameter):
    """The command line itself is wrong (exit code 125)."""


class HelpRequested(Exception):
    """``--help`` was given."""


class Flag:
    """One option.

    short:   its letter, or nothing
    metavar: the kind of value shown in the help; nothing for a switch
    read:    makes a value of the text; raises BadValue
    many:    may be repeated and gathers a list
    shown:   the default as the help shows it
    """

    __slots__ = ("default", "hidden", "many", "metavar", "name", "read", "short", "shown", "summary")

    def __init__(
        self,
        name: str,
        short: str,
        summary: str,
        *,
        metavar: str,
        read: Callable[[str], Any],
        default: Any,
        many: bool = False,
        hidden: bool = False,
        shown: str = "",
    ) -> None:
        self.name = name
        self.short = short
        self.summary = summary
        self.metavar = metavar
        self.read = read
        self.default = default
        self.many = many
        self.hidden = hidden
        self.shown = shown

    @property
    def is_switch(self) -> bool:
        return not self.metavar

    @property
    def title(self) -> str:
        """ "-a, --all", as messages name it."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"


def _read_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadValue(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def read_integer(text: str) -> int:
    """A 64-bit integer in Go's notation (0x1f, 0o17, 0b1, 1_000).  Errors: BadValue."""
    digits = text.lstrip("+-") if len(text) - len(text.lstrip("+-")) <= 1 else ""
    try:
        if not digits or not digits.isascii() or digits != digits.strip():
            raise ValueError
        old_octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
        value = int(text, 8) if old_octal else int(text, 0)
    except ValueError:
        raise BadValue(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if not -(1 << 63) <= value < 1 << 63:
        raise BadValue(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def switch(name: str, short: str, summary: str, *, default: bool = False, hidden: bool = False) -> Flag:
    """An option without a value, or with ``=true`` or ``=false``."""
    return Flag(
        name,
        short,
        summary,
        metavar="",
        read=_read_bool,
        default=default,
        hidden=hidden,
        shown="true" if default else "",
    )


def text(
    name: str, short: str, summary: str, *, default: str = "", metavar: str = "string", hidden: bool = False
) -> Flag:
    """An option with a text."""
    return Flag(
        name,
        short,
        summary,
        metavar=metavar,
        read=str,
        default=default,
        hidden=hidden,
        shown=f'"{default}"' if default else "",
    )


def integer(name: str, short: str, summary: str, *, default: int = 0, hidden: bool = False) -> Flag:
    """An option with a 64-bit integer."""
    return Flag(
        name,
        short,
        summary,
        metavar="int",
        read=read_integer,
        default=default,
        hidden=hidden,
        shown=str(default) if default else "",
    )


def single(
    name: str,
    short: str,
    summary: str,
    read: Callable[[str], Any],
    *,
    metavar: str,
    default: Any = None,
    hidden: bool = False,
) -> Flag:
    """An option with a value of its own kind; of several the last counts."""
    return Flag(name, short, summary, metavar=metavar, read=read, default=default, hidden=hidden)


def many(
    name: str,
    short: str,
    summary: str,
    read: Callable[[str], Any] = str,
    *,
    metavar: str = "list",
    hidden: bool = False,
) -> Flag:
    """An option that may be repeated."""
    return Flag(name, short, summary, metavar=metavar, read=read, default=None, many=True, hidden=hidden)


class Options:
    """What was given on a command line."""

    __slots__ = ("_flags", "_given", "_values")

    def __init__(self, flags: Iterable[Flag]) -> None:
        self._flags = {flag.name: flag for flag in flags}
        self._values: dict[str, Any] = {}
        self._given: set[str] = set()

    def put(self, flag: Flag, text: str) -> None:
        """Take a value.  Errors: UsageError."""
        try:
            value = flag.read(text)
        except BadValue as error:
            raise UsageError(f'invalid argument "{text}" for "{flag.title}" flag: {error}') from None
        self._given.add(flag.name)
        if flag.many:
            self._values.setdefault(flag.name, []).append(value)
        else:
            self._values[flag.name] = value

    def is_given(self, name: str) -> bool:
        """Whether the option was on the command line, with whatever value."""
        return name in self._given

    @property
    def is_empty(self) -> bool:
        """No option was given at all."""
        return not self._given

    def value(self, name: str) -> Any:
        """The value or the default."""
        return self._values[name] if name in self._values else self._flags[name].default

    def switch(self, name: str) -> bool:
        return bool(self.value(name))

    def text(self, name: str) -> str:
        return str(self.value(name))

    def integer(self, name: str) -> int:
        return int(self.value(name))

    def many(self, name: str) -> list[Any]:
        """Every value that was given, in order."""
        return list(self._values.get(name, ()))


class _Parser:
    def __init__(self, flags: Iterable[Flag], *, interspersed: bool) -> None:
        flags = tuple(flags)
        self._long = {flag.name: flag for flag in flags}
        self._short = {flag.short: flag for flag in flags if flag.short}
        self._interspersed = interspersed
        self.options = Options(flags)
        self.arguments: list[str] = []

    def parse(self, words: list[str]) -> None:
        position = 0
        while position < len(words):
            word = words[position]
            position += 1
            if word == "--":
                self.arguments += words[position:]
                return
            if word.startswith("--"):
                position += self._long_option(word, words[position:])
            elif word.startswith("-") and word != "-":
                position += self._short_options(word, words[position:])
            elif self._interspersed:
                self.arguments.append(word)
            else:
                self.arguments += [word, *words[position:]]
                return

    def _long_option(self, word: str, following: list[str]) -> int:
        name, equals, value = word[2:].partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        flag = self._long.get(name)
        if flag is None:
            if name == "help":
                raise HelpRequested
            raise UsageError(f"unknown flag: --{name}")
        if equals:
            self.options.put(flag, value)
            return 0
        if flag.is_switch:
            self.options.put(flag, "true")
            return 0
        if not following:
            raise UsageError(f"flag needs an argument: {word}")
        self.options.put(flag, following[0])
        return 1

    def _short_options(self, word: str, following: list[str]) -> int:
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flag = self._short.get(letter)
            if flag is None:
                if letter == "h":
                    raise HelpRequested
                raise UsageError(f"unknown shorthand flag: {letter!r} in {word}")
            if letters.startswith("=") and len(letters) > 1:
                self.options.put(flag, letters[1:])
                return 0
            if flag.is_switch:
                self.options.put(flag, "true")
            elif letters:
                self.options.put(flag, letters)
                return 0
            elif following:
                self.options.put(flag, following[0])
                return 1
            else:
                raise UsageError(f"flag needs an argument: {letter!r} in {word}")
        return 0


def parse(flags: Iterable[Flag], words: list[str], *, interspersed: bool = True) -> tuple[Options, list[str]]:
    """Options and arguments of a command line.

    interspersed: options may stand between arguments; without it they end at the first argument

    Errors: UsageError; HelpRequested for ``--help``, and ``-h`` where that is no option.
    """
    parser = _Parser(flags, interspersed=interspersed)
    parser.parse(words)
    return parser.options, parser.arguments

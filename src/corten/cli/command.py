"""What a command is: its options, its arguments, and the function behind it."""

from __future__ import annotations

from corten.cli.flags import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from corten.cli.context import Context
    from corten.cli.flags import Flag, Options

    Run = Callable[[Context, Options, list[str]], int | None]


class Command:
    """One command; what it is called is in ``registry``, because most commands have two names.

    usage:        what follows the name, e.g. "[OPTIONS] CONTAINER"
    least, most:  numbers of arguments; None for no upper bound
    sections:     further options, under titles of their own in the help
    interspersed: options may stand between arguments
    examples:     lines for the help, without the leading "corten"
    """

    __slots__ = ("description", "examples", "flags", "interspersed", "least", "most", "run", "sections", "usage")

    def __init__(
        self,
        run: Run,
        usage: str,
        flags: Sequence[Flag] = (),
        *,
        sections: Mapping[str, Sequence[Flag]] | None = None,
        least: int = 0,
        most: int | None = 0,
        interspersed: bool = True,
        description: str = "",
        examples: Sequence[str] = (),
    ) -> None:
        self.run = run
        self.usage = usage
        self.sections = {"": tuple(flags), **(sections or {})}
        self.flags = tuple(flag for section in self.sections.values() for flag in section)
        self.least = least
        self.most = most
        self.interspersed = interspersed
        self.description = description
        self.examples = tuple(examples)

    def check_count(self, name: str, count: int) -> None:
        """Errors: ArgumentCount when ``count`` arguments do not fit."""
        if self.least <= count and (self.most is None or count <= self.most):
            return
        if self.most == 0:
            wanted = "accepts no arguments"
        elif self.most is None:
            wanted = f"requires at least {_arguments(self.least)}"
        elif self.least == self.most:
            wanted = f"requires {_arguments(self.least)}"
        elif count < self.least:
            wanted = f"requires at least {_arguments(self.least)}"
        else:
            wanted = f"requires at most {_arguments(self.most)}"
        raise ArgumentCount(f"'corten {name}' {wanted}")


class ArgumentCount(UsageError):
    """Too few or too many arguments (exit code 1, as Docker's tools have it)."""


def _arguments(count: int) -> str:
    return "1 argument" if count == 1 else f"{count} arguments"

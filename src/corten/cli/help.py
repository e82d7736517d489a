"""Help texts: made of the registry and of the commands' options."""

from __future__ import annotations

from corten.cli import registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from corten.cli.command import Command
    from corten.cli.flags import Flag

_WIDTH = 100


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    pairs = list(pairs)
    column = max((len(left) for left, _ in pairs), default=0) + 3
    lines = []
    for left, right in pairs:
        first, *others = _wrapped(right, max(_WIDTH - column - 2, 30))
        lines.append(f"  {left:<{column}}{first}".rstrip())
        lines += [" " * (column + 2) + line for line in others]
    return "\n".join(lines) + "\n"


def _options(flags: Iterable[Flag]) -> str:
    pairs = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        if flag.hidden:
            continue
        left = f"-{flag.short}, " if flag.short else "    "
        left += f"--{flag.name}" + (f" {flag.metavar}" if flag.metavar else "")
        pairs.append((left, flag.summary + (f" (default {flag.shown})" if flag.shown else "")))
    return _rows(pairs)


def overview(flags: Iterable[Flag]) -> str:
    """``corten --help``."""
    single = [name for name in (*registry.ALIASES, *registry.COMMANDS) if " " not in name]
    others = sorted(name for name in single if name not in registry.COMMON)
    return (
        "Usage:  corten [OPTIONS] COMMAND\n\n"
        "Containers on Linux, straight on the kernel's own features\n\n"
        "Common Commands:\n"
        + _rows((name, registry.summary_of(name)) for name in registry.COMMON)
        + "\nManagement Commands:\n"
        + _rows((name, summary) for name, summary in registry.GROUPS.items() if " " not in name)
        + "\nCommands:\n"
        + _rows((name, registry.summary_of(name)) for name in others)
        + "\nGlobal Options:\n"
        + _options(flags)
        + "\nExamples:\n"
        "  corten run -it --rm host bash        a shell in a container made of this machine's own root\n"
        "  corten ps -a                         every container\n"
        "  corten logs -f --tail 20 NAME        the end of a log, and what follows\n"
        "\nRun 'corten COMMAND --help' for more information on a command.\n"
    )


def group(name: str) -> str:
    """``corten container --help``."""
    return (
        f"Usage:  corten {name} COMMAND\n\n{registry.GROUPS[name]}\n\nCommands:\n"
        + _rows(registry.members(name))
        + f"\nRun 'corten {name} COMMAND --help' for more information on a command.\n"
    )


def command(name: str, command: Command) -> str:
    """``corten run --help``."""
    text = f"Usage:  corten {name} {command.usage}".rstrip() + f"\n\n{registry.summary_of(name)}\n"
    if command.description:
        text += "\n" + "\n".join(_wrapped(command.description, _WIDTH)) + "\n"
    names = registry.names_of(name)
    if len(names) > 1:
        text += "\nAliases:\n  " + ", ".join(f"corten {each}" for each in names) + "\n"
    for title, flags in command.sections.items():
        if any(not flag.hidden for flag in flags):
            text += f"\n{title} Options:\n" if title else "\nOptions:\n"
            text += _options(flags)
    if command.examples:
        text += "\nExamples:\n" + "".join(f"  corten {example}\n" for example in command.examples)
    return text

"""``top``: the processes of a container as ``ps`` on the host would list them, read from /proc.

No program is executed: neither the host's ``ps`` nor, as some engines did (CVE-2022-1227), the container's.
"""

from __future__ import annotations

import re
from typing import Any

from corten.engine.processes import Process, Show, column
from corten.errors import InvalidParameter

Column = tuple[str, Show]

# the layouts of ps(1): "column" or "column=TITLE"
_LAYOUTS = {
    "-f": "user=UID pid ppid c stime tty=TTY time args=CMD",
    "-F": "user=UID pid ppid c sz rss psr stime tty=TTY time args=CMD",
    "-l": "f s uid pid ppid c opri ni addr sz wchan tty=TTY time comm=CMD",
    "-lf": "f s user=UID pid ppid c opri ni addr sz wchan stime tty=TTY time args=CMD",
    "-j": "pid pgid sid tty=TTY time comm=CMD",
    "-": "pid tty=TTY time comm=CMD",
    "u": "user pid %cpu %mem vsz rss tty=TTY stat bsdstart bsdtime args",
    "l": "f uid pid ppid intpri ni vsz rss wchan stat tty=TTY bsdtime args",
    "j": "ppid pid pgid sid tty=TTY tpgid stat uid bsdtime args",
    "": "pid tty=TTY stat bsdtime args",
}
# all processes of the container are listed in full width anyway
_SELECTIONS = {"-": frozenset("eAadw"), "": frozenset("axw")}
_FORMAT_OPTIONS = {"-": frozenset("fFlj"), "": frozenset("ulj")}


def columns_of(ps_args: str) -> list[Column]:
    """The columns that arguments of ``ps`` ask for.  Errors: InvalidParameter for what is not understood."""
    words = ps_args.split() or ["-ef"]
    formats: list[str] = []
    layouts: set[str] = set()
    dashes: set[str] = set()
    while words:
        word = words.pop(0)
        if word == "--format" or word.startswith("--format="):
            formats.append(_argument(word.partition("=")[2], words, ps_args))
            continue
        dash = "-" if word.startswith("-") else ""
        dashes.add(dash)
        letters = word.removeprefix("-")
        if not letters or letters.startswith("-"):
            raise _unsupported(word)
        for position, letter in enumerate(letters):
            if letter == "o":
                formats.append(_argument(letters[position + 1 :], words, ps_args))
                break
            if letter in _FORMAT_OPTIONS[dash]:
                layouts.add(dash + letter)
            elif letter not in _SELECTIONS[dash]:
                raise _unsupported(word)
    if formats:
        if layouts:
            raise InvalidParameter(f"ps: error: conflicting format options: {ps_args}")
        return _chosen(",".join(formats))
    if layouts == {"-l", "-f"}:
        layouts = {"-lf"}
    if len(layouts) > 1:
        raise InvalidParameter(f"ps: error: conflicting format options: {ps_args}")
    return _layout(layouts.pop() if layouts else "-" if dashes == {"-"} else "")


def _unsupported(word: str) -> InvalidParameter:
    return InvalidParameter(
        f"ps: error: unsupported option '{word}': use -ef, -l, -F, -j, aux, l, j or -o with columns"
    )


def _argument(attached: str, words: list[str], ps_args: str) -> str:
    if attached:
        return attached
    if not words:
        raise InvalidParameter(f"ps: error: format specification must follow -o: {ps_args}")
    return words.pop(0)


def _chosen(text: str) -> list[Column]:
    chosen = []
    for item in filter(None, re.split(r"[,\s]", text)):
        name, equals, title = item.partition("=")
        found = column(name)
        if found is None:
            raise InvalidParameter(f'ps: error: unknown user-defined format specifier "{name}"')
        chosen.append((title, found[1]) if equals else found)
    if not chosen:
        raise InvalidParameter("ps: error: empty format list")
    return chosen


def _layout(name: str) -> list[Column]:
    return _chosen(_LAYOUTS[name])


def processes(pids: list[int], ps_args: str) -> dict[str, Any]:
    """``{"Titles": […], "Processes": [[…]]}``, by process id.  Errors: InvalidParameter."""
    columns = columns_of(ps_args)
    found = [process for pid in sorted(pids) if (process := Process.read(pid)) is not None]
    return {
        "Titles": [title for title, _ in columns],
        "Processes": [[show(process) for _, show in columns] for process in found],
    }

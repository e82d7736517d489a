"""``top``: the processes of a container as ``ps`` on the host would list them, read from /proc.

No program is executed: neither the host's ``ps`` nor, as some engines did (CVE-2022-1227), the container's.
Source: proc(5), ps(1).
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from corten.errors import InvalidParameter

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    uid: int
    stat: list[str]  # fields of /proc/<pid>/stat from the state on
    name: str
    arguments: str

    @property
    def parent(self) -> int:
        return int(self.stat[1])

    @property
    def cpu_s(self) -> float:
        return (int(self.stat[11]) + int(self.stat[12])) / _TICKS

    @property
    def age_s(self) -> float:
        return max(0.001, time.clock_gettime(time.CLOCK_BOOTTIME) - int(self.stat[19]) / _TICKS)

    @property
    def rss(self) -> int:
        return int(self.stat[21]) * _PAGE


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read().decode(errors="replace")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        uid = os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has ended since the list was made
    name = line[line.index("(") + 1 : line.rindex(")")]
    return Process(pid, uid, line[line.rindex(")") + 2 :].split(), name, arguments or f"[{name}]")


def _user(process: Process) -> str:
    try:
        return pwd.getpwuid(process.uid).pw_name
    except KeyError:
        return str(process.uid)


def _started(process: Process) -> str:
    moment = time.localtime(time.time() - process.age_s)
    return time.strftime("%H:%M" if process.age_s < 86400 else "%b%d", moment)


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _terminal(process: Process) -> str:
    number = int(process.stat[4])
    if not number:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor}" if 136 <= major <= 143 else f"tty{minor}"


_COLUMNS: dict[str, tuple[str, Callable[[Process], str]]] = {
    "pid": ("PID", lambda process: str(process.pid)),
    "ppid": ("PPID", lambda process: str(process.parent)),
    "pgid": ("PGID", lambda process: process.stat[2]),
    "sid": ("SID", lambda process: process.stat[3]),
    "uid": ("UID", lambda process: str(process.uid)),
    "user": ("USER", _user),
    "euser": ("EUSER", _user),
    "c": ("C", lambda process: str(int(process.cpu_s * 100 / process.age_s))),
    "pcpu": ("%CPU", lambda process: f"{process.cpu_s * 100 / process.age_s:.1f}"),
    "%cpu": ("%CPU", lambda process: f"{process.cpu_s * 100 / process.age_s:.1f}"),
    "pmem": ("%MEM", lambda process: f"{process.rss * 100 / _memory():.1f}"),
    "%mem": ("%MEM", lambda process: f"{process.rss * 100 / _memory():.1f}"),
    "vsz": ("VSZ", lambda process: str(int(process.stat[20]) // 1024)),
    "rss": ("RSS", lambda process: str(process.rss // 1024)),
    "tty": ("TT", _terminal),
    "stat": ("STAT", lambda process: process.stat[0]),
    "s": ("S", lambda process: process.stat[0]),
    "state": ("S", lambda process: process.stat[0]),
    "stime": ("STIME", _started),
    "start": ("STARTED", _started),
    "time": ("TIME", lambda process: _clock(process.cpu_s)),
    "etime": ("ELAPSED", lambda process: _clock(process.age_s)),
    "etimes": ("ELAPSED", lambda process: str(int(process.age_s))),
    "ni": ("NI", lambda process: process.stat[16]),
    "nice": ("NI", lambda process: process.stat[16]),
    "pri": ("PRI", lambda process: process.stat[15]),
    "nlwp": ("NLWP", lambda process: process.stat[17]),
    "comm": ("COMMAND", lambda process: process.name),
    "ucmd": ("CMD", lambda process: process.name),
    "args": ("COMMAND", lambda process: process.arguments),
    "cmd": ("CMD", lambda process: process.arguments),
    "command": ("COMMAND", lambda process: process.arguments),
}

Column = tuple[str, Callable[[Process], str]]


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * _PAGE


def _titled(title: str, key: str) -> Column:
    return title, _COLUMNS[key][1]


_FULL: list[Column] = [
    _titled("UID", "user"), _titled("PID", "pid"), _titled("PPID", "ppid"), _titled("C", "c"), _titled("STIME", "stime"),
    _titled("TTY", "tty"), _titled("TIME", "time"), _titled("CMD", "args"),
]  # fmt: skip
_BSD: list[Column] = [
    _titled("USER", "user"), _titled("PID", "pid"), _titled("%CPU", "pcpu"), _titled("%MEM", "pmem"), _titled("VSZ", "vsz"),
    _titled("RSS", "rss"), _titled("TTY", "tty"), _titled("STAT", "stat"), _titled("START", "stime"), _titled("TIME", "time"),
    _titled("COMMAND", "args"),
]  # fmt: skip
_SHORT: list[Column] = [_titled("PID", "pid"), _titled("TTY", "tty"), _titled("TIME", "time"), _titled("CMD", "comm")]


def columns_of(ps_args: str) -> list[Column]:
    """The columns that arguments of ``ps`` ask for.  Errors: InvalidParameter for what is not understood."""
    words = ps_args.split()
    if not words:
        return _FULL
    chosen: list[Column] = []
    position = 0
    while position < len(words):
        word = words[position]
        if word in ("-o", "o", "-eo", "-Ao", "-axo", "axo", "--format"):
            position += 1
            if position == len(words):
                raise InvalidParameter(f"error parsing ps arguments '{ps_args}': a format is missing")
            chosen += _formats(words[position])
        elif word.startswith(("-o", "--format=")):
            chosen += _formats(word.removeprefix("--format=").removeprefix("-o"))
        elif word in ("-ef", "-f", "-Af", "-aef"):
            chosen = chosen or list(_FULL)
        elif word in ("aux", "-aux", "u", "ux", "axu"):
            chosen = chosen or list(_BSD)
        elif word in ("-e", "-A", "-a", "-x", "ax", "a", "x", "-ax", "-ww", "ww", "-w", "w"):
            pass  # all processes are listed, in full width, anyway
        else:
            raise InvalidParameter(f"ps: unsupported option '{word}': -ef, aux and -o with columns are")
        position += 1
    return chosen or list(_SHORT)


def _formats(text: str) -> list[Column]:
    chosen = []
    for item in text.split(","):
        name, equals, title = item.partition("=")
        if name not in _COLUMNS:
            raise InvalidParameter(f"error: unknown user-defined format specifier \"{name}\"")
        column = _COLUMNS[name]
        chosen.append((title, column[1]) if equals else column)
    return chosen


def processes(pids: list[int], ps_args: str) -> dict[str, Any]:
    """``{"Titles": […], "Processes": [[…]]}``."""
    columns = columns_of(ps_args)
    found = [process for pid in pids if (process := _read(pid)) is not None]
    return {"Titles": [title for title, _ in columns], "Processes": [[show(process) for _, show in columns] for process in found]}

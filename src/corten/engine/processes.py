"""A process as ``ps`` describes it, read from /proc: one function for each column.

Source: ps(1), proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import time
from collections.abc import Callable

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEMORY = os.sysconf("SC_PHYS_PAGES") * _PAGE
_DAY_S = 86400
_CLASSES = {0: "TS", 1: "FF", 2: "RR", 3: "B", 4: "ISO", 5: "IDL", 6: "DLN", 7: "#7"}
_NAME_WIDTH = 8


class Process:
    """What /proc said of one process.  ``stat``: the fields of /proc/<pid>/stat from the state on."""

    def __init__(self, pid: int, name: str, stat: list[str], arguments: str) -> None:
        self.pid = pid
        self.name = name
        self.stat = stat
        self._arguments = arguments

    @classmethod
    def read(cls, pid: int) -> Process | None:
        """None when it has ended."""
        try:
            line = _read(pid, "stat")
            arguments = _read(pid, "cmdline").rstrip("\0").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return None
        name = line[line.index("(") + 1 : line.rindex(")")]
        return cls(pid, name, line[line.rindex(")") + 2 :].split(), arguments)

    @property
    def arguments(self) -> str:
        """The command line; the name in brackets when there is none."""
        shown = self._arguments.replace("\n", " ") or f"[{self.name}]"
        return f"{shown} <defunct>" if self.state == "Z" else shown

    @property
    def state(self) -> str:
        return self.stat[0]

    @property
    def cpu_s(self) -> float:
        return (int(self.stat[11]) + int(self.stat[12])) / _TICKS

    @property
    def age_s(self) -> float:
        return max(0.01, time.clock_gettime(time.CLOCK_BOOTTIME) - int(self.stat[19]) / _TICKS)

    @property
    def rss(self) -> int:
        """Bytes; the count in ``stat`` lags behind by what each CPU has not told yet."""
        exact = self.status.get("VmRSS", "")
        return int(exact.split()[0]) * 1024 if exact else int(self.stat[21]) * _PAGE

    @functools.cached_property
    def status(self) -> dict[str, str]:
        """/proc/<pid>/status; empty when the process has ended meanwhile."""
        with contextlib.suppress(OSError):
            return {key: value.strip() for key, _, value in map(_parted, _read(self.pid, "status").splitlines())}
        return {}

    def ids(self, field: str) -> list[int]:
        """Real, effective, saved and file system id; ``field`` is Uid or Gid."""
        return [int(item) for item in self.status.get(field, "0 0 0 0").split()]


def related(pid: int) -> list[int]:
    """The processes of a container without a control group, by its first one: those in the same pid namespace.

    In the host's there are others: then it and those that descend from it.
    """
    running = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    namespace = _pid_namespace(pid)
    if namespace and namespace != _pid_namespace(os.getpid()):
        return [other for other in running if _pid_namespace(other) == namespace]
    parents = {other: int(found.stat[1]) for other in running if (found := Process.read(other)) is not None}
    family = {pid}
    while grown := {other for other, parent in parents.items() if parent in family} - family:
        family |= grown
    return sorted(family)


def _pid_namespace(pid: int) -> int:
    """Its number, 0 of a process that has ended or is none of ours."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read().decode(errors="replace")


# -- columns -----------------------------------------------------------------------------------------------------------


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}+"


def _user(which: int) -> Callable[[Process], str]:
    def show(process: Process) -> str:
        number = process.ids("Uid")[which]
        try:
            return _cut(pwd.getpwuid(number).pw_name)
        except KeyError:
            return str(number)

    return show


def _group(which: int) -> Callable[[Process], str]:
    def show(process: Process) -> str:
        number = process.ids("Gid")[which]
        try:
            return _cut(grp.getgrgid(number).gr_name)
        except KeyError:
            return str(number)

    return show


def _terminal(process: Process) -> str:
    number = int(process.stat[4])
    if not number:
        return "?"
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{minor + (major - 136) * 256}"
    return f"tty{minor}" if major == 4 and minor < 64 else f"{major},{minor}"


def _stat(process: Process) -> str:
    """The state and what is special: priority, locked pages, session leader, threads, foreground."""
    shown = process.state
    nice = int(process.stat[16])
    shown += "<" if nice < 0 else "N" if nice > 0 else ""
    shown += "L" if process.status.get("VmLck", "0 kB") != "0 kB" else ""
    shown += "s" if int(process.stat[3]) == process.pid else ""
    shown += "l" if int(process.stat[17]) > 1 else ""
    shown += "+" if process.stat[2] == process.stat[5] else ""
    return shown


def _percent_cpu(process: Process) -> float:
    return process.cpu_s * 100 / process.age_s


def _percent(value: float) -> str:
    return f"{value:.1f}" if value < 999 else str(int(value))


def _began(process: Process) -> time.struct_time:
    boot_s = int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))  # whole seconds, as ps has it
    return time.localtime(boot_s + int(process.stat[19]) / _TICKS)


def _stime(process: Process) -> str:
    began, now = _began(process), time.localtime()
    if began.tm_year != now.tm_year:
        return time.strftime("%Y", began)
    return time.strftime("%H:%M" if began.tm_yday == now.tm_yday else "%b%d", began)


def _bsd_start(process: Process) -> str:
    return time.strftime("%H:%M" if process.age_s < _DAY_S else "%b %d", _began(process))


def _start(process: Process) -> str:
    return time.strftime("%H:%M:%S" if process.age_s < _DAY_S else "%b %d", _began(process))


def _long_start(process: Process) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", _began(process))


def _days(seconds: int) -> str:
    return f"{seconds // _DAY_S}-" if seconds >= _DAY_S else ""


def _time(process: Process) -> str:
    whole = int(process.cpu_s)
    return f"{_days(whole)}{whole % _DAY_S // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _bsd_time(process: Process) -> str:
    whole = int(process.cpu_s)
    return f"{whole // 60}:{whole % 60:02d}"


def _elapsed(process: Process) -> str:
    whole = int(process.age_s)
    hours = f"{whole % _DAY_S // 3600:02d}:" if whole >= 3600 else ""
    return f"{_days(whole)}{hours}{whole // 60 % 60:02d}:{whole % 60:02d}"


def _wchan(process: Process) -> str:
    try:
        name = _read(process.pid, "wchan")
    except OSError:
        return "-"
    return name[:6] if name not in ("", "0") else "-"


def _flags(process: Process) -> str:
    """Of the kernel's flags those that ps shows: forked without exec (1), used privileges (4)."""
    return f"{int(process.stat[6]) >> 6 & 0x7:x}"


def _cgroup(process: Process) -> str:
    try:
        return ",".join(_read(process.pid, "cgroup").split()) or "-"
    except OSError:
        return "-"


def _field(index: int) -> Callable[[Process], str]:
    return lambda process: process.stat[index]


def _kibibytes(value: int) -> str:
    return str(value // 1024)


Show = Callable[[Process], str]
# name -> (title, function)
COLUMNS: dict[str, tuple[str, Show]] = {
    "pid": ("PID", lambda process: str(process.pid)),
    "ppid": ("PPID", _field(1)),
    "pgid": ("PGID", _field(2)),
    "sid": ("SID", _field(3)),
    "tpgid": ("TPGID", _field(5)),
    "uid": ("UID", lambda process: str(process.ids("Uid")[1])),
    "ruid": ("RUID", lambda process: str(process.ids("Uid")[0])),
    "gid": ("GID", lambda process: str(process.ids("Gid")[1])),
    "rgid": ("RGID", lambda process: str(process.ids("Gid")[0])),
    "user": ("USER", _user(1)),
    "ruser": ("RUSER", _user(0)),
    "group": ("GROUP", _group(1)),
    "rgroup": ("RGROUP", _group(0)),
    "c": ("C", lambda process: str(min(99, int(_percent_cpu(process))))),
    "%cpu": ("%CPU", lambda process: _percent(_percent_cpu(process))),
    "%mem": ("%MEM", lambda process: _percent(process.rss * 100 / _MEMORY)),
    "vsz": ("VSZ", lambda process: _kibibytes(int(process.stat[20]))),
    "rss": ("RSS", lambda process: _kibibytes(process.rss)),
    "sz": ("SZ", lambda process: str(int(process.stat[20]) // _PAGE)),
    "tty": ("TT", _terminal),
    "stat": ("STAT", _stat),
    "s": ("S", lambda process: process.state),
    "stime": ("STIME", _stime),
    "start": ("STARTED", _start),
    "lstart": ("STARTED", _long_start),
    "bsdstart": ("START", _bsd_start),
    "time": ("TIME", _time),
    "bsdtime": ("TIME", _bsd_time),
    "etime": ("ELAPSED", _elapsed),
    "etimes": ("ELAPSED", lambda process: str(int(process.age_s))),
    "ni": ("NI", _field(16)),
    "pri": ("PRI", lambda process: str(39 - int(process.stat[15]))),
    "opri": ("PRI", lambda process: str(60 + int(process.stat[15]))),
    "intpri": ("PRI", _field(15)),
    "nlwp": ("NLWP", _field(17)),
    "psr": ("PSR", _field(36)),
    "cls": ("CLS", lambda process: _CLASSES.get(int(process.stat[38]), "?")),
    "rtprio": ("RTPRIO", lambda process: process.stat[37] if process.stat[37] != "0" else "-"),
    "minflt": ("MINFLT", _field(7)),
    "majflt": ("MAJFLT", _field(9)),
    "f": ("F", _flags),
    "wchan": ("WCHAN", _wchan),
    "addr": ("ADDR", lambda process: "-"),
    "cgroup": ("CGROUP", _cgroup),
    "comm": ("COMMAND", lambda process: f"{process.name} <defunct>" if process.state == "Z" else process.name),
    "args": ("COMMAND", lambda process: process.arguments),
}
_ALIASES = {
    "pgrp": "pgid", "sess": "sid", "session": "sid", "euid": "uid", "egid": "gid", "euser": "user", "uname": "user",
    "egroup": "group", "pcpu": "%cpu", "pmem": "%mem", "vsize": "vsz", "rssize": "rss", "rsz": "rss", "tt": "tty",
    "tname": "tty", "state": "s", "start_time": "stime", "cputime": "time", "etimes": "etimes", "nice": "ni",
    "thcount": "nlwp", "class": "cls", "policy": "cls", "flag": "f", "flags": "f", "min_flt": "minflt",
    "maj_flt": "majflt", "ucmd": "comm", "ucomm": "comm", "cmd": "args", "command": "args",
}  # fmt: skip
_ALIAS_TITLES = {
    "pgrp": "PGRP", "sess": "SESS", "session": "SESS", "euid": "EUID", "egid": "EGID", "euser": "EUSER",
    "egroup": "EGROUP", "thcount": "THCNT", "tname": "TTY", "class": "CLS", "policy": "POL", "ucmd": "CMD",
    "cmd": "CMD",
}  # fmt: skip


def column(name: str) -> tuple[str, Show] | None:
    """(title, function) of a column by any of its names."""
    found = COLUMNS.get(_ALIASES.get(name, name))
    return None if found is None else (_ALIAS_TITLES.get(name, found[0]), found[1])

"""An image's run configuration (``Env``, ``Cmd`` …) as Dockerfile instructions change it.

Each function changes ``run`` and gives the instruction as dockerd's builder writes it into the history.
Sources: Dockerfile reference; image-spec config.md.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Sequence
from typing import Any

from corten.dockerfile import instructions as ins
from corten.errors import InvalidParameter

DEFAULT_SHELL = ("/bin/sh", "-c")
Run = dict[str, Any]

_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_MAX_PORTS = 65536


def shell_of(run: Run) -> tuple[str, ...]:
    """What runs the shell form of an instruction."""
    return tuple(run.get("Shell") or DEFAULT_SHELL)


def environment(run: Run) -> dict[str, str]:
    """``Env`` by name."""
    return dict(item.partition("=")[::2] for item in run.get("Env") or ())


def set_environment(run: Run, pairs: Sequence[tuple[str, str]]) -> str:
    listed = list(run.get("Env") or ())
    for name, value in pairs:
        item = f"{name}={value}"
        for position, known in enumerate(listed):
            if known.partition("=")[0] == name:
                listed[position] = item
                break
        else:
            listed.append(item)
    run["Env"] = listed
    return "ENV " + " ".join(f"{name}={value}" for name, value in pairs)


def set_labels(run: Run, pairs: Sequence[tuple[str, str]]) -> str:
    run["Labels"] = {**(run.get("Labels") or {}), **dict(pairs)}
    return "LABEL " + " ".join(f"{name}={value}" for name, value in pairs)


def add_ports(run: Run, words: Sequence[str]) -> str:
    """Errors: InvalidParameter("Invalid containerPort: x")."""
    ports = dict(run.get("ExposedPorts") or {})
    for word in words:
        # addresses and host ports are accepted and mean nothing here (nat.ParsePortSpecs)
        plain = word.rpartition(":")[2]
        for port in parse_ports(plain):
            ports[port] = {}
    run["ExposedPorts"] = ports
    return "EXPOSE " + " ".join(sorted(words))


def parse_ports(text: str) -> list[str]:
    """``80``, ``53/udp``, ``8000-8010/tcp`` as the keys of ``ExposedPorts``.  Errors: InvalidParameter."""
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"Invalid containerPort: {text[:100]}")
    first = int(match[1])
    last = int(match[2] or match[1])
    if not 0 < first <= last < _MAX_PORTS:
        raise InvalidParameter(f"Invalid containerPort: {text[:100]}")
    return [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]


def add_volumes(run: Run, paths: Sequence[str]) -> str:
    volumes = dict(run.get("Volumes") or {})
    for path in paths:
        volumes[path] = {}
    run["Volumes"] = volumes
    return f"VOLUME [{' '.join(paths)}]"


def set_user(run: Run, user: str) -> str:
    run["User"] = user
    return f"USER {user}"


def set_directory(run: Run, path: str) -> str:
    """Errors: InvalidParameter for nothing."""
    if not path:
        raise InvalidParameter("cannot normalize nothing")
    run["WorkingDir"] = joined(run, path)
    return f"WORKDIR {run['WorkingDir']}"


def joined(run: Run, path: str) -> str:
    """An absolute path without dots; a relative one counts from the working directory."""
    whole = path if path.startswith("/") else f"/{run.get('WorkingDir') or ''}/{path}"
    clean = posixpath.normpath(whole)
    return "/" + clean.lstrip("/")


def set_command(run: Run, command: ins.Command, shell: Sequence[str]) -> str:
    words = _program(command, shell)
    run["Cmd"] = words
    return "CMD " + quoted(words)


def set_entrypoint(run: Run, command: ins.Command, shell: Sequence[str], *, keep_command: bool) -> str:
    """keep_command: CMD was given in this stage; else the base image's is dropped, as it was meant for another one."""
    words = _program(command, shell)
    run["Entrypoint"] = words
    if not keep_command:
        run.pop("Cmd", None)
    return "ENTRYPOINT " + quoted(words)


def _program(command: ins.Command, shell: Sequence[str]) -> list[str]:
    if command.in_shell and command.words:
        return [*shell, *command.words]
    return list(command.words)


def set_shell(run: Run, words: Sequence[str]) -> str:
    run["Shell"] = list(words)
    return f"SHELL [{' '.join(words)}]"


def set_stop_signal(run: Run, name: str) -> str:
    """Errors: InvalidParameter("Invalid signal: x")."""
    if not _is_signal(name):
        raise InvalidParameter(f"Invalid signal: {name}")
    run["StopSignal"] = name
    return f"STOPSIGNAL {name}"


def _is_signal(name: str) -> bool:
    if name.isascii() and name.isdigit():
        return 0 < int(name[:4]) <= 64
    word = name.upper().removeprefix("SIG")
    known = {item.name.removeprefix("SIG") for item in signal.Signals}
    return word in known or re.fullmatch(r"RTM(IN(\+\d{1,2})?|AX(-\d{1,2})?)", word) is not None


def set_healthcheck(run: Run, check: ins.Healthcheck) -> str:
    document: dict[str, Any] = {"Test": list(check.test)}
    for name, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
        ("Retries", check.retries),
    ):
        if value:
            document[name] = value
    run["Healthcheck"] = document
    times = " ".join(f'"{go_duration(value)}"' for value in (check.interval, check.timeout, check.start_period))
    return f"HEALTHCHECK &{{[{' '.join(map(_quote, check.test))}] {times} '\\x{check.retries:02x}'}}"


def add_trigger(run: Run, trigger: str) -> str:
    run["OnBuild"] = [*(run.get("OnBuild") or ()), trigger]
    return f"ONBUILD {trigger}"


def quoted(words: Sequence[str]) -> str:
    """A list as Go prints it with %q."""
    return "[" + " ".join(map(_quote, words)) + "]"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def go_duration(ns: int) -> str:
    """As Go prints a time.Duration: "1m30s", "500ms"."""
    if ns == 0:
        return "0s"
    if ns < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3)):
            if ns >= size:
                return f"{ns / size:.9f}".rstrip("0").rstrip(".") + unit
        return f"{ns}ns"
    seconds, fraction = divmod(ns, 10**9)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    tail = f"{seconds}" + (f".{fraction:09d}".rstrip("0") if fraction else "") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail

"""An image's configuration as the instructions change it, and the history lines that tell of them.

The lines are those of dockerd's builder, since tools read them.  Sources: Dockerfile reference; image-spec config.md.
"""

from __future__ import annotations

import copy
import json
import posixpath
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from corten.dockerfile import instructions as ins
from corten.errors import InvalidParameter
from corten.image.changes import parse_ports
from corten.oci import config as image_config
from corten.oci.platform import Platform

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh", "-c")
Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class State:
    """An image on its way: what the next instruction starts from.

    image: its id, "" for scratch; document: its config; run: ``config`` of the document, with what is not committed yet
    """

    image: str
    document: dict[str, Any]
    run: Run
    author: str = ""

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.run.get("Shell") or DEFAULT_SHELL)

    @property
    def variables(self) -> dict[str, str]:
        return environment(self.run)


def environment(run: Run) -> dict[str, str]:
    return dict(item.partition("=")[::2] for item in run.get("Env") or ())


def scratch(platform: Platform) -> State:
    """An image without anything."""
    document = image_config.new_config(platform=platform, created=image_config.EPOCH_ZERO, run={})
    return State("", document, with_path({}))


def begun(image_id: str, document: dict[str, Any]) -> State:
    """The state after FROM: triggers are taken out by the caller."""
    return State(
        image_id, document, with_path(copy.deepcopy(document.get("config") or {})), document.get("author") or ""
    )


def with_path(run: Run) -> Run:
    """As dockerd: whatever is run in a step finds its programs."""
    if not any(item.startswith("PATH=") for item in run.get("Env") or ()):
        run["Env"] = [*(run.get("Env") or ()), DEFAULT_PATH]
    return run


def child_document(
    state: State, run: Run, *, created: str, created_by: str, diff_id: str, comment: str = "", author: str = ""
) -> dict[str, Any]:
    """The config of the image that a step makes.  diff_id: of its layer, "" for none."""
    document = copy.copy(state.document)
    document["created"] = created
    if author:
        document["author"] = author
    else:
        document.pop("author", None)
    document["config"] = {key: value for key, value in run.items() if value not in (None, "", [], {}, False)}
    if run.get("Cmd") == [] or run.get("Entrypoint") == []:
        # an empty list says that there is none, as the instruction did
        for key in ("Cmd", "Entrypoint"):
            if run.get(key) == []:
                document["config"][key] = []
    rootfs = dict(document["rootfs"])
    if diff_id:
        rootfs["diff_ids"] = [*rootfs.get("diff_ids", ()), diff_id]
    document["rootfs"] = rootfs
    step: dict[str, Any] = {"created": created}
    for key, value in (("author", author), ("created_by", created_by), ("comment", comment)):
        if value:
            step[key] = value
    if not diff_id:
        step["empty_layer"] = True
    document["history"] = [*(document.get("history") or ()), step]
    return document


def no_operation(shell: Sequence[str], text: str, *, gap: str = "  ") -> str:
    """The history line of what runs nothing."""
    return f"{' '.join(shell)} #(nop){gap}{text}"


def run_line(command: Sequence[str], arguments: Sequence[str]) -> str:
    """The history line of RUN: build arguments that it sees stand in front."""
    line = " ".join(command)
    return f"|{len(arguments)} {' '.join(arguments)} {line}" if arguments else line


# -- instructions that change only the configuration ------------------------------------------------------------------


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


def visible_arguments(arguments: Mapping[str, str | None], run: Run, declared_only: frozenset[str]) -> list[str]:
    """Build arguments as RUN sees them ("NAME=value", sorted): ENV of the same name hides them.

    declared_only: predefined names that stay out of the history
    """
    known = environment(run)
    return [
        f"{name}={value}"
        for name, value in sorted(arguments.items())
        if value is not None and name not in known and name not in declared_only
    ]

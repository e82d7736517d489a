"""Which devices the machine's CDI files name.

Files of a later directory have priority; two files of one directory that name the same device leave nobody that device.
Source: SPEC.md of the Container Device Interface; what it leaves open (suffixes, priorities) is as its library has it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from corten.cdi.documents import CdiFile, Edits, read
from corten.errors import InvalidParameter

_SUFFIXES = (".json", ".yaml")
_Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Device:
    """name: VENDOR/CLASS=NAME; annotations: its file's and its own; path: of its file

    common: edits for whoever gets any device of the file
    """

    name: str
    annotations: Mapping[str, str]
    edits: Edits
    path: str
    common: Edits

    @property
    def kind(self) -> str:
        return self.name.partition("=")[0]


@dataclass(frozen=True, slots=True)
class Found:
    """devices: by name, in the order of their names; problems: of files and directories, by their path"""

    devices: Mapping[str, Device] = field(default_factory=dict)
    problems: Mapping[str, list[str]] = field(default_factory=dict)


class Catalogue:
    """Of some directories.  Files are read when they are asked about, again when they have changed.  Thread-safe."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = [os.path.normpath(directory) for directory in directories]
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Stamp, CdiFile | InvalidParameter]] = {}

    def look(self) -> Found:
        """What is there now; a directory that is not there has nothing."""
        found: dict[str, tuple[int, Device]] = {}
        problems: dict[str, list[str]] = {}
        conflicts: set[str] = set()
        with self._lock:
            seen: dict[str, tuple[_Stamp, CdiFile | InvalidParameter]] = {}
            for priority, directory in enumerate(self._directories):
                for path in self._paths(directory, problems):
                    file = self._file(path, seen, problems)
                    for device in _devices(path, file) if file is not None else ():
                        _place(device, priority, found, conflicts, problems)
            self._known = seen
        names = sorted(name for name in found if name not in conflicts)
        return Found({name: found[name][1] for name in names}, problems)

    @staticmethod
    def _paths(directory: str, problems: dict[str, list[str]]) -> list[str]:
        try:
            with os.scandir(directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIXES) and not entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            problems.setdefault(directory, []).append(f"cannot be read: {(error.strerror or '').lower()}")
            return []
        return [f"{directory}/{name}" for name in names]

    def _file(
        self,
        path: str,
        seen: dict[str, tuple[_Stamp, CdiFile | InvalidParameter]],
        problems: dict[str, list[str]],
    ) -> CdiFile | None:
        try:
            status = os.stat(path)
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            entry = self._known.get(path)
            if entry is None or entry[0] != stamp:
                entry = (stamp, _read(path))
        except OSError as error:
            problems.setdefault(path, []).append(f"cannot be read: {(error.strerror or '').lower()}")
            return None
        seen[path] = entry
        if isinstance(entry[1], InvalidParameter):
            problems.setdefault(path, []).append(entry[1].message)
            return None
        return entry[1]


def _read(path: str) -> CdiFile | InvalidParameter:
    """Errors: OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe without a writer must not hold us
    with os.fdopen(descriptor, "rb") as file:
        content = file.read()
    try:
        return read(content, is_yaml=path.endswith(".yaml"))
    except InvalidParameter as error:
        return error


def _devices(path: str, file: CdiFile) -> Iterator[Device]:
    for entry in file.devices:
        annotations = {**file.annotations, **entry.annotations}
        name = f"{file.kind}={entry.name}"
        yield Device(name, annotations, entry.container_edits, path, file.container_edits)


def _place(
    device: Device,
    priority: int,
    found: dict[str, tuple[int, Device]],
    conflicts: set[str],
    problems: dict[str, list[str]],
) -> None:
    """Directories come in the order of their priority: what is there already is of a lower one, or in conflict."""
    earlier = found.get(device.name)
    conflicts.discard(device.name)
    if earlier is not None and earlier[0] == priority:
        conflicts.add(device.name)
        text = f'conflicting device "{device.name}" (specs "{earlier[1].path}", "{device.path}")'
        for path in (earlier[1].path, device.path):
            problems.setdefault(path, []).append(text)
    found[device.name] = (priority, device)

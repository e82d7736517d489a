"""Containers of ``corten-oci`` on disk: ``<root>/<id>/state.json``, and the states between which they move.

Source: runtime-spec runtime.md, "State" and "Lifecycle".
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from corten.errors import Conflict, InvalidParameter, NotFound

_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}\Z")


@dataclass(slots=True)
class ContainerState:
    """What ``corten-oci`` remembers of a container.

    start_ticks: when init was started, in clock ticks since boot: guards against a reused pid
    """

    id: str
    bundle: str
    pid: int
    start_ticks: int
    oci_version: str
    cgroup_path: str
    created: str
    owner: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


def start_ticks(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat; 0 when there is no such process or it is a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class StateDirectory:
    """The root directory of ``corten-oci``."""

    def __init__(self, root: str) -> None:
        self._root = root

    def directory(self, container_id: str) -> str:
        """Errors: InvalidParameter for an id that is no single path component."""
        if not _ID.match(container_id) or container_id in (".", ".."):
            raise InvalidParameter(f"invalid container id format: {container_id!r}")
        return f"{self._root}/{container_id}"

    def make(self, container_id: str) -> str:
        """Errors: Conflict when a container of that id exists."""
        directory = self.directory(container_id)
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        try:
            os.mkdir(directory, 0o711)
        except FileExistsError:
            raise Conflict(f"container with id exists: {container_id}") from None
        return directory

    def save(self, state: ContainerState) -> None:
        path = f"{self.directory(state.id)}/state.json"
        with open(f"{path}.tmp", "w") as file:
            json.dump(asdict(state), file)
        os.replace(f"{path}.tmp", path)

    def load(self, container_id: str) -> ContainerState:
        """Errors: NotFound."""
        try:
            with open(f"{self.directory(container_id)}/state.json") as file:
                return ContainerState(**json.load(file))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"container does not exist: {container_id}") from None

    @contextlib.contextmanager
    def locked(self, container_id: str) -> Iterator[None]:
        """Keep other calls of ``corten-oci`` away from this container.  Errors: NotFound."""
        try:
            descriptor = os.open(self.directory(container_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"container does not exist: {container_id}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def remove(self, container_id: str) -> None:
        directory = self.directory(container_id)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(directory):
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)

    def ids(self) -> list[str]:
        try:
            names = sorted(os.listdir(self._root))
        except FileNotFoundError:
            return []
        return [name for name in names if os.path.exists(f"{self._root}/{name}/state.json")]

    def status(self, state: ContainerState) -> str:
        """created, running, paused or stopped."""
        if not state.pid or start_ticks(state.pid) != state.start_ticks:
            return "stopped"
        if os.path.exists(f"{self.directory(state.id)}/exec.fifo"):
            return "created"
        return "running"

    def document(self, state: ContainerState, status: str) -> dict[str, Any]:
        """The state as the specification prints it."""
        return {
            "ociVersion": state.oci_version,
            "id": state.id,
            "status": status,
            "pid": 0 if status == "stopped" else state.pid,
            "bundle": state.bundle,
            "annotations": state.annotations,
            "created": state.created,
            "owner": state.owner,
        }

"""Containers of ``corten-oci`` on disk: ``<root>/<id>/``, and the states between which they move.

::

    <root>/<id>/state.json     what follows, written when the container has been created
    <root>/<id>/config.json    the specification as it was then: later changes of the bundle have no effect
    <root>/<id>/start.sock     while it waits for "start"

Source: runtime-spec runtime.md, "State" and "Lifecycle".
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import re
from collections.abc import Iterator
from types import SimpleNamespace

from corten.cgroup.manager import Cgroup
from corten.errors import Conflict, InvalidParameter, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.runtime import resctrl

GATE = "start.sock"  # while it waits for "start": oci/gate.py
_ID = re.compile(r"[A-Za-z0-9_+.-]{1,1024}\Z")


class Status(enum.StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


# operation -> states in which it is possible
ALLOWED: dict[str, frozenset[Status]] = {
    "start": frozenset({Status.CREATED}),
    "kill": frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED}),
    "delete": frozenset({Status.CREATED, Status.STOPPED}),
    "exec": frozenset({Status.CREATED, Status.RUNNING}),
    "checkpoint": frozenset({Status.RUNNING}),
    "pause": frozenset({Status.CREATED, Status.RUNNING}),
    "resume": frozenset({Status.PAUSED}),
    "update": frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED}),
    "get statistics of": frozenset({Status.CREATED, Status.RUNNING, Status.PAUSED}),
}


def require(operation: str, status: Status) -> None:
    """Errors: Conflict when the operation is not possible in that state."""
    if status not in ALLOWED[operation]:
        raise Conflict(f"cannot {operation} a container in the {status} state")


class ContainerState(SimpleNamespace):
    """What ``corten-oci`` remembers of a container.

    start_ticks: when init was started, in clock ticks since boot: guards against a reused pid
    share:       the fields of its ``resctrl.Group``, empty without one
    """

    id: str
    bundle: str
    rootfs: str
    pid: int
    start_ticks: int
    oci_version: str
    cgroup_path: str
    created: str
    owner: str
    annotations: dict[str, str]
    share: dict[str, Any] = {}  # noqa: RUF012  never changed

    @property
    def resctrl_group(self) -> resctrl.Group | None:
        if not self.share:
            return None
        from corten.runtime import resctrl

        return resctrl.Group(**self.share)


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
            os.mkdir(directory, 0o700)
        except FileExistsError:
            raise Conflict(f"container with id exists: {container_id}") from None
        return directory

    def save(self, state: ContainerState, spec: dict[str, Any]) -> None:
        """Whole or not at all."""
        directory = self.directory(state.id)
        for name, document in (("config.json", spec), ("state.json", vars(state))):
            with open(f"{directory}/{name}.tmp", "w") as file:
                json.dump(document, file)
            os.replace(f"{directory}/{name}.tmp", f"{directory}/{name}")

    def load(self, container_id: str) -> ContainerState:
        """Errors: NotFound."""
        try:
            with open(f"{self.directory(container_id)}/state.json") as file:
                return ContainerState(**json.load(file))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"container does not exist: {container_id}") from None

    def spec(self, container_id: str) -> dict[str, Any]:
        with open(f"{self.directory(container_id)}/config.json") as file:
            document: dict[str, Any] = json.load(file)
            return document

    # -- all of them ------------------------------------------------------------------------------------------------

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

    def status(self, state: ContainerState) -> Status:
        if not state.pid or start_ticks(state.pid) != state.start_ticks:
            return Status.STOPPED
        if Cgroup(state.cgroup_path).is_frozen():
            return Status.PAUSED
        if os.path.exists(f"{self.directory(state.id)}/{GATE}"):
            return Status.CREATED
        return Status.RUNNING


def document(state: ContainerState, status: Status) -> dict[str, Any]:
    """The state as the specification prints it, and runc's further fields."""
    return {
        "ociVersion": state.oci_version,
        "id": state.id,
        "pid": 0 if status == Status.STOPPED else state.pid,
        "status": str(status),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "annotations": state.annotations,
        "owner": state.owner,
    }

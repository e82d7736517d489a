"""What a snapshotter does: the directories of layers and containers, and how they become one root.

A *layer* is staged, filled, then committed under its id; a *container* has an init layer and a writable layer above its
image's layers.  A snapshotter returns mounts as data and makes none in the host's table; what it mounts for reading is
detached and goes with its descriptor.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict


class RootfsMount(TypedDict):
    """How to mount a container's root; goes to the shim as JSON.

    type: "overlay", or "bind" for a plain directory; lower: topmost first
    """

    type: str
    lower: list[str]
    upper: str
    work: str
    source: str
    target: str
    options: list[str]


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """A difference between a container and its image: kind is A (added), C (changed) or D (deleted)."""

    path: str
    kind: str


class Snapshotter(Protocol):
    """Synchronous and safe to call from several threads for different ids."""

    name: str
    overlay_whiteouts: bool
    moving: set[str]
    """Layers on their way in or out: on disk, and not in their owner's records yet or any more."""

    def stage(self, parent: str | None) -> str:
        """A new layer above ``parent`` that nobody sees yet; its id.  Its diff path takes the changes."""
        ...

    def diff_path(self, layer_id: str) -> Path:
        """Where a layer's own files are."""
        ...

    def layer_path(self, layer_id: str) -> Path:
        """The layer's directory, for files that describe it."""
        ...

    def commit(self, layer_id: str, parent: str | None) -> None:
        """The layer is complete; after a crash it is there whole or swept."""
        ...

    def register_directory(self, layer_id: str, directory: str) -> None:
        """A committed layer whose files are a directory of the host, read-only and without a copy."""
        ...

    def discard(self, layer_id: str) -> None:
        """Remove a layer, committed or not; nothing there is no error."""
        ...

    def flaw(self, layer_id: str) -> str:
        """What a committed layer lacks on disk, "" for nothing; its files are not looked at."""
        ...

    def is_linked(self, layer_id: str, parent: str | None) -> bool:
        """Whether a layer is found by its short name and stands on ``parent``."""
        ...

    def relink(self, layer_id: str, parent: str | None) -> None:
        """Make ``is_linked`` true."""
        ...

    def replace(self, layer_id: str, staged_id: str) -> None:
        """A committed layer takes the place of another, whose files go; no program may be using those."""
        ...

    def strays(self, known: set[str]) -> list[Path]:
        """Links that lead to nothing; those of ``known`` layers, which may be made again, are none."""
        ...

    def container_flaw(self, container_id: str) -> str:
        """What a container lacks on disk, "" for nothing."""
        ...

    def create(self, container_id: str, parent: str | None, *, size_limit: int = 0) -> None:
        """The layers of a container; what it may write itself is limited to ``size_limit`` bytes, 0 for no limit.

        Errors: InvalidParameter when there can be no such limit.
        """
        ...

    def remove(self, container_id: str) -> None: ...
    def rootfs(self, container_id: str) -> RootfsMount: ...

    def open_rootfs(self, container_id: str, read_only: bool) -> AbstractContextManager[int]:
        """A descriptor of the root of a container that does not run."""
        ...

    def open_layer(self, layer_id: str) -> AbstractContextManager[int]:
        """A read-only descriptor of an image's root, the layer and all below it."""
        ...

    def data(self, container_id: str) -> dict[str, str]:
        """``GraphDriver.Data`` of a container."""
        ...

    def layer_data(self, layer_id: str) -> dict[str, str]:
        """``GraphDriver.Data`` of an image."""
        ...

    def changes(self, container_id: str) -> list[Change]:
        """What the container changed, sorted by path."""
        ...

    def upper_path(self, container_id: str) -> Path:
        """Where a container's own files are."""
        ...

    def usage(self, snapshot_id: str) -> int:
        """Bytes of a layer's own files."""
        ...

    def ids(self) -> set[str]: ...
    def is_container(self, snapshot_id: str) -> bool: ...
    def is_committed(self, layer_id: str) -> bool: ...

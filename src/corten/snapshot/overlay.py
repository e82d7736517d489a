"""Layers as overlayfs directories, in Docker's layout:

overlay2/<id>/diff        a layer's own files
overlay2/<id>/link        its short name; overlay2/l/<short> -> ../<id>/diff
overlay2/<id>/lower       the short names of the layers below, nearest first
overlay2/<id>/work        scratch space of the kernel
overlay2/<id>/committed   present once the layer is complete
overlay2/<id>-init        a container's init layer; overlay2/<container id>/merged is its root while it runs
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from corten.errors import NotFound
from corten.linux import mount as mounting
from corten.linux import overlay as kernel
from corten.linux import paths
from corten.snapshot import changes, init_layer
from corten.snapshot.api import Change, RootfsMount

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def short_name() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(26))


class OverlaySnapshotter:
    """Layers below ``<data-root>/overlay2``."""

    name = "overlay2"
    overlay_whiteouts = True

    def __init__(self, data_root: Path) -> None:
        self._root = data_root / "overlay2"
        (self._root / "l").mkdir(parents=True, exist_ok=True, mode=0o710)
        self._root.chmod(0o710)

    # -- layers -------------------------------------------------------------------------------------------------------

    def _make(self, snapshot_id: str, lower: list[str]) -> Path:
        directory = self._root / snapshot_id
        directory.mkdir(mode=0o710)
        (directory / "diff").mkdir(mode=0o755)
        self._link(directory, "../" + snapshot_id + "/diff")
        if lower:
            (directory / "work").mkdir(mode=0o700)
            (directory / "lower").write_text(":".join(lower))
        return directory

    def _link(self, directory: Path, target: str) -> None:
        short = short_name()
        os.symlink(target, self._root / "l" / short)
        (directory / "link").write_text(short)

    def _below(self, parent: str | None) -> list[str]:
        """Short links of a parent and everything below it, nearest first."""
        if parent is None:
            return []
        directory = self._root / parent
        try:
            short = (directory / "link").read_text()
        except FileNotFoundError:
            raise NotFound(f"layer {parent} does not exist") from None
        lower = self._lower(parent)
        return [f"l/{short}", *lower]

    def _lower(self, snapshot_id: str) -> list[str]:
        try:
            text = (self._root / snapshot_id / "lower").read_text()
        except FileNotFoundError:
            return []
        return text.split(":") if text else []

    def stage(self, parent: str | None) -> str:
        layer_id = secrets.token_hex(32)
        self._make(layer_id, self._below(parent))
        return layer_id

    def diff_path(self, layer_id: str) -> Path:
        source = self._root / layer_id / "source"
        if source.exists():
            return Path(source.read_text())
        return self._root / layer_id / "diff"

    def layer_path(self, layer_id: str) -> Path:
        return self._root / layer_id

    def commit(self, layer_id: str, parent: str | None) -> None:
        directory = self._root / layer_id
        lower = self._below(parent)
        if lower != self._lower(layer_id):
            # staged before anyone knew what it stands on: archives name their layers last
            (directory / "work").mkdir(mode=0o700, exist_ok=True)
            (directory / "lower").write_text(":".join(lower))
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.sync_filesystem(descriptor)
        finally:
            os.close(descriptor)
        (directory / "committed").touch(mode=0o600)

    def register_directory(self, layer_id: str, directory: str) -> None:
        place = self._root / layer_id
        place.mkdir(mode=0o710)
        (place / "source").write_text(directory)
        self._link(place, directory)
        (place / "committed").touch(mode=0o600)

    def discard(self, layer_id: str) -> None:
        directory = self._root / layer_id
        with contextlib.suppress(FileNotFoundError):
            (self._root / "l" / (directory / "link").read_text()).unlink(missing_ok=True)
        descriptor = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.remove_tree(descriptor, layer_id)
        finally:
            os.close(descriptor)

    # -- containers ---------------------------------------------------------------------------------------------------

    def create(self, container_id: str, parent: str | None) -> None:
        lower = self._below(parent)
        init_id = f"{container_id}-init"
        try:
            init = self._make(init_id, lower)
            layers = [self._resolve(link) for link in lower]
            self._take_over_root(init / "diff", layers)
            init_layer.make(init / "diff", layers)
            (init / "committed").touch(mode=0o600)
            directory = self._make(container_id, [f"l/{(init / 'link').read_text()}", *lower])
            self._take_over_root(directory / "diff", layers)
            (directory / "merged").mkdir(mode=0o700)
        except BaseException:
            self.remove(container_id)
            raise

    @staticmethod
    def _take_over_root(diff: Path, layers: list[Path]) -> None:
        """The topmost layer's "/" gives the merged root its owner and mode."""
        if layers:
            status = os.stat(layers[0])
            os.chown(diff, status.st_uid, status.st_gid)
            os.chmod(diff, stat.S_IMODE(status.st_mode))

    def remove(self, container_id: str) -> None:
        merged = self._root / container_id / "merged"
        with contextlib.suppress(OSError):
            mounting.umount2(str(merged), mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)
        self.discard(container_id)
        self.discard(f"{container_id}-init")

    def _resolve(self, link: str) -> Path:
        return Path(os.path.normpath(self._root / "l" / os.readlink(self._root / link)))

    def _layers(self, snapshot_id: str) -> list[Path]:
        return [self._resolve(link) for link in self._lower(snapshot_id)]

    def rootfs(self, container_id: str) -> RootfsMount:
        directory = self._root / container_id
        return RootfsMount(
            type="overlay",
            lower=[f"{self._root}/{link}" for link in self._lower(container_id)],
            upper=str(directory / "diff"),
            work=str(directory / "work"),
            source="",
            target=str(directory / "merged"),
            options=[],
        )

    @contextlib.contextmanager
    def open_rootfs(self, container_id: str, read_only: bool) -> Iterator[int]:
        mount = self.rootfs(container_id)
        if read_only:
            # without an upper of its own nothing is written, not even the work directory
            descriptor = kernel.overlay_fd([mount["upper"], *mount["lower"]], None, None, [])
        else:
            descriptor = kernel.overlay_fd(mount["lower"], mount["upper"], mount["work"], mount["options"])
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def open_layer(self, layer_id: str) -> Iterator[int]:
        lower = [f"{self._root}/{link}" for link in self._below(layer_id)]
        descriptor = kernel.overlay_fd(lower, None, None, [])
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # -- description --------------------------------------------------------------------------------------------------

    def data(self, container_id: str) -> dict[str, str]:
        directory = self._root / container_id
        return {
            "LowerDir": ":".join(str(path) for path in self._layers(container_id)),
            "MergedDir": str(directory / "merged"),
            "UpperDir": str(directory / "diff"),
            "WorkDir": str(directory / "work"),
        }

    def layer_data(self, layer_id: str) -> dict[str, str]:
        directory = self._root / layer_id
        described = {
            "MergedDir": str(directory / "merged"),
            "UpperDir": str(self.diff_path(layer_id)),
            "WorkDir": str(directory / "work"),
        }
        lower = self._layers(layer_id)
        if lower:
            described["LowerDir"] = ":".join(str(path) for path in lower)
        return described

    def changes(self, container_id: str) -> list[Change]:
        # the init layer is no part of the image, and no change of the container either
        return changes.of_overlay(self._root / container_id / "diff", self._layers(container_id))

    def upper_path(self, container_id: str) -> Path:
        return self._root / container_id / "diff"

    def usage(self, snapshot_id: str) -> int:
        directory = self._root / snapshot_id
        return 0 if (directory / "source").exists() else tree_size(directory / "diff")

    def ids(self) -> set[str]:
        return {name for name in os.listdir(self._root) if name != "l"}

    def is_container(self, snapshot_id: str) -> bool:
        """A container's layers, which no image names: known by their init layer."""
        container_id = snapshot_id.removesuffix("-init")
        return snapshot_id.endswith("-init") or (self._root / f"{container_id}-init").exists()

    def is_committed(self, layer_id: str) -> bool:
        return (self._root / layer_id / "committed").exists()


def tree_size(top: Path) -> int:
    """Bytes of the files below a directory, hard links once."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [str(top)]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        stack.append(entry.path)
                    elif stat.S_ISREG(status.st_mode):
                        if status.st_nlink > 1:
                            if (status.st_dev, status.st_ino) in seen:
                                continue
                            seen.add((status.st_dev, status.st_ino))
                        total += status.st_size
        except FileNotFoundError:
            continue
    return total

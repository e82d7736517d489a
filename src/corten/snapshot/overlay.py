"""Layers as overlayfs directories, in Docker's layout:

overlay2/<id>/diff        a layer's own files
overlay2/<id>/link        its short name; overlay2/l/<short> -> ../<id>/diff
overlay2/<id>/lower       the short names of the layers below, nearest first
overlay2/<id>/work        scratch space of the kernel
overlay2/<id>/committed   present once the layer is complete
overlay2/<id>-init        a container's init layer; overlay2/<container id>/merged is its root while it runs
overlay2/<id>/disk        holds diff and work of a container whose size is limited (disk_limits.py)
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from corten.errors import NotFound
from corten.linux import files, paths, user_namespace
from corten.linux import mount as mounting
from corten.linux import overlay as kernel
from corten.linux.inode_flags import spread_subdirectories
from corten.snapshot import changes, init_layer
from corten.snapshot.api import Change, RootfsMount
from corten.snapshot.disk_limits import DiskLimits

_SHORT = re.compile(r"[A-Z2-7]{26}\Z")


def short_name() -> str:
    """26 letters and digits, as Docker's are."""
    return base64.b32encode(secrets.token_bytes(17)).decode()[:26]


def read_short(directory: Path) -> str:
    """A layer's short name; "" where its file is missing, or is empty or rubbish since the power failed."""
    try:
        short = files.read_text(directory / "link")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    return short if _SHORT.match(short) else ""


class OverlaySnapshotter:
    """Layers below ``<data-root>/overlay2``."""

    name = "overlay2"
    overlay_whiteouts = True

    def __init__(self, data_root: Path) -> None:
        self._root = data_root / self.name
        (self._root / "l").mkdir(parents=True, exist_ok=True, mode=0o710)
        self._root.chmod(0o710)
        spread_subdirectories(self._root)
        self.moving: set[str] = set()
        self._limits = DiskLimits(self._root)

    # -- layers -------------------------------------------------------------------------------------------------------

    def _make(self, snapshot_id: str, lower: list[str], *, size_limit: int = 0) -> Path:
        directory = self._root / snapshot_id
        directory.mkdir(mode=0o710)
        if size_limit:
            self._limits.prepare(snapshot_id, size_limit)
        place = self._limits.place(snapshot_id)
        (place / "diff").mkdir(mode=0o755)
        self._link(directory, f"../{place.relative_to(self._root)}/diff")
        if lower:
            (place / "work").mkdir(mode=0o700)
            files.write_text(directory / "lower", ":".join(lower))
        return directory

    def _link(self, directory: Path, target: str) -> None:
        short = short_name()
        os.symlink(target, self._root / "l" / short)
        files.write_text(directory / "link", short)

    def _below(self, parent: str | None) -> list[str]:
        """Short links of a parent and everything below it, nearest first."""
        if parent is None:
            return []
        short = read_short(self._root / parent)
        if not short:
            raise NotFound(f"layer {parent} does not exist")
        lower = self._lower(parent)
        return [f"l/{short}", *lower]

    def _lower(self, snapshot_id: str) -> list[str]:
        try:
            text = files.read_text(self._root / snapshot_id / "lower")
        except FileNotFoundError:
            return []
        return text.split(":") if text else []

    def stage(self, parent: str | None) -> str:
        layer_id = secrets.token_hex(32)
        self.moving.add(layer_id)
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
            files.write_text(directory / "lower", ":".join(lower))
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.sync_filesystem(descriptor)
        finally:
            os.close(descriptor)
        (directory / "committed").touch(mode=0o600)

    def register_directory(self, layer_id: str, directory: str) -> None:
        place = self._root / layer_id
        self.moving.add(layer_id)
        place.mkdir(mode=0o710)
        (place / "source").write_text(directory)
        self._link(place, directory)
        (place / "committed").touch(mode=0o600)

    def discard(self, layer_id: str) -> None:
        self._forget_short(layer_id)
        descriptor = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.remove_tree(descriptor, layer_id)
        finally:
            os.close(descriptor)
        self.moving.discard(layer_id)

    def _forget_short(self, layer_id: str) -> None:
        short = read_short(self._root / layer_id)
        if short:
            (self._root / "l" / short).unlink(missing_ok=True)

    # -- repair -------------------------------------------------------------------------------------------------------

    def flaw(self, layer_id: str) -> str:
        if not (self._root / layer_id).is_dir():
            return "its directory is missing"
        if not self.diff_path(layer_id).is_dir():
            return "the directory of its files is missing"
        return "" if self.is_committed(layer_id) else "it was never completed"

    def is_linked(self, layer_id: str, parent: str | None) -> bool:
        try:
            lower = self._lower(layer_id)
            return self._is_found(layer_id) and lower == self._below(parent)
        except (OSError, NotFound):
            return False

    def _is_found(self, layer_id: str) -> bool:
        """Whether the short name in the layer's directory leads to the layer's files."""
        short = read_short(self._root / layer_id)
        return bool(short) and os.readlink(self._root / "l" / short) == self._target(layer_id)

    def _target(self, layer_id: str) -> str:
        """Where a layer's short name points."""
        files = self.diff_path(layer_id)
        return f"../{layer_id}/diff" if files == self._root / layer_id / "diff" else str(files)

    def relink(self, layer_id: str, parent: str | None) -> None:
        directory = self._root / layer_id
        short = self._known_short(layer_id) or short_name()
        if not os.path.lexists(self._root / "l" / short):
            os.symlink(self._target(layer_id), self._root / "l" / short)
        files.write_text(directory / "link", short)
        lower = self._below(parent)
        if lower:
            (directory / "work").mkdir(mode=0o700, exist_ok=True)
            files.write_text(directory / "lower", ":".join(lower))

    def _known_short(self, layer_id: str) -> str:
        """The name under which the layers above know a layer, "" when it was lost."""
        target = self._target(layer_id)
        for name in os.listdir(self._root / "l"):
            with contextlib.suppress(OSError):
                if os.readlink(self._root / "l" / name) == target:
                    return name
        return read_short(self._root / layer_id)

    def replace(self, layer_id: str, staged_id: str) -> None:
        place, new = self._root / layer_id, self._root / staged_id
        aside = self._root / f"{layer_id}.replaced"
        short = self._known_short(layer_id) or short_name()
        self._forget_short(staged_id)
        (new / "link").write_text(short)
        self.moving.add(aside.name)
        with contextlib.suppress(FileNotFoundError):
            (place / "link").unlink(missing_ok=True)  # the name goes on to the new files
            place.rename(aside)
        new.rename(place)
        self.moving.discard(staged_id)
        if not os.path.lexists(self._root / "l" / short):
            os.symlink(f"../{layer_id}/diff", self._root / "l" / short)
        self.discard(aside.name)

    def strays(self, known: set[str]) -> list[Path]:
        links = [self._root / "l" / name for name in os.listdir(self._root / "l")]
        # "../<id>/disk/diff" leads to nothing, too, while that file system is not mounted
        return [link for link in links if not link.exists() and not self._has_owner(link, known)]

    def _has_owner(self, link: Path, known: set[str]) -> bool:
        """Whether there is somebody whose name this is."""
        snapshot_id = link.readlink().parts[1]
        return snapshot_id in known or (self._root / snapshot_id).exists()

    def container_flaw(self, container_id: str) -> str:
        if not self.upper_path(container_id).is_dir():
            return "its files are missing"
        lower = self._lower(container_id)
        if not lower:  # there is an init layer at least
            return "what it stands on is not known any more"
        lost = [link for link in lower if not (self._root / link).is_dir()]
        return f"{len(lost)} of the layers below it are missing" if lost else ""

    # -- containers ---------------------------------------------------------------------------------------------------

    def create(self, container_id: str, parent: str | None, *, size_limit: int = 0) -> None:
        lower = self._below(parent)
        init_id = f"{container_id}-init"
        try:
            init = self._make(init_id, lower)
            layers = [self._resolve(link) for link in lower]
            self._take_over_root(init / "diff", layers)
            init_layer.make(init / "diff", layers)
            (init / "committed").touch(mode=0o600)
            above = [f"l/{files.read_text(init / 'link')}", *lower]
            directory = self._make(container_id, above, size_limit=size_limit)
            self._take_over_root(self.upper_path(container_id), layers)
            (directory / "merged").mkdir(mode=0o700)
        except BaseException:
            self.remove(container_id)
            raise

    @staticmethod
    def _take_over_root(diff: Path, layers: list[Path]) -> None:
        """The topmost layer's "/" gives the merged root its owner and mode."""
        if layers:
            status = os.stat(layers[0])
            os.chown(diff, *user_namespace.owner(status))
            os.chmod(diff, stat.S_IMODE(status.st_mode))

    def remove(self, container_id: str) -> None:
        merged = self._root / container_id / "merged"
        with contextlib.suppress(OSError):
            mounting.umount2(str(merged), mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)
        self._limits.release(container_id)
        self.discard(container_id)
        self.discard(f"{container_id}-init")

    def _resolve(self, link: str) -> Path:
        return Path(os.path.normpath(self._root / "l" / os.readlink(self._root / link)))

    def _layers(self, snapshot_id: str) -> list[Path]:
        return [self._resolve(link) for link in self._lower(snapshot_id)]

    def _present(self, snapshot_id: str) -> list[Path]:
        """The layers below, without those whose link was lost: a damaged store must stay describable and sweepable."""
        return [self._resolve(link) for link in self._lower(snapshot_id) if (self._root / link).is_symlink()]

    def rootfs(self, container_id: str) -> RootfsMount:
        place = self._limits.place(container_id)
        return RootfsMount(
            type="overlay",
            lower=[f"{self._root}/{link}" for link in self._lower(container_id)],
            upper=str(place / "diff"),
            work=str(place / "work"),
            source="",
            target=str(self._root / container_id / "merged"),
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
        place = self._limits.place(container_id)
        return {
            "LowerDir": ":".join(str(path) for path in self._present(container_id)),
            "MergedDir": str(self._root / container_id / "merged"),
            "UpperDir": str(place / "diff"),
            "WorkDir": str(place / "work"),
        }

    def layer_data(self, layer_id: str) -> dict[str, str]:
        directory = self._root / layer_id
        described = {
            "MergedDir": str(directory / "merged"),
            "UpperDir": str(self.diff_path(layer_id)),
            "WorkDir": str(directory / "work"),
        }
        lower = self._present(layer_id)
        if lower:
            described["LowerDir"] = ":".join(str(path) for path in lower)
        return described

    def changes(self, container_id: str) -> list[Change]:
        # the init layer is no part of the image, and no change of the container either
        return changes.of_overlay(self.upper_path(container_id), self._layers(container_id))

    def upper_path(self, container_id: str) -> Path:
        return self._limits.place(container_id) / "diff"

    def usage(self, snapshot_id: str) -> int:
        if (self._root / snapshot_id / "source").exists():
            return 0
        return tree_size(self._limits.place(snapshot_id) / "diff")

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

"""Images mounted as directories: read-only, at a place of the container's own while it runs.

What is mounted is the image of the moment when the container was created: its layers stay as long as the container is
there.  A subpath is resolved inside the image, whose files nobody can change.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from corten.engine.mount_point import MountPoint
from corten.errors import InvalidParameter, NotFound
from corten.image.store import ImageStore
from corten.linux import mount as kernel
from corten.linux import paths
from corten.snapshot.api import Snapshotter

logger = logging.getLogger(__name__)


class ImageMounts:
    """The image mounts of one daemon's containers, below ``<exec-root>/images/<container id>/<number>``."""

    def __init__(self, exec_root: Path, images: ImageStore, snapshotter: Snapshotter) -> None:
        self._root = exec_root / "images"
        self._images = images
        self._snapshotter = snapshotter

    def located(self, point: MountPoint) -> MountPoint:
        """The point with the image that its source names and the true path of its subpath; others as they are.

        Errors: InvalidParameter for an absent image or subpath: a create that answers "not found" makes clients pull.
        """
        if point.type != "image":
            return point
        try:
            point = replace(point, image_id=self._images.get(point.image_id or point.source).id)
        except NotFound as error:
            raise InvalidParameter(error.message) from None
        with self._open_image(point) as root:
            try:
                found = paths.open_in_root(root, point.subpath, os.O_PATH)
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise InvalidParameter(
                    f"cannot access path {point.subpath} in image {point.source}: {reason}"
                ) from error
            try:
                return replace(point, subpath=_below(root, found))
            finally:
                os.close(found)

    @contextlib.contextmanager
    def pinned(self, points: Iterable[MountPoint]) -> Iterator[None]:
        """The images of all points stay while the block runs.  Errors: InvalidParameter when one has just gone."""
        with contextlib.ExitStack() as stack:
            for point in points:
                if point.type == "image":
                    try:
                        stack.enter_context(self._images.pin(point.image_id))
                    except NotFound as error:
                        raise InvalidParameter(error.message) from None
            yield

    @contextlib.contextmanager
    def _open_image(self, point: MountPoint) -> Iterator[int]:
        """A descriptor of the image's files on a detached mount.  Errors: InvalidParameter."""
        try:
            layers = self._images.get(point.image_id).layers
        except NotFound:
            raise InvalidParameter(f"the image of mount {point.destination} is gone: {point.source}") from None
        if not layers:
            raise InvalidParameter(f"image {point.source} has no files to mount on {point.destination}")
        with self._snapshotter.open_layer(layers[-1]) as descriptor:
            yield descriptor

    def mount_all(self, container_id: str, points: list[MountPoint]) -> list[MountPoint]:
        """Mount what the points name; gives the points with the places.  Nothing stays mounted when it fails.

        Errors: InvalidParameter, OSError.
        """
        if not any(point.type == "image" for point in points):
            return points
        try:
            return [
                replace(point, attached=self._attach(container_id, number, point)) if point.type == "image" else point
                for number, point in enumerate(points)
            ]
        except BaseException:
            self.unmount_all(container_id)
            raise

    def _attach(self, container_id: str, number: int, point: MountPoint) -> str:
        place = self._root / container_id / str(number)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._open_image(point) as descriptor:
            kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_RDONLY)
            target = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                kernel.move_mount(descriptor, target)
            finally:
                os.close(target)
        return f"{place}/{point.subpath}".rstrip("/")

    def unmount_all(self, container_id: str) -> None:
        """A container has ended; one without image mounts is no error."""
        directory = self._root / container_id
        if not directory.is_dir():
            return
        for place in directory.iterdir():
            with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there
                kernel.umount2(str(place), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
            place.rmdir()
        directory.rmdir()
        with contextlib.suppress(OSError):  # others have theirs below it
            self._root.rmdir()

    def sweep(self, running: Iterable[str]) -> None:
        """Unmount what containers that do not run any more have left."""
        kept = set(running)
        for name in os.listdir(self._root) if self._root.is_dir() else ():
            if name not in kept:
                logger.info("unmounting images of container %s, which has ended", name[:12])
                self.unmount_all(name)

    @contextlib.contextmanager
    def open(self, point: MountPoint) -> Iterator[int]:
        """A descriptor of what the point mounts, on a detached mount that is nobody else's.

        Errors: InvalidParameter.
        """
        with self._open_image(point) as root:
            kernel.mount_setattr(root, set_=kernel.MOUNT_ATTR_RDONLY)
            if not point.subpath:
                yield root
                return
            found = paths.open_in_root(root, point.subpath, os.O_PATH)
            try:
                yield found
            finally:
                os.close(found)


def _below(root: int, descriptor: int) -> str:
    """Where a file is, seen from the directory that it was opened in."""
    top, found = (os.readlink(f"/proc/self/fd/{number}") for number in (root, descriptor))
    return os.path.relpath(found, top) if found != top else ""

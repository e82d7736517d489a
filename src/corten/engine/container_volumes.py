"""What containers have to do with volumes: refer to them, fill them from the image, mount them while a program runs."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from corten.engine import copy_up
from corten.engine.events import Events
from corten.engine.mount_point import MountPoint
from corten.engine.volume_store import ANONYMOUS_LABEL, VolumeStore
from corten.errors import SystemFailure
from corten.linux import paths

logger = logging.getLogger(__name__)

RootOpener = Callable[[], AbstractContextManager[int]]


class ContainerVolumes:
    """The volumes of this daemon's containers.  May be used from any thread.

    Mount points of other kinds than volumes are passed over.
    """

    def __init__(self, store: VolumeStore, events: Events) -> None:
        self._store = store
        self._table = store.table
        self._mounts = store.mounts
        self._events = events

    def located(self, point: MountPoint) -> MountPoint:
        """The mount point of a new container with the places on the host that it will have."""
        if point.type != "volume":
            return point
        attached = str(self._mounts.place()) if point.subpath else ""
        return replace(point, source=str(self._store.path(point.name)), attached=attached)

    def acquire(self, point: MountPoint, container_id: str) -> bool:
        """Make a container's volume unless it is there, and note that it is used; True when it was made."""
        labels = {**point.labels, ANONYMOUS_LABEL: ""} if point.anonymous else point.labels
        with self._store.names.hold(point.name):
            made = self._store.ensure(point.name, labels, point.driver_options)
            self._table.refer(point.name, container_id)
        return made

    def acquire_all(self, container_id: str, points: Iterable[MountPoint], root: RootOpener) -> None:
        """What a new container needs of its volumes: they exist, are kept from removal, and are filled from the image.

        root: opens the root of the container's image when something is to be copied
        Errors: as ``create``; volumes that were made here are gone again then.
        """
        made: list[str] = []
        volumes = list(_volumes(points))
        try:
            for point in volumes:
                if self.acquire(point, container_id):
                    made.append(point.name)
            copied = [point for point in volumes if point.copy_up and not self._is_filled(point)]
            if copied:
                with root() as descriptor:
                    for point in copied:
                        self.copy_up(point, descriptor)
        except BaseException:
            self.release(container_id)
            for name in made:
                self._store.remove_unused(name)
            raise

    def release(self, container_id: str) -> None:
        """The container is gone: it uses nothing any more."""
        self._table.release(container_id)

    def remove_anonymous(self, points: Iterable[MountPoint]) -> None:
        """What ``rm -v`` removes: anonymous volumes that nobody else uses."""
        for point in _volumes(points):
            if point.anonymous:
                self._store.remove_unused(point.name)

    # -- while a container runs ----------------------------------------------------------------------------------------

    def mount_all(self, container_id: str, points: Iterable[MountPoint]) -> None:
        """A container starts: what its volumes stand for is there, or nothing is.

        Errors: NotFound, SystemFailure, InvalidParameter (a subpath that is not there).
        """
        done: list[MountPoint] = []
        try:
            for point in _volumes(points):
                done.append(point)
                self._mount(point, container_id)
        except BaseException:
            for point in done:
                self._unmount(point, container_id)
            raise
        for point in done:
            self._publish_mount(point, container_id)

    def _mount(self, point: MountPoint, user: str) -> None:
        volume = self._store.get(point.name)
        if not self._store.path(point.name).is_dir():
            raise SystemFailure(f"the directory of volume {point.name} is missing: {point.source}", step="mount volume")
        self._mounts.hold(point.name, volume.options, user)
        if point.attached:
            self._mounts.attach_subpath(point.name, point.subpath, Path(point.attached))

    def _unmount(self, point: MountPoint, user: str) -> None:
        try:
            if point.attached:
                self._mounts.detach_subpath(Path(point.attached))
            self._mounts.drop(point.name, user)
        except OSError as error:
            logger.warning("cannot unmount volume %s: %s", point.name, error)

    def _publish_mount(self, point: MountPoint, container_id: str) -> None:
        attributes = {
            "container": container_id,
            "destination": point.destination,
            "driver": point.driver,
            "propagation": point.propagation,
            "read/write": "true" if point.rw else "false",
        }
        self._events.publish("volume", "mount", point.name, attributes)

    def unmount_all(self, container_id: str, points: Iterable[MountPoint]) -> None:
        """A container has ended."""
        for point in _volumes(points):
            self._unmount(point, container_id)
            self._events.publish("volume", "unmount", point.name, {"container": container_id, "driver": point.driver})

    @contextmanager
    def mounted(self, points: Iterable[MountPoint]) -> Iterator[None]:
        """What the volumes stand for is there while the block runs: for files of a container that does not run."""
        user = f"files-{secrets.token_hex(8)}"
        held: list[str] = []
        try:
            for point in _volumes(points):
                self._mounts.hold(point.name, self._store.get(point.name).options, user)
                held.append(point.name)
            yield
        finally:
            for name in held:
                self._mounts.drop(name, user)

    def open_volume(self, point: MountPoint) -> int:
        """An O_PATH descriptor of what the point mounts.  Errors: InvalidParameter for an absent subpath."""
        return self._mounts.open_subpath(point.name, point.subpath)

    # -- copy-up -------------------------------------------------------------------------------------------------------

    def _is_filled(self, point: MountPoint) -> bool:
        """Certainly not empty; a volume that needs a mount is looked at later."""
        if point.subpath or self._store.get(point.name).options:
            return False
        with os.scandir(self._store.path(point.name)) as entries:
            return next(entries, None) is not None

    def copy_up(self, point: MountPoint, root: int) -> None:
        """Fill an empty volume with what the image has at its mount point; nothing there is no error.

        root: a descriptor of the image's root
        Errors: SystemFailure; the volume is empty again then.
        """
        try:
            source = paths.open_in_root(root, point.destination, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return  # nothing in the image, or no directory
        try:
            with self._store.names.hold(point.name), self.mounted([point]):
                self._fill(point, source)
        except OSError as error:
            raise SystemFailure(
                f"failed to populate volume {point.name} from {point.destination}: {error}",
                step="copy up",
                errno=error.errno or 0,
            ) from error
        finally:
            os.close(source)

    def _fill(self, point: MountPoint, source: int) -> None:
        place = self.open_volume(point)
        try:
            target = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError:
            return  # a subpath may be a file
        finally:
            os.close(place)
        try:
            if os.listdir(target):
                return
            self._table.set_filling(point.name, True)
            copy_up.copy_up(source, target)
            self._table.set_filling(point.name, False)
        finally:
            os.close(target)

    # -- start of the daemon -------------------------------------------------------------------------------------------

    def recover(self, running: Mapping[str, Sequence[MountPoint]], known: set[str]) -> None:
        """After a crash or a reboot: forget what no container uses, take over the mounts of those that run.

        running: mount points of the containers that run, by id;  known: ids of all containers
        """
        for container_id in self._table.all_users() - known:
            self.release(container_id)
        self._store.recover()
        for container_id, points in running.items():
            for point in _volumes(points):
                row = self._table.find(point.name)
                if row is not None:
                    self._mounts.adopt(point.name, row.options, container_id)
        self._mounts.sweep_subpaths(point.attached for points in running.values() for point in points)


def _volumes(points: Iterable[MountPoint]) -> Iterator[MountPoint]:
    return (point for point in points if point.type == "volume")

"""Volumes: directories that outlive containers, ``<data-root>/volumes/<name>/_data``.

Names, labels, options and users are rows of the engine's database.  A volume is removed by giving its directory a
hidden name first: after a crash it is there whole, or swept.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from corten.dockerapi.timestamps import format_ns
from corten.dockerapi.volume import VolumeCreate
from corten.engine import copy_up
from corten.engine import filters as filtering
from corten.engine.events import Events
from corten.engine.mount_point import MountPoint, check_volume_name
from corten.engine.streams import run_blocking
from corten.engine.volume_mounts import NameLocks, VolumeMounts, check_options
from corten.engine.volume_table import VolumeRow, VolumeTable
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound, SystemFailure
from corten.linux import paths
from corten.snapshot.overlay import tree_size

logger = logging.getLogger(__name__)

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_REMOVING = ".removing-"

Documents = list[dict[str, Any]]
Names = list[str]
Points = list[MountPoint]
RootOpener = Callable[[], AbstractContextManager[int]]


class Volumes:
    """The volumes of this daemon.  The synchronous methods may be called from any thread."""

    def __init__(self, data_root: Path, database: sqlite3.Connection, events: Events) -> None:
        """database: in autocommit mode, not bound to a thread"""
        self._root = data_root / "volumes"
        self._root.mkdir(mode=0o701, parents=True, exist_ok=True)
        self._table = VolumeTable(database)
        self._events = events
        self._names = NameLocks()  # around changes of one volume
        self._mounts = VolumeMounts(self._root)

    def _get(self, name: str) -> VolumeRow:
        row = self._table.find(name)
        if row is None:
            raise NotFound(f"get {name}: no such volume")
        return row

    def users(self, name: str) -> Names:
        """Ids of the containers that name a volume, running or not."""
        return self._table.users(name)

    # -- as the API sees them -----------------------------------------------------------------------------------------

    async def create(self, request: VolumeCreate) -> dict[str, Any]:
        """The new volume, or the one of that name.

        Errors: InvalidParameter (name, options), NotFound (driver), Conflict (it exists with other options).
        """
        name = request.name or secrets.token_hex(32)
        if request.driver not in ("", "local"):
            plugin = request.driver
            raise NotFound(f'create {name}: error looking up volume plugin {plugin}: plugin "{plugin}" not found')
        if request.cluster_volume_spec is not None:
            raise InvalidParameter("cluster volumes need a swarm, which is not supported")
        labels = dict(request.labels) if request.name else {**request.labels, ANONYMOUS_LABEL: ""}
        await run_blocking(self._ensure, name, labels, dict(request.driver_opts))
        return await self.inspect(name)

    async def inspect(self, name: str) -> dict[str, Any]:
        """Errors: NotFound."""
        return self._document(self._get(name))

    def _document(self, volume: VolumeRow) -> dict[str, Any]:
        return {
            "CreatedAt": format_ns(volume.created_ns - volume.created_ns % 10**9),
            "Driver": "local",
            "Labels": volume.labels or None,
            "Mountpoint": str(self.path(volume.name)),
            "Name": volume.name,
            "Options": volume.options or None,
            "Scope": "local",
        }

    async def list(self, wanted: filtering.Filters) -> dict[str, Any]:
        """Errors: InvalidParameter for an unknown filter."""
        filtering.check_known(wanted, ("dangling", "driver", "label", "label!", "name"))
        dangling = filtering.boolean(wanted, "dangling") if wanted.get("dangling") else None
        used = self._table.used()
        shown = [
            self._document(volume)
            for volume in self._table.all()
            if (dangling is None or dangling == (volume.name not in used)) and _matches(volume, wanted)
        ]
        return {"Volumes": shown, "Warnings": None}

    async def remove(self, name: str, force: bool = False) -> None:
        """Errors: NotFound (unless forced), Conflict "volume is in use - [ids]", SystemFailure."""
        if self._table.find(name) is None and force:
            return
        await run_blocking(self._remove, name)

    async def prune(self, wanted: filtering.Filters) -> dict[str, Any]:
        """Remove unused volumes: anonymous ones, with the filter ``all`` named ones too."""
        filtering.check_known(wanted, ("all", "label", "label!"))
        everything = filtering.boolean(wanted, "all")
        deleted, reclaimed = await run_blocking(self._prune, everything, wanted)
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return {"VolumesDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    def _prune(self, everything: bool, wanted: filtering.Filters) -> tuple[Names, int]:
        deleted, reclaimed = [], 0
        for volume in self._table.all():
            if not (everything or ANONYMOUS_LABEL in volume.labels) or not filtering.labels_match(
                volume.labels, wanted
            ):
                continue
            if self._table.users(volume.name):
                continue
            size = tree_size(self.path(volume.name))
            try:
                self._remove(volume.name)
            except CortenError as error:
                logger.warning("prune leaves volume %s: %s", volume.name, error)
                continue
            deleted.append(volume.name)
            reclaimed += size
        return deleted, reclaimed

    def usage(self) -> Documents:
        """Documents with ``UsageData``, for ``system df``; walks the volumes."""
        documents = []
        for volume in self._table.all():
            used = {"RefCount": len(self._table.users(volume.name)), "Size": tree_size(self.path(volume.name))}
            documents.append({**self._document(volume), "UsageData": used})
        return documents

    # -- make and remove ----------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """The volume's directory on the host.  Errors: InvalidParameter for a name that is none."""
        check_volume_name(name)
        return self._root / name / "_data"

    def _ensure(self, name: str, labels: dict[str, str], options: dict[str, str]) -> bool:
        """Make a volume unless it is there; True when it was made.  Errors: InvalidParameter, Conflict."""
        place = self.path(name)
        try:
            check_options(options)
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error.message}") from error
        with self._names.hold(name):
            known = self._table.find(name)
            if known is not None:
                if options and known.options != options:
                    raise Conflict(
                        f"create {name}: conflict: volume name must be unique: it exists with other driver options"
                    )
                return False
            place.parent.mkdir(mode=0o701, exist_ok=True)
            place.mkdir(mode=0o755, exist_ok=True)
            self._table.add(name, labels, options)
        self._events.publish("volume", "create", name, {"driver": "local"})
        return True

    def _remove(self, name: str) -> None:
        hidden = f"{_REMOVING}{secrets.token_hex(8)}"
        with self._names.hold(name):
            self._get(name)
            users = self._table.users(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            self._mounts.detach(name)
            if (self._root / name).exists():
                os.rename(self._root / name, self._root / hidden)
            self._table.remove(name)
        self._events.publish("volume", "destroy", name, {"driver": "local"})
        self._sweep(hidden)

    def _sweep(self, hidden: str) -> None:
        directory = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.remove_tree(directory, hidden)
        except OSError as error:
            raise SystemFailure(
                f"the files of a removed volume stay in {self._root / hidden}: {error}",
                step="remove volume",
                errno=error.errno or 0,
            ) from error
        finally:
            os.close(directory)

    # -- for containers -----------------------------------------------------------------------------------------------

    def located(self, point: MountPoint) -> MountPoint:
        """The mount point of a new container with the places on the host that it will have."""
        if point.type != "volume":
            return point
        attached = str(self._mounts.place()) if point.subpath else ""
        return replace(point, source=str(self.path(point.name)), attached=attached)

    def acquire(self, point: MountPoint, container_id: str) -> bool:
        """Make a container's volume unless it is there, and note that it is used; True when it was made."""
        labels = {**point.labels, ANONYMOUS_LABEL: ""} if point.anonymous else point.labels
        with self._names.hold(point.name):
            made = self._ensure(point.name, labels, point.driver_options)
            self._table.refer(point.name, container_id)
        return made

    def acquire_all(self, container_id: str, points: Iterable[MountPoint], root: RootOpener) -> None:
        """What a new container needs of its volumes: they exist, are kept from removal, and are filled from the image.

        root: opens the root of the container's image when something is to be copied
        Errors: as ``create``; volumes that were made here are gone again then.
        """
        made: Names = []
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
                self._remove_unused(name)
            raise

    def release(self, container_id: str) -> None:
        """The container is gone: it uses nothing any more."""
        self._table.release(container_id)

    def remove_anonymous(self, points: Iterable[MountPoint]) -> None:
        """What ``rm -v`` removes: anonymous volumes that nobody else uses."""
        for point in _volumes(points):
            if point.anonymous:
                self._remove_unused(point.name)

    def _remove_unused(self, name: str) -> None:
        try:
            self._remove(name)
        except (Conflict, NotFound):
            pass  # somebody else uses it or has removed it
        except (CortenError, OSError) as error:
            logger.warning("cannot remove volume %s: %s", name, error)

    # -- while a container runs ---------------------------------------------------------------------------------------

    def mount_all(self, container_id: str, points: Iterable[MountPoint]) -> None:
        """A container starts: what its volumes stand for is there, or nothing is.

        Errors: NotFound, SystemFailure, InvalidParameter (a subpath that is not there).
        """
        done: Points = []
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
        volume = self._get(point.name)
        if not self.path(point.name).is_dir():
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
        held: Names = []
        try:
            for point in _volumes(points):
                self._mounts.hold(point.name, self._get(point.name).options, user)
                held.append(point.name)
            yield
        finally:
            for name in held:
                self._mounts.drop(name, user)

    def open_volume(self, point: MountPoint) -> int:
        """An O_PATH descriptor of what the point mounts.  Errors: InvalidParameter for an absent subpath."""
        return self._mounts.open_subpath(point.name, point.subpath)

    # -- copy-up ------------------------------------------------------------------------------------------------------

    def _is_filled(self, point: MountPoint) -> bool:
        """Certainly not empty; a volume that needs a mount is looked at later."""
        if point.subpath or self._get(point.name).options:
            return False
        with os.scandir(self.path(point.name)) as entries:
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
            with self._names.hold(point.name), self.mounted([point]):
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

    # -- repair -------------------------------------------------------------------------------------------------------

    def astray(self) -> tuple[Names, Names]:
        """(volumes whose directory is missing, directories that are no recorded volume)."""
        found = [name for name in os.listdir(self._root) if not name.startswith(".")]
        known = [volume.name for volume in self._table.all()]
        lost = [name for name in known if not self.path(name).is_dir() and self._table.find(name) is not None]
        return lost, sorted(name for name in set(found) - set(known) if self._is_unrecorded(name))

    def _is_unrecorded(self, name: str) -> bool:
        with self._names.hold(name):  # one that is being made or removed has its directory and no record
            return self._table.find(name) is None and (self._root / name).exists()

    def recover_directory(self, name: str) -> None:
        """An empty directory for a volume that has lost its own."""
        with self._names.hold(name):
            self.path(name).mkdir(mode=0o755, parents=True, exist_ok=True)

    def adopt(self, name: str) -> None:
        """Record a directory as the volume that it was.  Errors: InvalidParameter for a name that no volume has."""
        self._ensure(name, {}, {})

    # -- start of the daemon ------------------------------------------------------------------------------------------

    def recover(self, running: Mapping[str, Sequence[MountPoint]], known: set[str]) -> None:
        """After a crash or a reboot: forget what no container uses, finish removals, empty what was half filled.

        running: mount points of the containers that run, by id;  known: ids of all containers
        """
        for container_id in self._table.all_users() - known:
            self.release(container_id)
        for name in os.listdir(self._root):
            if name.startswith(_REMOVING):
                self._try_sweep(name)
        for volume in self._table.all():
            self._recover(volume)
        for container_id, points in running.items():
            for point in _volumes(points):
                row = self._table.find(point.name)
                if row is not None:
                    self._mounts.adopt(point.name, row.options, container_id)
        self._mounts.sweep_subpaths(point.attached for points in running.values() for point in points)

    def _try_sweep(self, hidden: str) -> None:
        try:
            self._sweep(hidden)
        except CortenError as error:
            logger.warning("%s", error)

    def _recover(self, volume: VolumeRow) -> None:
        place = self.path(volume.name)
        if not place.is_dir():
            if not self._table.users(volume.name):
                self._table.remove(volume.name)
                return
            logger.error("the directory of volume %s was missing: it is empty now", volume.name)
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
        if volume.filling:
            logger.warning("volume %s was half filled: emptied", volume.name)
            if not volume.options:
                directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    copy_up.empty(directory)
                finally:
                    os.close(directory)
            self._table.set_filling(volume.name, False)


def _volumes(points: Iterable[MountPoint]) -> Iterator[MountPoint]:
    return (point for point in points if point.type == "volume")


def _matches(volume: VolumeRow, wanted: filtering.Filters) -> bool:
    if wanted.get("driver") and "local" not in wanted["driver"]:
        return False
    if wanted.get("name") and not any(filtering.text_matches(volume.name, value) for value in wanted["name"]):
        return False
    return filtering.labels_match(volume.labels, wanted)

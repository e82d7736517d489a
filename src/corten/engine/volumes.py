"""Volumes: directories that outlive containers.

``<data-root>/volumes/<name>/_data``; a volume of driver options (type, o, device) is a file system that is mounted there
while a container uses it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corten.dockerapi.timestamps import format_ns
from corten.dockerapi.volume import VolumeCreate
from corten.engine import filters as filtering
from corten.engine.events import Events
from corten.engine.mount_points import MountPoint, check_volume_name
from corten.engine.streams import run_blocking
from corten.errors import Conflict, InvalidParameter, NotFound, SystemFailure
from corten.linux import mount as mounting
from corten.linux import paths
from corten.runtime import mount_options
from corten.snapshot.overlay import tree_size

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, labels TEXT NOT NULL, options TEXT NOT NULL, anonymous INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS volume_references (
    name TEXT NOT NULL, container TEXT NOT NULL, PRIMARY KEY (name, container)
) WITHOUT ROWID;
"""
_OPTIONS = ("type", "o", "device")
ANONYMOUS_LABEL = "com.docker.volume.anonymous"


class Volumes:
    """The volumes of this daemon.  The synchronous methods may be called from worker threads."""

    def __init__(self, data_root: Path, database: sqlite3.Connection, events: Events) -> None:
        self._root = data_root / "volumes"
        self._database = database
        self._events = events
        self._lock = threading.RLock()
        self._mounted: dict[str, set[str]] = {}
        database.executescript(_SCHEMA)

    # -- as the API sees them -----------------------------------------------------------------------------------------

    async def create(self, request: VolumeCreate) -> dict[str, Any]:
        """Errors: InvalidParameter (name, driver, options), Conflict with a volume of other options."""
        if request.driver not in ("", "local"):
            raise NotFound(f'error looking up volume plugin {request.driver}: plugin "{request.driver}" not found')
        if request.cluster_volume_spec is not None:
            raise InvalidParameter("cluster volumes need a swarm")
        name = request.name or secrets.token_hex(32)
        labels = dict(request.labels) if request.name else {**request.labels, ANONYMOUS_LABEL: ""}
        made = await run_blocking(self._ensure, name, labels, dict(request.driver_opts), not request.name)
        if made:
            self._events.publish("volume", "create", name, {"driver": "local"})
        return await self.inspect(name)

    async def inspect(self, name: str) -> dict[str, Any]:
        with self._lock:
            row = self._database.execute(
                "SELECT name, created_ns, labels, options FROM volumes WHERE name=?", (name,)
            ).fetchone()
        if row is None:
            raise NotFound(f"get {name}: no such volume")
        return self._document(row)

    def _document(self, row: tuple[str, int, str, str]) -> dict[str, Any]:
        name, created_ns, labels, options = row
        return {
            "CreatedAt": format_ns(created_ns - created_ns % 10**9),
            "Driver": "local",
            "Labels": json.loads(labels) or None,
            "Mountpoint": str(self.path(name)),
            "Name": name,
            "Options": json.loads(options) or None,
            "Scope": "local",
        }

    async def list(self, wanted: dict[str, list[str]]) -> dict[str, Any]:
        """Errors: InvalidParameter for an unknown filter."""
        filtering.check_known(wanted, ("dangling", "driver", "label", "name"))
        with self._lock:
            rows = self._database.execute("SELECT name, created_ns, labels, options FROM volumes ORDER BY name").fetchall()
            used = {name for (name,) in self._database.execute("SELECT DISTINCT name FROM volume_references")}
        documents = [self._document(row) for row in rows]
        return {"Volumes": [item for item in documents if _matches(item, wanted, used)], "Warnings": None}

    async def remove(self, name: str, force: bool = False) -> None:
        """Errors: NotFound (unless forced), Conflict "volume is in use - [ids]"."""
        with self._lock:
            known = self._database.execute("SELECT 1 FROM volumes WHERE name=?", (name,)).fetchone()
            users = self.users(name)
        if not known:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        await run_blocking(self._delete, name)
        self._events.publish("volume", "destroy", name, {"driver": "local"})

    async def prune(self, wanted: dict[str, list[str]]) -> dict[str, Any]:
        """Remove unused volumes: anonymous ones, with the filter ``all`` named ones too."""
        filtering.check_known(wanted, ("all", "label", "label!"))
        everything = any(value.lower() in ("1", "true") for value in wanted.get("all", ()))
        with self._lock:
            rows = self._database.execute(
                "SELECT name, labels, anonymous FROM volumes WHERE name NOT IN (SELECT name FROM volume_references)"
            ).fetchall()
        deleted, reclaimed = [], 0
        for name, labels, anonymous in rows:
            if not (anonymous or everything) or not filtering.labels_match(json.loads(labels), wanted):
                continue
            size = await run_blocking(tree_size, self.path(name))
            await self.remove(name)
            deleted.append(name)
            reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return {"VolumesDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    def usage(self) -> list[dict[str, Any]]:
        """Documents with ``UsageData``, for ``system df``; walks the volumes."""
        with self._lock:
            rows = self._database.execute("SELECT name, created_ns, labels, options FROM volumes ORDER BY name").fetchall()
        documents = []
        for row in rows:
            document = self._document(row)
            document["UsageData"] = {"RefCount": len(self.users(row[0])), "Size": tree_size(self.path(row[0]))}
            documents.append(document)
        return documents

    # -- for containers -----------------------------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """The volume's directory on the host."""
        check_volume_name(name)
        return self._root / name / "_data"

    def users(self, name: str) -> list[str]:
        """Ids of the containers that name a volume."""
        with self._lock:
            rows = self._database.execute("SELECT container FROM volume_references WHERE name=? ORDER BY container", (name,))
            return [container for (container,) in rows]

    def _ensure(self, name: str, labels: dict[str, str], options: dict[str, str], anonymous: bool) -> bool:
        """Make a volume unless it is there; True when it was made."""
        check_volume_name(name)
        _check_options(options)
        with self._lock:
            row = self._database.execute("SELECT options FROM volumes WHERE name=?", (name,)).fetchone()
            if row is not None:
                if options and json.loads(row[0]) != options:
                    raise Conflict(f"create {name}: conflict: volume name must be unique: it exists with other options")
                return False
            directory = self._root / name
            directory.mkdir(mode=0o701, exist_ok=True)
            (directory / "_data").mkdir(mode=0o755, exist_ok=True)
            self._database.execute(
                "INSERT INTO volumes VALUES (?, ?, ?, ?, ?)",
                (name, time.time_ns(), json.dumps(labels), json.dumps(options), int(anonymous)),
            )
            return True

    def ensure_all(self, container_id: str, points: Iterable[MountPoint]) -> list[str]:
        """Make the volumes of a new container and note that it uses them; names of those that were made."""
        made = []
        for point in points:
            labels = {**point.labels, ANONYMOUS_LABEL: ""} if point.anonymous else point.labels
            if self._ensure(point.name, labels, point.driver_options, point.anonymous):
                made.append(point.name)
            with self._lock:
                self._database.execute("INSERT OR IGNORE INTO volume_references VALUES (?, ?)", (point.name, container_id))
        return made

    def release(self, container_id: str) -> None:
        """The container is gone: it uses nothing any more."""
        with self._lock:
            self._database.execute("DELETE FROM volume_references WHERE container=?", (container_id,))

    def remove_anonymous(self, points: Iterable[MountPoint]) -> None:
        """What ``rm -v`` removes: anonymous volumes that nobody else uses."""
        for point in points:
            if point.type == "volume" and point.anonymous and not self.users(point.name):
                self._delete(point.name)

    def _delete(self, name: str) -> None:
        with self._lock:
            directory = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                try:
                    paths.remove_tree(directory, name)
                except OSError as error:
                    raise SystemFailure(f"remove {name}: {error}", step="remove volume", errno=error.errno or 0) from error
            finally:
                os.close(directory)
            self._database.execute("DELETE FROM volumes WHERE name=?", (name,))

    # -- mounts -------------------------------------------------------------------------------------------------------

    def mount(self, name: str, container_id: str) -> None:
        """A container starts: mount what a volume of driver options stands for."""
        with self._lock:
            row = self._database.execute("SELECT options FROM volumes WHERE name=?", (name,)).fetchone()
            if row is None:
                raise NotFound(f"get {name}: no such volume")
            options = json.loads(row[0])
            if not options:
                return
            users = self._mounted.setdefault(name, set())
            if not users and not _is_mounted(self.path(name)):
                self._attach(name, options)
            users.add(container_id)

    def _attach(self, name: str, options: dict[str, str]) -> None:
        target = str(self.path(name))
        parsed = mount_options.parse([item for item in options.get("o", "").split(",") if item])
        try:
            if parsed.bind:
                descriptor = mounting.clone_tree(options["device"], recursive=parsed.recursive)
                mounting.mount_setattr(descriptor, set_=parsed.set_)
            else:
                descriptor = mounting.new_filesystem(options["type"], options.get("device", ""), parsed.data, parsed.set_)
            try:
                place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    mounting.move_mount(descriptor, place)
                finally:
                    os.close(place)
            finally:
                os.close(descriptor)
        except (OSError, KeyError) as error:
            raise SystemFailure(
                f"failed to mount local volume: mount {options.get('device', '')}:{target}: {error}", step="mount volume"
            ) from error

    def unmount(self, name: str, container_id: str) -> None:
        """A container has ended: unmount when it was the last user."""
        with self._lock:
            users = self._mounted.get(name)
            if users is None or container_id not in users:
                return
            users.discard(container_id)
            if not users:
                del self._mounted[name]
                with contextlib.suppress(OSError):
                    mounting.umount2(str(self.path(name)), mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)

    def adopt(self, name: str, container_id: str) -> None:
        """A container that runs already uses the volume."""
        with self._lock:
            row = self._database.execute("SELECT options FROM volumes WHERE name=?", (name,)).fetchone()
            if row is not None and json.loads(row[0]):
                self._mounted.setdefault(name, set()).add(container_id)

    # -- copy-up ------------------------------------------------------------------------------------------------------

    def copy_up(self, name: str, root: int, destination: str) -> None:
        """Fill an empty volume with what the image has at its mount point.

        Both sides are descriptors and the source is resolved inside the root: a link in the image leads nowhere else.
        """
        target = os.open(self.path(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if os.listdir(target):
                return
            try:
                source = paths.open_in_root(root, destination, os.O_RDONLY | os.O_DIRECTORY)
            except OSError:
                return  # nothing in the image, or no directory
            try:
                copy_directory(source, target)
            finally:
                os.close(source)
        finally:
            os.close(target)


def _is_mounted(path: Path) -> bool:
    return os.stat(path).st_dev != os.stat(path.parent).st_dev


def _check_options(options: dict[str, str]) -> None:
    for name in options:
        if name not in _OPTIONS:
            raise InvalidParameter(f'invalid option: "{name}"')
    if options and "type" not in options and "bind" not in options.get("o", ""):
        raise InvalidParameter('missing required option: "type"')
    if "o" in options and "device" not in options:
        raise InvalidParameter('missing required option: "device"')


def _matches(document: dict[str, Any], wanted: dict[str, list[str]], used: set[str]) -> bool:
    if "dangling" in wanted:
        dangling = document["Name"] not in used
        if all(filtering.parse_boolean("dangling", value) != dangling for value in wanted["dangling"]):
            return False
    if "driver" in wanted and document["Driver"] not in wanted["driver"]:
        return False
    if "name" in wanted and not any(value in document["Name"] for value in wanted["name"]):
        return False
    return filtering.labels_match(document["Labels"] or {}, wanted)


def copy_directory(source: int, target: int) -> None:
    """Copy what is below one directory descriptor to another: owners, modes, times, links, extended attributes."""
    for name in os.listdir(source):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
            continue
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            below, made = os.open(name, flags, dir_fd=source), os.open(name, flags, dir_fd=target)
            try:
                copy_directory(below, made)
            finally:
                os.close(below)
                os.close(made)
            continue
        if stat.S_ISREG(status.st_mode):
            _copy_file(source, target, name, status)
        else:
            os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
            os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    _copy_attributes(source, target)


def _copy_file(source: int, target: int, name: str, status: os.stat_result) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
    writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(writing, reading, None, 1 << 24):
            pass
        _copy_attributes(reading, writing)
    finally:
        os.close(reading)
        os.close(writing)


def _copy_attributes(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay."):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

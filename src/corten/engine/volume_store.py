"""Volumes on disk: directories that outlive containers, ``<data-root>/volumes/<name>/_data``, and their rows.

Names, labels, options and users are rows of the engine's database.  A volume is removed by giving its directory a
hidden name first: after a crash it is there whole, or swept.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from pathlib import Path

from corten.engine import copy_up
from corten.engine.events import Events
from corten.engine.mount_point import check_volume_name
from corten.engine.volume_mounts import NameLocks, VolumeMounts, check_options
from corten.engine.volume_table import VolumeRow, VolumeTable
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound, SystemFailure
from corten.linux import paths

logger = logging.getLogger(__name__)

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
_REMOVING = ".removing-"


class VolumeStore:
    """Makes, removes and repairs volumes.  May be used from any thread.

    table:  their rows
    mounts: what is mounted on them
    names:  held around changes of one volume
    """

    def __init__(self, data_root: Path, database: sqlite3.Connection, events: Events) -> None:
        """database: in autocommit mode, not bound to a thread"""
        self._root = data_root / "volumes"
        self._root.mkdir(mode=0o701, parents=True, exist_ok=True)
        self._events = events
        self.table = VolumeTable(database)
        self.mounts = VolumeMounts(self._root)
        self.names = NameLocks()

    def path(self, name: str) -> Path:
        """The volume's directory on the host.  Errors: InvalidParameter for a name that is none."""
        check_volume_name(name)
        return self._root / name / "_data"

    def get(self, name: str) -> VolumeRow:
        """Errors: NotFound."""
        row = self.table.find(name)
        if row is None:
            raise NotFound(f"get {name}: no such volume")
        return row

    def ensure(self, name: str, labels: dict[str, str], options: dict[str, str]) -> bool:
        """Make a volume unless one of this name is there, whatever its options; True when it was made.

        Errors: InvalidParameter.
        """
        place = self.path(name)
        try:
            check_options(options)
        except InvalidParameter as error:
            raise InvalidParameter(f"create {name}: {error.message}") from error
        with self.names.hold(name):
            known = self.table.find(name)
            if known is not None:
                if options and known.options != options:
                    logger.info("volume %s exists with other options, which it keeps", name)
                return False
            place.parent.mkdir(mode=0o701, exist_ok=True)
            place.mkdir(mode=0o755, exist_ok=True)
            self.table.add(name, labels, options)
        self._events.publish("volume", "create", name, {"driver": "local"})
        return True

    def remove(self, name: str) -> None:
        """Errors: NotFound, Conflict "volume is in use - [ids]", SystemFailure (it is gone, files of it are left)."""
        hidden = f"{_REMOVING}{secrets.token_hex(8)}"
        with self.names.hold(name):
            self.get(name)
            users = self.table.users(name)
            if users:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
            self.mounts.detach(name)
            if (self._root / name).exists():
                os.rename(self._root / name, self._root / hidden)
            self.table.remove(name)
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

    def remove_unused(self, name: str) -> None:
        """Remove a volume unless a container names it; what goes wrong is logged."""
        try:
            self.remove(name)
        except (Conflict, NotFound):
            pass  # somebody else uses it or has removed it
        except (CortenError, OSError) as error:
            logger.warning("cannot remove volume %s: %s", name, error)

    # -- repair --------------------------------------------------------------------------------------------------------

    def astray(self) -> tuple[list[str], list[str]]:
        """(volumes whose directory is missing, directories that are no recorded volume)."""
        found = [name for name in os.listdir(self._root) if not name.startswith(".")]
        known = [volume.name for volume in self.table.all()]
        lost = [name for name in known if not self.path(name).is_dir() and self.table.find(name) is not None]
        return lost, sorted(name for name in set(found) - set(known) if self._is_unrecorded(name))

    def _is_unrecorded(self, name: str) -> bool:
        with self.names.hold(name):  # one that is being made or removed has its directory and no record
            return self.table.find(name) is None and (self._root / name).exists()

    def recover_directory(self, name: str) -> None:
        """An empty directory for a volume that has lost its own."""
        with self.names.hold(name):
            self.path(name).mkdir(mode=0o755, parents=True, exist_ok=True)

    def adopt(self, name: str) -> None:
        """Record a directory as the volume that it was.  Errors: InvalidParameter for a name that no volume has."""
        self.ensure(name, {}, {})

    # -- start of the daemon -------------------------------------------------------------------------------------------

    def recover(self) -> None:
        """After a crash or a reboot: finish removals, empty what was half filled."""
        for name in os.listdir(self._root):
            if name.startswith(_REMOVING):
                self._try_sweep(name)
        for volume in self.table.all():
            self._recover(volume)

    def _try_sweep(self, hidden: str) -> None:
        try:
            self._sweep(hidden)
        except CortenError as error:
            logger.warning("%s", error)

    def _recover(self, volume: VolumeRow) -> None:
        place = self.path(volume.name)
        if not place.is_dir():
            if not self.table.users(volume.name):
                self.table.remove(volume.name)
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
            self.table.set_filling(volume.name, False)

"""Volumes, as the API sees them: create, list, remove, prune.

What they are on disk is ``volume_store``'s; what containers do with them is in ``container_volumes``.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from pathlib import Path
from typing import Any

from corten.dockerapi.timestamps import format_ns
from corten.dockerapi.volume import VolumeCreate
from corten.engine import filters as filtering
from corten.engine.container_volumes import ContainerVolumes
from corten.engine.events import Events
from corten.engine.streams import run_blocking
from corten.engine.volume_store import ANONYMOUS_LABEL, VolumeStore
from corten.engine.volume_table import VolumeRow
from corten.errors import CortenError, InvalidParameter, NotFound
from corten.snapshot.overlay import tree_size

logger = logging.getLogger(__name__)

Documents = list[dict[str, Any]]
Names = list[str]


class Volumes:
    """The volumes of this daemon."""

    def __init__(self, data_root: Path, database: sqlite3.Connection, events: Events) -> None:
        """database: in autocommit mode, not bound to a thread"""
        self._events = events
        self.store = VolumeStore(data_root, database, events)
        self.of_containers = ContainerVolumes(self.store, events)
        self._table = self.store.table

    def users(self, name: str) -> Names:
        """Ids of the containers that name a volume, running or not."""
        return self._table.users(name)

    async def create(self, request: VolumeCreate) -> dict[str, Any]:
        """The new volume, or the one of that name as it is.

        Errors: InvalidParameter (name, options), NotFound (driver).
        """
        name = request.name or secrets.token_hex(32)
        if request.driver not in ("", "local"):
            plugin = request.driver
            raise NotFound(f'create {name}: error looking up volume plugin {plugin}: plugin "{plugin}" not found')
        if request.cluster_volume_spec is not None:
            raise InvalidParameter("cluster volumes need a swarm, which is not supported")
        labels = dict(request.labels) if request.name else {**request.labels, ANONYMOUS_LABEL: ""}
        await run_blocking(self.store.ensure, name, labels, dict(request.driver_opts))
        return await self.inspect(name)

    async def inspect(self, name: str) -> dict[str, Any]:
        """Errors: NotFound."""
        return self._document(self.store.get(name))

    def _document(self, volume: VolumeRow) -> dict[str, Any]:
        return {
            "CreatedAt": format_ns(volume.created_ns - volume.created_ns % 10**9),
            "Driver": "local",
            "Labels": volume.labels or None,
            "Mountpoint": str(self.store.path(volume.name)),
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
        await run_blocking(self.store.remove, name)

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
            size = tree_size(self.store.path(volume.name))
            try:
                self.store.remove(volume.name)
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
            used = {"RefCount": len(self._table.users(volume.name)), "Size": tree_size(self.store.path(volume.name))}
            documents.append({**self._document(volume), "UsageData": used})
        return documents


def _matches(volume: VolumeRow, wanted: filtering.Filters) -> bool:
    if wanted.get("driver") and "local" not in wanted["driver"]:
        return False
    if wanted.get("name") and not any(filtering.text_matches(volume.name, value) for value in wanted["name"]):
        return False
    return filtering.labels_match(volume.labels, wanted)

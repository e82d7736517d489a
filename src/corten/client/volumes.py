"""Volumes of a daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corten.client.api import Api, path_of

Names = list[str]  # the class below has a method that is called list


@dataclass(frozen=True, slots=True)
class Volume:
    """One volume.

    mountpoint: where its files are on the daemon's host
    """

    name: str
    driver: str
    mountpoint: str
    labels: dict[str, str]
    attrs: dict[str, Any] = field(repr=False, compare=False)


def _volume(document: dict[str, Any]) -> Volume:
    labels = dict(document.get("Labels") or {})
    return Volume(document["Name"], document["Driver"], document.get("Mountpoint") or "", labels, document)


class Volumes:
    """All volumes of a daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def create(
        self,
        name: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        driver: str = "local",
        driver_opts: Mapping[str, str] | None = None,
    ) -> Volume:
        """A volume with this name, or a new anonymous one; one that exists is given as it is.

        >>> client.volumes.create("data").mountpoint              # doctest: +SKIP
        '/var/lib/corten/volumes/data/_data'
        """
        document = {"Name": name, "Driver": driver, "DriverOpts": dict(driver_opts or {}), "Labels": dict(labels or {})}
        return _volume(self._api.post("/volumes/create", None, document))

    def get(self, name: str) -> Volume:
        """Errors: NotFound."""
        return _volume(self._api.get(path_of("/volumes/", name)))

    def list(self, filters: Mapping[str, Sequence[str]] | None = None) -> list[Volume]:
        """All volumes that fit."""
        query = {"filters": {key: [*values] for key, values in (filters or {}).items()}}
        return [_volume(each) for each in self._api.get("/volumes", query).get("Volumes") or ()]

    def remove(self, name: str, *, force: bool = False) -> None:
        """Errors: NotFound; Conflict when a container uses it."""
        self._api.delete(path_of("/volumes/", name), {"force": force})

    def prune(self, *, all: bool = False) -> tuple[Names, int]:
        """Remove anonymous volumes, or all, that no container uses: (names, bytes that are free now)."""
        answer = self._api.post("/volumes/prune", {"filters": {"all": ["true"]} if all else None})
        return [*(answer.get("VolumesDeleted") or ())], int(answer.get("SpaceReclaimed") or 0)

"""``system check``: images and layers, containers and volumes as they are recorded and as they lie on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from corten.config import Config
from corten.dockerapi.registry_auth import RegistryAuth
from corten.engine.container import Container, Status
from corten.engine.live import Index
from corten.engine.registries import Registries
from corten.engine.streams import run_blocking
from corten.engine.volumes import Volumes
from corten.errors import CortenError
from corten.image.check import Fetcher, Finding
from corten.image.store import ImageStore
from corten.linux import paths
from corten.registry.progress import Report
from corten.snapshot.api import Snapshotter

Document = dict[str, Any]
_ID_LETTERS = 64


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """quick: layers' files are not read; repair: what can be made good is"""

    quick: bool = False
    repair: bool = False


@dataclass(frozen=True, slots=True)
class _Own:
    """What is wrong with a container or volume.  remedy: makes it good and says what it did; None: nothing can"""

    kind: str
    id: str
    problem: str
    remedy: Callable[[], str] | None
    advice: str = ""


class Checks:
    """Looks at everything while the daemon works; what is just being made or removed is no finding."""

    def __init__(
        self,
        config: Config,
        index: Index,
        store: ImageStore,
        snapshotter: Snapshotter,
        volumes: Volumes,
        registries: Registries,
    ) -> None:
        self._directory = config.data_root / "containers"
        self._index = index
        self._store = store
        self._snapshotter = snapshotter
        self._volumes = volumes
        self._registries = registries

    async def run(
        self, options: CheckOptions, credentials: Mapping[str, RegistryAuth]
    ) -> AsyncGenerator[Document, None]:
        """One document for each thing that is wrong; the last is ``{"Checked": …, "Problems": n, "Repaired": n}``.

        credentials: for registries that lost content is fetched from, by server
        """
        problems = repaired = 0
        # images first: with their layers repaired, containers may be well again
        async for document in self._all(options, credentials):
            problems += 1
            repaired += bool(document["Repaired"])
            yield document
        counts = {
            **self._store.check(list).counts,
            "Containers": len(self._index),
            "Volumes": len((await self._volumes.list({}))["Volumes"]),
        }
        yield {"Checked": counts, "Problems": problems, "Repaired": repaired}

    async def _all(
        self, options: CheckOptions, credentials: Mapping[str, RegistryAuth]
    ) -> AsyncGenerator[Document, None]:
        images = self._registries.repair(lambda fetcher, report: self._images(fetcher, report, options), credentials)
        async with contextlib.aclosing(images) as documents:
            async for document in documents:
                yield document
        for found in [*await self._containers(), *await run_blocking(lambda: list(self._of_volumes()))]:
            yield await run_blocking(_told, found, options.repair)

    # -- images -------------------------------------------------------------------------------------------------------

    def _running(self) -> list[Container]:
        return [live.container for live in self._index if live.container.is_running or live.lock.locked()]

    def _mounted(self) -> set[str]:
        return {image_id for container in self._running() for image_id in container.mounted_image_ids}

    def _images(self, fetcher: Fetcher, report: Report, options: CheckOptions) -> None:
        check = self._store.check(lambda: [container.id for container in self._running()], self._mounted)
        for finding in check.findings(quick=options.quick):
            if not options.repair:
                report(_document(finding))
                continue
            try:
                report(_document(finding, repair=check.repair(finding, fetcher), is_good=True))
            except CortenError as error:
                report(_document(finding, repair=str(error)))

    # -- containers ---------------------------------------------------------------------------------------------------

    async def _containers(self) -> list[_Own]:
        # disk first: a container is in the index before anything of it is on disk, and until nothing is
        snapshots, directories = await run_blocking(self._on_disk)
        known = {live.container.id for live in self._index}
        found = [self._stray(item) for item in sorted((snapshots | directories) - known)]
        settled = [
            live.container.id
            for live in self._index
            if not live.removing and live.container.status not in (Status.REMOVING, Status.DEAD)
        ]
        return [*await run_blocking(lambda: [own for item in settled for own in self._flaws(item)]), *found]

    def _on_disk(self) -> tuple[set[str], set[str]]:
        """Ids of the containers that have layers, and of those that have a directory."""
        snapshots = {
            snapshot.removesuffix("-init")
            for snapshot in self._snapshotter.ids()
            if self._snapshotter.is_container(snapshot)
        }
        return snapshots, {name for name in os.listdir(self._directory) if len(name) == _ID_LETTERS}

    def _flaws(self, container_id: str) -> Iterator[_Own]:
        flaw = self._snapshotter.container_flaw(container_id)
        place = self._directory / container_id
        has_place = place.is_dir()
        if self._is_gone(container_id):
            return
        if flaw:
            yield _Own("container", container_id, flaw, None, "remove the container: its files are lost")
        if not has_place:

            def remake() -> str:
                place.mkdir(mode=0o710, exist_ok=True)
                return "made again, without its log"

            yield _Own("container", container_id, "its directory is missing", remake)

    def _is_gone(self, container_id: str) -> bool:
        return all(live.container.id != container_id or live.removing for live in self._index)

    def _stray(self, container_id: str) -> _Own:
        def remove() -> str:
            self._snapshotter.remove(container_id)
            descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                paths.remove_tree(descriptor, container_id)
            finally:
                os.close(descriptor)
            return "removed"

        return _Own("directory", container_id, "it is of a container that is not recorded", remove)

    # -- volumes ------------------------------------------------------------------------------------------------------

    def _of_volumes(self) -> Iterator[_Own]:
        lost, unrecorded = self._volumes.store.astray()
        for name in lost:

            def remake(name: str = name) -> str:
                self._volumes.store.recover_directory(name)
                return "an empty directory was made"

            yield _Own("volume", name, "its directory is missing", remake)
        for name in unrecorded:

            def adopt(name: str = name) -> str:
                self._volumes.store.adopt(name)
                return "recorded again"

            yield _Own("volume", name, "its directory is there and it is not recorded", adopt)


def _told(found: _Own, repair: bool) -> Document:
    document = _document(Finding(found.kind, found.id, found.problem))
    if not repair:
        return document
    if found.remedy is None:
        return {**document, "Repair": found.advice}
    try:
        return {**document, "Repair": found.remedy(), "Repaired": True}
    except (CortenError, OSError) as error:
        return {**document, "Repair": str(error)}


def _document(finding: Finding, *, repair: str = "", is_good: bool = False) -> Document:
    return {
        "Kind": finding.kind,
        "Id": finding.id,
        "Problem": finding.problem,
        "Images": list(finding.images),
        "Repaired": is_good,
        "Repair": repair,
    }

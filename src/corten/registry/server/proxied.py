"""Repositories that are a cache of another registry's (``--proxy``).

A tag is asked for there every time, and means what it meant last when there is no answer.  What has a digest never
changes: it is fetched once.  Nothing can be pushed here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO

from corten.errors import DataLoss
from corten.oci.digest import Digest
from corten.registry.remote import Content
from corten.registry.server import layout
from corten.registry.server.checking import check_manifest
from corten.registry.server.failures import Refusal
from corten.registry.server.fetching import Fetches
from corten.registry.server.locking import SweepLock
from corten.registry.server.repositories import Repositories, Stored
from corten.registry.server.spool import Spool
from corten.registry.server.storage import Missing, Stat, Storage, StorageFailure
from corten.registry.server.upstream import Silent, Upstream
from corten.registry.server.usage import Usage

logger = logging.getLogger(__name__)

_LOOKS = 10  # for a blob that appears while it is looked for
_TOUCH_AFTER_S = 3600.0  # that something is used is noted so often


class ProxiedRepositories(Repositories):
    """count: of metrics, by name"""

    tags_stay = False

    def __init__(
        self,
        storage: Storage,
        spool: Spool,
        lock: SweepLock,
        usage: Usage,
        upstream: Upstream,
        fetches: Fetches,
        count: Callable[[str], None],
    ) -> None:
        super().__init__(storage, spool, lock, usage)
        self._upstream = upstream
        self._fetches = fetches
        self._tell = count

    async def close(self) -> None:
        self._upstream.close()
        await self._fetches.close()
        await super().close()

    async def tidy(self, older_than_s: float) -> None:
        await super().tidy(older_than_s)
        self._fetches.sweep(older_than_s)

    # -- manifests ----------------------------------------------------------------------------------------------------

    async def manifest(self, name: str, reference: str) -> Stored:
        tag = "" if ":" in reference else layout.check_tag(reference)
        try:
            digest = await self._upstream.digest(name, tag) if tag else layout.check_digest(reference)
        except Silent as error:
            return await self._last_known(name, reference, error)
        if digest is not None:
            try:
                found = await super().manifest(name, digest)
                await self._used(found.digest)
                if tag:
                    await self._name(name, tag, found.digest)
                self._tell("proxy_hits_total")
                return found
            except Refusal:
                pass
        self._tell("proxy_misses_total")
        try:
            content = await self._upstream.manifest(name, digest or reference)
        except (Silent, DataLoss) as error:
            return await self._last_known(name, reference, error)
        return await self._keep_manifest(name, tag, content)

    async def _last_known(self, name: str, reference: str, error: Exception) -> Stored:
        """What is here, when the other registry does not say.  Errors: Refusal(UNAVAILABLE)."""
        self._tell("proxy_failures_total")
        logger.warning("%s: %s", self._upstream.netloc, error)
        try:
            return await super().manifest(name, reference)
        except Refusal:
            raise self._silent() from None

    def _silent(self) -> Refusal:
        return Refusal("UNAVAILABLE", f"{self._upstream.netloc} does not answer", status=502)

    async def _keep_manifest(self, name: str, tag: str, content: Content) -> Stored:
        try:
            checked = check_manifest(content.body, content.media_type)
        except Refusal:
            # a kind that is not known here is passed on, as it is
            return Stored(content.body, content.media_type, content.digest)
        async with self._lock.shared():
            await self._store(name, content.digest, content.body, checked)
        if tag:
            await self._name(name, tag, content.digest)
        return Stored(content.body, checked.media_type, content.digest)

    async def _name(self, name: str, tag: str, digest: Digest) -> None:
        key = layout.tag(name, tag)
        try:
            if await self.storage.read(key) == digest.encode():
                return
        except Missing:
            pass
        await self.storage.write(key, digest.encode())

    async def _used(self, digest: Digest) -> None:
        key = layout.blob(digest)
        try:
            if time.time() - await self.storage.touched(key) > _TOUCH_AFTER_S:
                await self.storage.touch(key)
        except Missing:
            return

    # -- blobs --------------------------------------------------------------------------------------------------------

    async def blob(self, name: str, digest: Digest, *, promises: bool = False) -> Stat:
        try:
            found = await super().blob(name, digest)
            self._tell("proxy_hits_total")
            return found
        except Refusal:
            pass
        try:
            size = await self._upstream.blob_size(name, digest)
        except Silent as error:
            self._tell("proxy_failures_total")
            logger.warning("%s: %s", self._upstream.netloc, error)
            raise self._silent() from None
        # the other registry says that this repository has it: what another one has brought here is the same
        await self.mount_known(name, digest)
        return Stat(size, 0.0)

    async def content(
        self, name: str, digest: Digest, start: int, length: int, size: int
    ) -> BinaryIO | AsyncGenerator[bytes, None]:
        key = layout.blob(digest)

        async def commit(path: Path) -> None:
            async with self._lock.shared():
                await self.storage.adopt(path, key)
                self._count(size)
                await self._link(layout.layer(name, digest), digest)

        async def is_there() -> bool:
            try:
                await self.storage.stat(key)
            except Missing:
                return False
            return True

        def stored(first: int, count: int) -> AsyncIterator[bytes]:
            return self.storage.chunks(key, first, count)

        for _ in range(_LOOKS):
            try:
                return await super().content(name, digest, start, length, size)
            except Missing:
                file = self._fetches.begin(self._upstream.remote(name), digest, size, is_there, commit)
            if file is not None:
                self._tell("proxy_misses_total")
                return self._fetches.follow(file, start, length, size, is_there, stored)
        raise StorageFailure(f"{digest} comes and goes")

    async def mount_known(self, name: str, digest: Digest) -> None:
        """Link a blob that is in the storage already."""
        try:
            async with self._lock.shared():
                await self.storage.touch(layout.blob(digest))
                await self._link(layout.layer(name, digest), digest)
        except Missing:
            return

    # -- lists --------------------------------------------------------------------------------------------------------

    async def tags(self, name: str, last: str, limit: int) -> list[str]:
        try:
            found = [tag for tag in await self._upstream.tags(name) if tag > last]
        except Silent as error:
            self._tell("proxy_failures_total")
            logger.warning("%s: %s", self._upstream.netloc, error)
            return await super().tags(name, last, limit)
        return found[:limit] if limit else found

    async def referrers(self, name: str, subject: Digest, artifact_type: str) -> list[dict[str, Any]]:
        try:
            found = await self._upstream.referrers(name, subject)
        except (Silent, Refusal):
            return await super().referrers(name, subject, artifact_type)
        return [item for item in found if not artifact_type or item.get("artifactType") == artifact_type]

"""Garbage collection while others push and pull: mark what manifests need, sweep what nobody needs.

What was pushed, mounted or told to be there later than ``grace_s`` before the collection began is kept, whoever needs
it: a push whose manifest has not come yet loses nothing.  Everything else is looked at once more, and deleted, while
pushes wait (``locking``): a manifest that came in the meantime has touched all that it needs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from corten.oci.digest import Digest, is_digest
from corten.registry.server import layout
from corten.registry.server.checking import Checked, check_manifest
from corten.registry.server.failures import Refusal
from corten.registry.server.locking import SweepLock
from corten.registry.server.repositories import Repositories
from corten.registry.server.storage import Missing
from corten.registry.server.usage import Usage

logger = logging.getLogger(__name__)

_BATCH = 64  # things that are deleted while pushes wait
_TURN = 100  # questions, after which others get their turn


@dataclass(slots=True)
class Collected:
    """manifests: repository@digest that were untagged, or unused; bytes: of blobs that are gone; kept_bytes: of all
    others

    damaged: manifests whose content is missing, wrong or of a kind that is not understood: what they need cannot be
        known, so everything of their repositories stays
    """

    manifests: list[str] = field(default_factory=list)
    blobs: list[str] = field(default_factory=list)
    bytes: int = 0
    kept_bytes: int = 0
    links: int = 0
    uploads: int = 0
    damaged: list[str] = field(default_factory=list)


class Collection:
    """One run.

    delete_untagged: manifests that no tag, index or subject keeps go too
    unused_s: manifests that nobody has asked for so long go (a cache of another registry); 0: they stay
    dry: nothing is deleted
    """

    def __init__(
        self,
        repositories: Repositories,
        lock: SweepLock,
        usage: Usage,
        *,
        grace_s: float,
        delete_untagged: bool = False,
        unused_s: float = 0.0,
        dry: bool = False,
    ) -> None:
        self._repositories = repositories
        self._storage = repositories.storage
        self._lock = lock
        self._usage = usage
        self._begun = time.time()
        self._before = self._begun - grace_s
        self._grace_s = grace_s
        self._delete_untagged = delete_untagged
        self._unused_s = unused_s
        self._dry = dry
        self._needed: set[str] = set()
        self._asked = 0
        self.found = Collected()

    async def run(self) -> Collected:
        """Errors: OSError, StorageFailure: nothing is wrong then, only less was deleted."""
        async for name in self._repositories.walk():
            await self._mark(name)
        await self._sweep_blobs()
        await self._sweep_links()
        if not self._dry:
            self._usage.set(self.found.kept_bytes)
            self.found.uploads = self._repositories.spool.sweep(max(self._grace_s, 60.0))
        return self.found

    async def _turn(self) -> None:
        self._asked += 1
        if self._asked % _TURN == 0:
            await asyncio.sleep(0)

    # -- mark ---------------------------------------------------------------------------------------------------------

    async def _mark(self, name: str) -> None:
        manifests: dict[Digest, Checked | None] = {}
        await self._read(name, manifests)
        if self._unused_s or self._delete_untagged:
            await self._forget(name, manifests, self._begun - self._unused_s if self._unused_s else self._before)
        for digest, checked in manifests.items():
            self._needed.add(digest)
            if checked is not None:
                self._needed.update(checked.blobs, checked.manifests, checked.foreign)
        if None in manifests.values():
            async for digest in self._linked(layout.layers(name)):
                self._needed.add(digest)

    async def _read(self, name: str, manifests: dict[Digest, Checked | None]) -> None:
        """Add the repository's manifests that are not among them yet; None for what is damaged."""
        async for digest in self._linked(f"{layout.repository(name)}/_manifests/revisions"):
            if digest in manifests:
                continue
            try:
                manifests[digest] = check_manifest((await self._repositories.load(digest)).body)
            except (Missing, Refusal):
                logger.error("%s@%s is damaged", name, digest)
                self.found.damaged.append(f"{name}@{digest}")
                manifests[digest] = None

    async def _unwanted(self, name: str, manifests: dict[Digest, Checked | None]) -> set[Digest]:
        """Manifests that may go when they are old."""
        if self._unused_s:
            return {digest for digest, checked in manifests.items() if checked is not None}
        if None in manifests.values():
            return set()
        return set(manifests) - await self._kept(name, manifests)

    async def _kept(self, name: str, manifests: dict[Digest, Checked | None]) -> set[Digest]:
        """Manifests that a tag names, what these are made of, and what refers to one of them."""
        wanted: list[Digest] = []
        for tag in await self._storage.names(layout.tags(name)):
            try:
                wanted.append(await self._repositories.resolve(name, tag))
            except Refusal:
                continue
        referring: dict[Digest, list[Digest]] = {}
        for digest, checked in manifests.items():
            if checked is not None and checked.subject:
                referring.setdefault(checked.subject, []).append(digest)
        kept: set[Digest] = set()
        while wanted:
            digest = wanted.pop()
            if digest in kept:
                continue
            kept.add(digest)
            checked = manifests.get(digest)
            wanted += checked.manifests if checked is not None else ()
            wanted += referring.get(digest, ())
        return kept

    async def _forget(self, name: str, manifests: dict[Digest, Checked | None], before: float) -> None:
        gone: list[Digest] = []
        unwanted = await self._unwanted(name, manifests)
        old = [digest for digest in unwanted if await self._is_old(layout.blob(digest), before)]
        for first in range(0, len(old), _BATCH):
            async with self._lock.alone():
                # what was pushed or tagged meanwhile keeps what it is made of, and what refers to it
                await self._read(name, manifests)
                unwanted = await self._unwanted(name, manifests)
                for digest in old[first : first + _BATCH]:
                    if digest in unwanted and await self._is_old(layout.blob(digest), before):
                        if not self._dry:
                            await self._repositories.forget_manifest(name, digest)
                        self.found.manifests.append(f"{name}@{digest}")
                        gone.append(digest)
        for digest in gone:
            del manifests[digest]

    async def _is_old(self, key: str, before: float) -> bool:
        await self._turn()
        try:
            return await self._storage.touched(key) < before
        except Missing:
            return False

    async def _linked(self, prefix: str) -> AsyncIterator[Digest]:
        """Digests of the links below <prefix>/<algorithm>/<hex>."""
        for algorithm in await self._storage.names(prefix):
            for encoded in await self._storage.names(f"{prefix}/{algorithm}"):
                await self._turn()
                if is_digest(f"{algorithm}:{encoded}"):
                    yield Digest(f"{algorithm}:{encoded}")

    # -- sweep --------------------------------------------------------------------------------------------------------

    async def _sweep_blobs(self) -> None:
        batch: list[Digest] = []
        async for digest in self._blobs():
            try:
                stat = await self._storage.stat(layout.blob(digest))
            except Missing:
                continue
            if digest in self._needed or not await self._is_old(layout.blob(digest), self._before):
                self.found.kept_bytes += stat.size
                continue
            batch.append(digest)
            if len(batch) >= _BATCH:
                await self._delete_blobs(batch)
                batch = []
        await self._delete_blobs(batch)

    async def _blobs(self) -> AsyncIterator[Digest]:
        for algorithm in await self._storage.names(layout.BLOBS):
            for start in await self._storage.names(f"{layout.BLOBS}/{algorithm}"):
                for encoded in await self._storage.names(f"{layout.BLOBS}/{algorithm}/{start}"):
                    await self._turn()
                    if is_digest(f"{algorithm}:{encoded}"):
                        yield Digest(f"{algorithm}:{encoded}")

    async def _delete_blobs(self, batch: list[Digest]) -> None:
        async def delete(digest: Digest) -> None:
            key = layout.blob(digest)
            try:
                stat = await self._storage.stat(key)
            except Missing:
                return
            if not await self._is_old(key, self._before):
                self.found.kept_bytes += stat.size
                return
            if not self._dry:
                await self._storage.delete(key)
            self.found.blobs.append(digest)
            self.found.bytes += stat.size

        await self._alone(batch, delete)

    async def _alone(self, batch: list[Digest], work: Callable[[Digest], Awaitable[None]]) -> None:
        if not batch:
            return
        async with self._lock.alone():
            for item in batch:
                await work(item)

    async def _sweep_links(self) -> None:
        """Take away what leads to blobs that are not there."""
        async for name in self._repositories.walk(has="_layers"):
            batch: list[Digest] = []

            async def delete(digest: Digest, name: str = name) -> None:
                try:
                    await self._storage.stat(layout.blob(digest))
                except Missing:
                    if not self._dry:
                        await self._storage.delete(layout.layer(name, digest))
                    self.found.links += 1

            async for digest in self._linked(layout.layers(name)):
                try:
                    await self._storage.stat(layout.blob(digest))
                except Missing:
                    batch.append(digest)
            for first in range(0, len(batch), _BATCH):
                await self._alone(batch[first : first + _BATCH], delete)

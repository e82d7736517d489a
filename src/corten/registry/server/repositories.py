"""Repositories: which manifests, tags and blobs they have, over any storage.

A blob is stored once and belongs to the repositories that link it; who may read one repository sees nothing of
another. Pushes and the garbage collection meet in ``locking`` and by the time at which content was touched last: what
a client was told to be there stays for the grace time (``garbage``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from corten.errors import InvalidParameter
from corten.oci import documents
from corten.oci.digest import Digest, digest_of, is_digest, split_digest
from corten.registry.server import layout
from corten.registry.server.checking import Checked, check_manifest, media_type_of
from corten.registry.server.failures import Refusal
from corten.registry.server.locking import SweepLock
from corten.registry.server.spool import Spool, Upload
from corten.registry.server.storage import Missing, Stat, Storage
from corten.registry.server.usage import Usage

logger = logging.getLogger(__name__)

TOUCH_AFTER_S = 60.0  # content that was touched within this time is not touched again
_CACHED_BYTES = 64 << 20
_MAX_FOUND = 10_000  # repositories that are looked into for a blob that is to be mounted from anywhere


@dataclass(frozen=True, slots=True)
class Stored:
    """A manifest as it was pushed."""

    body: bytes
    media_type: str
    digest: Digest


class Repositories:
    """All of them.  quota_bytes: of all content, 0 for no limit.

    tags_stay: nobody but who writes to the storage changes what a tag means
    """

    tags_stay = True

    def __init__(
        self, storage: Storage, spool: Spool, lock: SweepLock, usage: Usage | None = None, *, quota_bytes: int = 0
    ) -> None:
        self.storage = storage
        self.spool = spool
        self._lock = lock
        self._usage = usage
        self._quota_bytes = quota_bytes
        self._cache: dict[str, Stored] = {}
        self._cached_bytes = 0

    async def close(self) -> None:
        await self.storage.close()

    async def tidy(self, older_than_s: float) -> None:
        """Remove what nobody goes on with: uploads of that age, and what was left by processes that were killed."""
        self.spool.sweep(older_than_s)
        await self.storage.tidy()

    # -- manifests ----------------------------------------------------------------------------------------------------

    async def resolve(self, name: str, reference: str) -> Digest:
        """The digest that a tag means; a digest means itself.  Errors: Refusal(MANIFEST_UNKNOWN)."""
        if ":" in reference:
            return layout.check_digest(reference)
        layout.check_tag(reference)
        try:
            text = (await self.storage.read(layout.tag(name, reference))).decode("ascii", "replace").strip()
        except Missing:
            raise await self._no_manifest(name, reference) from None
        if not is_digest(text):
            logger.error("the tag %s:%s is damaged", name, reference)
            raise await self._no_manifest(name, reference)
        return Digest(text)

    async def manifest(self, name: str, reference: str) -> Stored:
        """Errors: Refusal(MANIFEST_UNKNOWN, NAME_UNKNOWN)."""
        digest = await self.resolve(name, reference)
        try:
            await self.storage.stat(layout.revision(name, digest))
            return await self.load(digest)
        except Missing:
            raise await self._no_manifest(name, reference) from None

    async def load(self, digest: Digest) -> Stored:
        """A manifest by its digest alone, checked against it.  Errors: Missing, also when it is damaged."""
        found = self._cache.get(digest)
        if found is not None:
            return found
        key = layout.blob(digest)
        if (await self.storage.stat(key)).size > documents.MAX_MANIFEST_BYTES:
            raise Missing
        body = await self.storage.read(key)
        if digest_of(body, split_digest(digest)[0]) != digest:
            logger.error("the content of %s is damaged", digest)
            raise Missing
        media_type = media_type_of(body)
        if not media_type:
            raise Missing
        found = Stored(body, media_type, digest)
        self._keep(found)
        return found

    def _keep(self, found: Stored) -> None:
        self._cache[found.digest] = found
        self._cached_bytes += len(found.body)
        while self._cached_bytes > _CACHED_BYTES:
            oldest = self._cache.pop(next(iter(self._cache)))
            self._cached_bytes -= len(oldest.body)

    async def _no_manifest(self, name: str, reference: str) -> Refusal:
        if not await self.exists(name):
            return Refusal("NAME_UNKNOWN", detail={"name": name})
        kind = "Digest" if ":" in reference else "Tag"
        return Refusal("MANIFEST_UNKNOWN", detail={kind: reference})

    async def put_manifest(self, name: str, reference: str, body: bytes, content_type: str) -> tuple[Digest, Digest]:
        """(digest, the subject it refers to or "").  Errors: Refusal."""
        checked = check_manifest(body, content_type)
        if ":" in reference:
            wanted = layout.check_digest(reference)
            digest = digest_of(body, split_digest(wanted)[0])
            if digest != wanted:
                raise Refusal("DIGEST_INVALID", "manifest does not match its digest", detail={"digest": wanted})
        else:
            layout.check_tag(reference)
            digest = digest_of(body)
        self._check_quota(len(body))
        async with self._lock.shared():
            await self._check_parts(name, checked)
            await self._store(name, digest, body, checked)
            if ":" not in reference:
                await self.storage.write(layout.tag(name, reference), digest.encode())
        return digest, checked.subject

    async def _check_parts(self, name: str, checked: Checked) -> None:
        """What the manifest needs is there, and stays.  Errors: Refusal(MANIFEST_BLOB_UNKNOWN)."""
        parts = [(digest, layout.layer(name, digest)) for digest in checked.blobs]
        parts += [(digest, layout.revision(name, digest)) for digest in checked.manifests]
        for digest, link in parts:
            try:
                await self.storage.stat(link)
                await self.storage.touch(layout.blob(digest))
            except Missing:
                raise Refusal("MANIFEST_BLOB_UNKNOWN", detail={"digest": digest}) from None
        for digest in checked.foreign:
            with contextlib.suppress(Missing):
                await self.storage.touch(layout.blob(digest))

    async def _store(self, name: str, digest: Digest, body: bytes, checked: Checked) -> None:
        key = layout.blob(digest)
        if not await self._has(key, len(body)):
            await self.storage.write(key, body)
            self._count(len(body))
        elif await self.storage.read(key) != body:
            logger.warning("the damaged content of %s is replaced", digest)
            await self.storage.write(key, body)
        if checked.subject:
            descriptor = documents.encode(checked.descriptor(digest, len(body)))
            await self.storage.write(layout.referrer(name, checked.subject, digest), descriptor)
        await self._link(layout.revision(name, digest), digest)

    async def _link(self, key: str, digest: Digest) -> None:
        try:
            await self.storage.stat(key)
        except Missing:
            await self.storage.write(key, digest.encode())

    async def delete_manifest(self, name: str, reference: str) -> None:
        """A tag alone, or a manifest with all its tags.  Errors: Refusal(MANIFEST_UNKNOWN)."""
        digest = await self.resolve(name, reference)
        if ":" not in reference:
            await self._forget_tag(name, reference)
            return
        try:
            await self.storage.stat(layout.revision(name, digest))
        except Missing:
            raise await self._no_manifest(name, reference) from None
        await self.forget_manifest(name, digest)

    async def forget_manifest(self, name: str, digest: Digest) -> None:
        """Take a manifest out of a repository, with its tags and its place among referrers."""
        for tag in await self.storage.names(layout.tags(name)):
            key = layout.tag(name, tag)
            try:
                if await self.storage.read(key) == digest.encode():
                    await self._forget_tag(name, tag)
            except Missing:
                continue
        try:
            subject = check_manifest((await self.load(digest)).body).subject
        except (Missing, Refusal):
            subject = Digest("")
        if subject:
            await self.storage.delete(layout.referrer(name, subject, digest))
        await self.storage.delete(layout.revision(name, digest))

    async def _forget_tag(self, name: str, tag: str) -> None:
        """The tag, and what it meant before: the distribution project's registry notes that below it."""
        index = layout.tag_index(name, tag)
        for algorithm in await self.storage.names(index):
            for encoded in await self.storage.names(f"{index}/{algorithm}"):
                await self.storage.delete(f"{index}/{algorithm}/{encoded}/link")
        await self.storage.delete(layout.tag(name, tag))

    # -- blobs --------------------------------------------------------------------------------------------------------

    async def blob(self, name: str, digest: Digest, *, promises: bool = False) -> Stat:
        """A blob that the repository has.

        promises: the client may push something that needs it
        Errors: Refusal(BLOB_UNKNOWN).
        """
        key = layout.blob(digest)
        try:
            await self.storage.stat(layout.layer(name, digest))
            found = await self.storage.stat(key)
            if promises and time.time() - found.modified_s > TOUCH_AFTER_S:
                async with self._lock.shared():
                    await self.storage.touch(key)
        except Missing:
            raise Refusal("BLOB_UNKNOWN", detail={"digest": digest}) from None
        return found

    async def content(
        self, name: str, digest: Digest, start: int, length: int, size: int
    ) -> BinaryIO | AsyncGenerator[bytes, None]:
        """A part of a blob that ``blob`` has found: a file to send it from, or its bytes.  Errors: Missing."""
        key = layout.blob(digest)
        file = await self.storage.open(key)
        return self.storage.chunks(key, start, length) if file is None else file

    async def delete_blob(self, name: str, digest: Digest) -> None:
        """Errors: Refusal(BLOB_UNKNOWN)."""
        link = layout.layer(name, digest)
        try:
            await self.storage.stat(link)
        except Missing:
            raise Refusal("BLOB_UNKNOWN", detail={"digest": digest}) from None
        await self.storage.delete(link)

    async def commit(self, upload: Upload, digest: Digest) -> None:
        """Make an upload the blob ``digest`` of its repository.  The upload is gone afterwards, also when it is wrong.

        Errors: Refusal(DIGEST_INVALID); Refusal(BLOB_UPLOAD_UNKNOWN, BLOB_UPLOAD_INVALID) when another request has
        finished it or writes to it.
        """
        async with upload.completing(digest) as size:
            self._check_quota(size)
            key = layout.blob(digest)
            async with self._lock.shared():
                if not await self._has(key, size):
                    await self._adopt(upload, key)
                    self._count(size)
                await self._link(layout.layer(upload.repository, digest), digest)

    async def _has(self, key: str, size: int) -> bool:
        """Whether there is content of this size, which stays then.  What was cut short is as good as missing."""
        try:
            await self.storage.touch(key)
            return (await self.storage.stat(key)).size == size
        except Missing:
            return False

    async def _adopt(self, upload: Upload, key: str) -> None:
        """Errors: Refusal(BLOB_UPLOAD_UNKNOWN) when the upload was cancelled meanwhile."""
        try:
            await self.storage.adopt(upload.path, key)
        except (FileNotFoundError, Missing):
            if upload.path.exists():
                raise
            raise Refusal("BLOB_UPLOAD_UNKNOWN") from None

    async def mount(self, name: str, digest: Digest, source: str) -> bool:
        """Give the repository a blob that another one has; whether that one has it."""
        try:
            await self.storage.stat(layout.layer(source, digest))
            async with self._lock.shared():
                await self.storage.touch(layout.blob(digest))
                await self._link(layout.layer(name, digest), digest)
        except Missing:
            return False
        return True

    async def mount_from_any(self, name: str, digest: Digest, may_pull: Callable[[str], bool]) -> bool:
        """As ``mount``, from whichever repository the client may read."""
        try:
            await self.storage.stat(layout.blob(digest))
        except Missing:
            return False
        looked = 0
        async for source in self.walk(has="_layers"):
            looked += 1
            if looked > _MAX_FOUND:
                break
            if may_pull(source) and await self.mount(name, digest, source):
                return True
        return False

    # -- lists --------------------------------------------------------------------------------------------------------

    async def exists(self, name: str) -> bool:
        return any(item.startswith("_") for item in await self.storage.names(layout.repository(name)))

    async def tags(self, name: str, last: str, limit: int) -> list[str]:
        """Errors: Refusal(NAME_UNKNOWN)."""
        found = await self.storage.names(layout.tags(name), last, limit)
        if not found and not await self.exists(name):
            raise Refusal("NAME_UNKNOWN", detail={"name": name})
        return found

    async def walk(self, last: str = "", *, has: str = "_manifests") -> AsyncIterator[str]:
        """The names of all repositories after ``last``, ordered by their components.

        has: what there must be of one: "_layers" finds those too that have blobs alone
        """
        async for name in self._below("", last.split("/") if last else [], has):
            yield name

    async def _below(self, name: str, after: list[str], has: str) -> AsyncIterator[str]:
        found = await self.storage.names(layout.repository(name) if name else layout.REPOSITORIES)
        if name and not after and has in found:
            yield name
        for item in found:
            if item.startswith(("_", ".")) or (after and item < after[0]):
                continue
            rest = after[1:] if after and item == after[0] else []
            inner = f"{name}/{item}" if name else item
            # the last one itself was listed before, what is below it was not
            was_last = bool(after) and item == after[0] and not rest
            async for below in self._below(inner, rest, has):
                if not (was_last and below == inner):
                    yield below

    async def referrers(self, name: str, subject: Digest, artifact_type: str) -> list[dict[str, Any]]:
        """Descriptors of what refers to a manifest; of one artifact type only, if that is wanted."""
        found: dict[str, dict[str, Any]] = {}
        prefix = layout.referrers(name, subject)
        for item in await self.storage.names(prefix):
            try:
                descriptor = documents.load_object(await self.storage.read(f"{prefix}/{item}"), "descriptor")
            except (Missing, InvalidParameter):
                continue
            found[descriptor["digest"]] = descriptor
        for descriptor in await self._fallback(name, subject):
            found.setdefault(descriptor["digest"], descriptor)
        return [item for item in found.values() if not artifact_type or item.get("artifactType") == artifact_type]

    async def _fallback(self, name: str, subject: Digest) -> list[dict[str, Any]]:
        """What clients listed under the tag "<algorithm>-<hex>" while the registry knew no referrers."""
        algorithm, encoded = split_digest(subject)
        try:
            index = documents.load_object((await self.manifest(name, f"{algorithm}-{encoded[:64]}")).body, "index")
        except (Refusal, InvalidParameter):
            return []
        found = []
        for item in index.get("manifests") or []:
            digest = Digest(item["digest"])
            try:
                await self.storage.stat(layout.revision(name, digest))
                stored = await self.load(digest)
                checked = check_manifest(stored.body)
            except (Missing, Refusal):
                continue
            if checked.subject == subject:
                found.append(checked.descriptor(digest, len(stored.body)))
        return found

    # -- space --------------------------------------------------------------------------------------------------------

    def _check_quota(self, size: int) -> None:
        if self._quota_bytes and self._usage is not None and self._usage.total() + size > self._quota_bytes:
            raise Refusal("DENIED", f"quota exceeded: {self._quota_bytes} bytes are all there is")

    def _count(self, size: int) -> None:
        if self._usage is not None:
            self._usage.add(size)

"""The parts of one worker, put together as the settings say."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from corten.errors import CortenError, InvalidParameter
from corten.registry.server.access import Authenticator, Guard, Open
from corten.registry.server.accesslog import AccessLog
from corten.registry.server.disk import DiskStorage
from corten.registry.server.fetching import Fetches
from corten.registry.server.garbage import Collected, Collection
from corten.registry.server.htpasswd import Htpasswd
from corten.registry.server.locking import SweepLock
from corten.registry.server.metrics import Metrics
from corten.registry.server.objects import ObjectStorage, open_store
from corten.registry.server.proxied import ProxiedRepositories
from corten.registry.server.repositories import Repositories
from corten.registry.server.rights import EVERYTHING, Rights
from corten.registry.server.service import Service
from corten.registry.server.settings import Settings
from corten.registry.server.spool import Spool
from corten.registry.server.storage import Storage
from corten.registry.server.tokens import Tokens
from corten.registry.server.upstream import Upstream
from corten.registry.server.usage import Usage

logger = logging.getLogger(__name__)

_UPLOADS_S = 24 * 3600.0  # an upload that nobody has gone on with for so long is removed
_SWEEP_EVERY_S = 600.0


@dataclass(slots=True)
class Content:
    """What is stored, and what keeps it in order."""

    repositories: Repositories
    lock: SweepLock
    usage: Usage
    settings: Settings

    def collection(self, *, dry: bool = False) -> Collection:
        settings = self.settings
        return Collection(
            self.repositories,
            self.lock,
            self.usage,
            grace_s=settings.grace_s,
            delete_untagged=settings.delete_untagged,
            unused_s=settings.proxy.keep_s if settings.proxy else 0.0,
            dry=dry,
        )

    async def housekeeping(self) -> None:
        """Old uploads, and garbage; until cancelled."""
        settings = self.settings
        if settings.quota_bytes and not self.usage.is_known:
            self.usage.set((await self.collection(dry=True).run()).kept_bytes)
        every = max(1.0, min(settings.gc_every_s or _SWEEP_EVERY_S, _SWEEP_EVERY_S))
        waited = 0.0
        while True:
            await asyncio.sleep(every)
            waited += every
            try:
                await self.repositories.tidy(_UPLOADS_S)
                if settings.gc_every_s and waited >= settings.gc_every_s:
                    waited = 0.0
                    said(await self.collection().run())
            except (OSError, CortenError) as error:
                logger.error("garbage collection: %s", error)

    async def close(self) -> None:
        await self.repositories.close()


def said(found: Collected) -> None:
    logger.info(
        "garbage collection: %d manifests, %d blobs (%d bytes), %d uploads removed; %d bytes kept",
        len(found.manifests), len(found.blobs), found.bytes, found.uploads, found.kept_bytes,
    )  # fmt: skip


def content(settings: Settings, metrics: Metrics | None = None) -> Content:
    """Errors: InvalidParameter for a store or another registry that cannot be used."""
    settings.root.mkdir(parents=True, exist_ok=True)
    spool = Spool(settings.root, max_blob_bytes=settings.max_blob_bytes)
    lock, usage = SweepLock(settings.root / "sweep.lock"), Usage(settings.root / "usage")
    storage = _storage(settings)
    repositories = Repositories(storage, spool, lock, usage, quota_bytes=settings.quota_bytes)
    if settings.proxy:
        upstream, fetches = Upstream(settings.proxy), Fetches(settings.root)
        count = (metrics or Metrics(1)).add
        repositories = ProxiedRepositories(storage, spool, lock, usage, upstream, fetches, count)
    return Content(repositories, lock, usage, settings)


def _storage(settings: Settings) -> Storage:
    return ObjectStorage(open_store(settings.store)) if settings.store else DiskStorage(settings.root)


def guard(settings: Settings) -> Guard:
    """Errors: InvalidParameter naming the file that cannot be used, or the package that is missing."""
    rights = Rights(path=settings.rights) if settings.rights else None
    authenticator: Authenticator = Open(rights or EVERYTHING)
    if settings.htpasswd and settings.tokens:
        raise InvalidParameter("passwords (--htpasswd) and tokens (--token-realm) exclude each other")
    if settings.tokens:
        if rights is not None:
            raise InvalidParameter("tokens say themselves what they allow: --rights is not for them")
        authenticator = Tokens(settings.tokens)
    elif settings.htpasswd:
        authenticator = Htpasswd(settings.htpasswd, settings.realm, rights)
    return Guard(authenticator)


def check(settings: Settings) -> None:
    """What can be seen before anything is served.  Errors: InvalidParameter."""
    guard(settings)
    if settings.proxy:
        Upstream(settings.proxy).close()
    if settings.access_log:
        AccessLog.check(settings.access_log)


def service(settings: Settings, content: Content, metrics: Metrics) -> Service:
    """Errors: InvalidParameter."""
    return Service(
        content.repositories,
        guard(settings),
        metrics=metrics,
        log=AccessLog(settings.access_log) if settings.access_log else None,
        read_only=settings.read_only or settings.proxy is not None,
        no_delete=settings.no_delete,
    )

"""Builds as the API sees them: the context comes in, progress goes out, the result gets its names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from corten.build.build import Build, BuildFailed, Place
from corten.build.cache import StepCache
from corten.build.cache_locks import CacheLocks
from corten.build.history import CANCELED, History, Record
from corten.build.local_context import FileDigests
from corten.build.mounts import NEW_CACHE
from corten.build.options import BuildOptions
from corten.build.pruning import Space, Usage
from corten.build.workshop import Cancellation, Cancelled
from corten.config import Config
from corten.dockerapi.build import BuildQuery, PruneSpace
from corten.dockerapi.build_request import BuildRequest
from corten.dockerapi.registry_auth import RegistryAuth, credentials_for
from corten.dockerfile.errors import DockerfileError
from corten.dockerfile.lint import Base
from corten.engine import filters as filtering
from corten.engine.build_contexts import Contexts, Gathered
from corten.engine.build_options import build_options, target_names
from corten.engine.build_outputs import BuildOutputs
from corten.engine.build_records import finish_record, new_record
from corten.engine.build_workshop import EngineWorkshop
from corten.engine.containers import Containers
from corten.engine.devices import Devices
from corten.engine.events import Events
from corten.engine.images import Images
from corten.engine.registries import Registries
from corten.engine.streams import feed_thread, iterate_in_thread, run_blocking
from corten.errors import Conflict, CortenError, InvalidParameter, NotFound, Unauthorized, Unavailable
from corten.image.store import Image, ImageStore
from corten.oci import reference
from corten.oci.platform import from_document

logger = logging.getLogger(__name__)
CACHE_NOTE = "corten.build.cache"  # on an index: its images are what steps may be taken from
# why builds fail, as dockerd's metric calls it
_SYNTAX, _STEPS, _CANCELLED = "dockerfile_syntax_error", "error_processing_commands_error", "build_canceled"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """A build whose contexts are there.

    credentials: of a registry's host, called in the build's threads; note: what its record says beside the usual
    """

    query: BuildQuery
    gathered: Gathered
    options: BuildOptions
    credentials: Callable[[str], RegistryAuth]
    note: Document = field(default_factory=dict)
    is_recorded: bool = True


class Builds:
    """The builder of this daemon."""

    def __init__(
        self,
        config: Config,
        store: ImageStore,
        containers: Containers,
        images: Images,
        registries: Registries,
        events: Events,
        devices: Devices,
    ) -> None:
        """Errors: SystemFailure when the cache cannot be opened."""
        self._root = config.data_root / "build"
        self._scratch = self._root / "scratch"
        self._secrets = config.exec_root / "build"
        self._caches = self._root / "mounts"
        for directory in (self._root, self._caches):
            directory.mkdir(mode=0o710, exist_ok=True)
        for directory in (self._scratch, self._secrets, *self._caches.glob(f"{NEW_CACHE}*")):
            shutil.rmtree(directory, ignore_errors=True)  # of builds that a killed daemon left
        self._scratch.mkdir(mode=0o700)
        self._store = store
        self._containers = containers
        self._metrics = containers.metrics
        self._images = images
        self._registries = registries
        self._events = events
        self._devices = devices
        self.cache = StepCache(config.data_root / "build.db", self._has_image)
        self._running: set[Cancellation] = set()
        self._by_id: dict[str, Cancellation] = {}
        self._idle = asyncio.Event()
        self._locks = CacheLocks()
        self._slots = threading.Semaphore(max(4, 2 * (os.cpu_count() or 1)))
        self._digests = FileDigests()
        self._usage = Usage(store, self.cache, self._caches, self._locks)
        self.history = History(config.data_root / "builds.db")
        self.outputs = BuildOutputs(store, registries, self.history, self._scratch)

    def _has_image(self, image_id: str) -> bool:
        try:
            self._store.get(image_id)
        except NotFound:
            return False
        return True

    async def clear_leftovers(self) -> None:
        """Containers of steps that the end of a daemon has interrupted."""
        for container_id in self.cache.leftover_containers():
            with contextlib.suppress(NotFound, Conflict):
                await self._containers.remove(container_id, force=True, volumes=True)
            self.cache.container_ended(container_id)

    def _place(self, credentials: Callable[[str], RegistryAuth], network: str) -> Place:
        workshop = EngineWorkshop(
            asyncio.get_running_loop(), self._containers, self._registries, credentials, network, self._devices.look
        )
        return Place(
            self._store,
            self.cache,
            workshop,
            self._scratch,
            self._secrets,
            self._caches,
            self._locks,
            self._slots,
        )

    # -- build --------------------------------------------------------------------------------------------------------

    async def build(
        self, query: BuildQuery, body: AsyncIterator[bytes], credentials: Mapping[str, RegistryAuth]
    ) -> AsyncIterator[Document]:
        """The documents of the classic builder.

        Errors: InvalidParameter (query, context, Dockerfile) before the first document; a failing step is a document.
        """
        names = target_names(query.tags)
        build_options(query, BuildRequest())  # what is wrong with the query is told before the context is read
        cancellation = Cancellation()
        if query.id and query.id in self._by_id:
            raise Conflict(f"a build with the id {query.id} is running")
        self._running.add(cancellation)
        if query.id:
            self._by_id[query.id] = cancellation
        try:
            contexts = Contexts(query, self._scratch, self._digests, cancellation)
            try:
                gathered = await self._gather(contexts, query, body, cancellation)
                options = build_options(query, gathered.request)
                order = Order(query, gathered, options, lambda host: credentials_for(credentials, host))
                async for document in self._run(order, names, cancellation):
                    yield document
            finally:
                # a large file's room takes time to be given back, and is given back also when the client is gone
                await asyncio.shield(run_blocking(contexts.close))
        finally:
            cancellation.cancel()
            self._running.discard(cancellation)
            self._idle.set()
            self._by_id.pop(query.id, None)

    async def solve(self, order: Order, cancellation: Cancellation) -> AsyncGenerator[Document]:
        """The documents of a build whose contexts are there; the last one has the image's id.

        Errors: what it fails with, BuildFailed for a step's program.
        """
        self._running.add(cancellation)
        try:
            async for document in self._run(order, None, cancellation):
                yield document
        finally:
            self._running.discard(cancellation)
            self._idle.set()

    async def cached_images(self, name: reference.Reference, auth: RegistryAuth) -> list[str]:
        """Images here, in whose history steps may be looked for: those of a cache at a registry, which are pulled.

        What was built or pulled here under that name does when the registry does not answer.
        Errors: NotFound, Unavailable, Unauthorized.
        """
        try:
            found = await self._registries.members(name, auth, CACHE_NOTE)
            for one in found:
                async for document in self._registries.pull(one, "", "", auth):
                    if "error" in document:
                        raise Unavailable(document["error"])
        except (NotFound, Unavailable, Unauthorized):
            if not self._has_image(str(name)):
                raise
            return [str(name)]
        return found

    def base_of(self, name: str) -> Base | None:
        """What the linter asks about an image of FROM; None for one that is not in the store."""
        try:
            image = self._store.get(name)
        except (NotFound, InvalidParameter):
            return None
        environment = (image.config.get("config") or {}).get("Env") or ()
        variables = frozenset(variable.partition("=")[0] for variable in environment)
        return Base(variables, str(from_document(image.config)))

    def held(self, image_id: str) -> contextlib.AbstractContextManager[Image]:
        """An image stays within the block, whatever is pruned.  Errors: NotFound."""
        return self._store.pin(image_id)

    def contexts(self, query: BuildQuery, cancellation: Cancellation) -> Contexts:
        """To be filled for ``solve`` in a thread, and to be closed after it."""
        return Contexts(query, self._scratch, self._digests, cancellation)

    @staticmethod
    def options(query: BuildQuery, request: BuildRequest) -> BuildOptions:
        """Errors: InvalidParameter."""
        return build_options(query, request)

    async def _run(
        self, order: Order, names: list[reference.Reference] | None, cancellation: Cancellation
    ) -> AsyncIterator[Document]:
        """names: what to call the result; None for a caller who does that, and gets errors as exceptions"""
        gathered = order.gathered
        self._metrics.builds_triggered.add()
        try:
            build = await run_blocking(
                lambda place: Build(
                    place,
                    order.options,
                    gathered.main,
                    cancellation,
                    named=gathered.named,
                    dockerfile=gathered.dockerfile,
                ),
                self._place(order.credentials, order.query.network),
            )
        except CortenError as error:
            self._metrics.builds_failed.add(_SYNTAX if isinstance(error, DockerfileError) else _STEPS)
            raise
        record = new_record(order.query, order.options, gathered, build.file.lines, order.note)
        if order.is_recorded:
            await run_blocking(self.history.put, record)
        async for document in self._recorded(record, build, names, cancellation, keep=order.is_recorded):
            yield document

    async def _gather(
        self, contexts: Contexts, query: BuildQuery, body: AsyncIterator[bytes], cancellation: Cancellation
    ) -> Gathered:
        try:
            return await feed_thread(body, contexts.from_corten if query.framed else contexts.from_docker)
        except asyncio.CancelledError:
            cancellation.cancel()
            raise

    async def _recorded(
        self,
        record: Record,
        build: Build,
        names: list[reference.Reference] | None,
        cancellation: Cancellation,
        *,
        keep: bool,
    ) -> AsyncIterator[Document]:
        """The build's documents; what it came to is in the history when the last one is out."""
        if build.options.structured:
            yield {"build": record.id}
        failure = "the client left"
        try:
            async with contextlib.aclosing(self._documents(build, names, cancellation)) as documents:
                async for document in documents:
                    failure = document.get("error", failure)
                    yield document
            if build.image:
                failure = ""
        except Cancelled:
            raise
        except CortenError as error:
            failure = error.message
            raise
        finally:
            finish_record(record, build, failure, cancelled=cancellation.is_cancelled and failure == "the client left")
            if failure:
                self._metrics.builds_failed.add(_CANCELLED if record.status == CANCELED else _STEPS)
            if keep:
                await asyncio.shield(run_blocking(self.history.put, record, build.steps.log()))

    async def _documents(
        self, build: Build, names: list[reference.Reference] | None, cancellation: Cancellation
    ) -> AsyncGenerator[Document, None]:
        told = False

        try:
            async with contextlib.aclosing(iterate_in_thread(build.documents, cancellation.cancel)) as documents:
                async for document in documents:
                    told = True
                    yield document
        except BuildFailed as error:
            if names is None:
                raise
            yield {"errorDetail": {"code": error.code, "message": error.message}, "error": error.message}
            return
        except Cancelled as error:
            if not told or names is None:
                raise
            yield {"errorDetail": {"message": error.message}, "error": error.message}
            return
        for name in names or ():
            await self._images.tag(build.image, name.repository, name.tag)
            if build.options.structured:
                yield {"tagged": name.familiar}
            elif not build.options.quiet:
                yield {"stream": f"Successfully tagged {name.familiar}\n"}

    def cancel(self, build_id: str) -> None:
        """End a build by the id that its client gave; one that is not there has ended."""
        if not build_id:
            raise InvalidParameter("build ID not provided")
        cancellation = self._by_id.get(build_id)
        if cancellation is not None:
            cancellation.cancel()

    # -- cache --------------------------------------------------------------------------------------------------------

    async def usage(self) -> list[Document]:
        """Rows of ``system df``."""
        return await run_blocking(self._usage.rows)

    async def prune(self, *, everything: bool, space: PruneSpace, wanted: filtering.Filters) -> Document:
        """Forget steps and cache mounts.

        everything: also what images that have names are made of; space: so much may stay, what was used last
        Errors: InvalidParameter for an unknown filter.
        """
        filtering.check_known(
            wanted, ("until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private")
        )
        chosen = self._usage.matcher(wanted, _until(wanted))
        deleted, reclaimed = await run_blocking(
            lambda: self._usage.prune(
                chosen,
                everything=everything,
                space=Space(space.reserved, space.max_used, space.min_free),
                remove=self._remove_image,
            )
        )
        self._events.publish("builder", "prune", "", {"reclaimed": str(reclaimed)})
        return {"CachesDeleted": deleted or None, "SpaceReclaimed": reclaimed}

    def _remove_image(self, image_id: str) -> bool:
        """An image without a name that nothing needs; whether it went."""
        try:
            self._store.remove(image_id, force=False, prune=False, in_use=self._images.in_use)
        except CortenError:
            return False
        return True

    async def close(self) -> None:
        """Cancel everything and wait until nothing of it runs."""
        for cancellation in list(self._running):
            cancellation.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(15):
                while self._running:
                    self._idle.clear()
                    await self._idle.wait()
        self.cache.close()
        self.history.close()


def _until(wanted: filtering.Filters) -> int | None:
    """Nanoseconds since the epoch; None without a bound."""
    for name in ("until", "unused-for"):
        if name in wanted:
            return filtering.parse_until({"until": wanted[name]})
    return None

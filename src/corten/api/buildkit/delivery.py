"""What was built goes where the client wants it: the image store, registries, files and archives of the client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corten.api.buildkit.attributes import Attestations, CacheEntry
from corten.api.buildkit.exporters import FILES, Output, compression_level
from corten.build.workshop import Cancelled
from corten.dockerapi.build import BuildQuery
from corten.dockerapi.build_request import OutputRequest, Result
from corten.dockerapi.codec import encode
from corten.engine.builds import CACHE_NOTE
from corten.engine.streams import run_blocking
from corten.errors import CortenError, InvalidParameter, Unavailable
from corten.oci import reference
from corten.oci.reference import Reference

if TYPE_CHECKING:
    from corten.api.buildkit.clients import Client
    from corten.api.buildkit.jobs import Job
    from corten.api.buildkit.progress import Task
    from corten.engine.engine import Engine

Document = dict[str, Any]
Response = dict[str, str]
_TITLES = {
    "moby": "exporting to image", "image": "exporting to image", "oci": "exporting to oci image format",
    "docker": "exporting to docker image format", "tar": "sending tarball", "local": "exporting to client directory",
}  # fmt: skip
_NO_QUERY = BuildQuery()
_LOOPBACK = ("localhost", "127.", "[::1]")


@dataclass(frozen=True, slots=True)
class Built:
    """One image of a result.

    image: its id; build: of its record; platform: as it was asked for; stages: ids of the other stages' ends
    """

    image: str
    build: str
    platform: str
    stages: tuple[str, ...] = ()


class Delivery:
    """Of one solve."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        client: Client,
        built: Sequence[Built],
        attestations: Attestations,
        *,
        is_index: bool,
    ) -> None:
        self._engine = engine
        self._job = job
        self._client = client
        self._built = built
        self._attestations = attestations
        self._is_index = is_index
        self.response: Response = {}

    async def deliver(self, outputs: Sequence[Output], caches: Sequence[CacheEntry]) -> Response:
        """What clients are told of the result.

        Errors: InvalidParameter, NotFound, Unauthorized, Unavailable (a registry, the client).
        """
        for output in outputs:
            with self._job.vertex(_TITLES[output.type]) as task:
                await self._one(output, task)
        for cache in caches:
            await self._keep(cache)
        return self.response

    async def _one(self, output: Output, task: Task) -> None:
        names = [reference.parse(name).with_default_tag() for name in output.names]
        if output.type in FILES:
            await self._files(output, task)
            return
        if output.is_stored and not output.by_digest and len(self._built) == 1:
            await self._store(names, task)
        if output.push:
            await self._push(output, names, task)
        if not output.is_stored:
            await self._archive(output, task)
        if names:
            self.response["image.name"] = ",".join(str(name) for name in names)

    # -- the image store ----------------------------------------------------------------------------------------------

    async def _store(self, names: Sequence[Reference], task: Task) -> None:
        image = self._built[0].image
        with self._job.part(task, f"writing image {image}"):
            self.response["containerimage.config.digest"] = self.response["containerimage.digest"] = image
        for name in names:
            if name.digest:
                raise InvalidParameter("build tag cannot contain a digest")
            with self._job.part(task, f"naming to {name.canonical}"):
                await self._engine.images.tag(image, name.repository, name.tag)

    # -- elsewhere ----------------------------------------------------------------------------------------------------

    def _request(self, output: Output, kind: str, names: Sequence[str]) -> OutputRequest:
        wanted = self._attestations
        # what is there by default stands in images alone, where there is a place for it
        is_left_out = wanted.inline_only and (kind in ("tar", "docker") or not output.oci_types)
        return OutputRequest(
            images=[Result(item.image, item.build) for item in self._built],
            format=kind,
            names=list(names),
            compression=output.compression,
            level=output.level,
            oci_types=output.oci_types,
            annotations=list(output.annotations),
            provenance="" if is_left_out else wanted.provenance,
            sbom=wanted.sbom,
            by_digest=output.by_digest,
            index=self._is_index,
            split=output.split,
        )

    async def _push(self, output: Output, names: Sequence[Reference], task: Task) -> None:
        for name in names:
            if output.insecure and not name.domain.startswith(_LOOPBACK):
                raise InvalidParameter(
                    f"registry.insecure is not supported: name {name.domain} in the daemon's insecure-registries"
                )
            with self._job.part(task, f"pushing manifest for {name.canonical}"):
                auth = await self._client.credentials(name.domain)
                request = self._request(output, "registry", [str(name)])
                documents = self._engine.builds.outputs.push(request, auth)
                self._note(await self._followed(documents, task))

    async def _followed(self, documents: AsyncIterator[Document], task: Task) -> Document:
        """Progress to its end; what it gives as ``aux``."""
        found: Document = {}
        async for document in documents:
            if "error" in document:
                raise Unavailable(document["error"])
            found = document.get("aux", found)
            self._job.tell(task.status(document))
        return found

    def _note(self, descriptor: Document) -> None:
        self.response["containerimage.digest"] = descriptor["digest"]
        self.response["containerimage.descriptor"] = base64.b64encode(encode(descriptor)).decode()
        if len(self._built) == 1:
            self.response["containerimage.config.digest"] = self._built[0].image

    async def _archive(self, output: Output, task: Task) -> None:
        made = await self._engine.builds.outputs.export(self._request(output, output.type, output.names))
        assert made.top is not None
        self._note(made.top.document())
        metadata = {name: value for name, value in self.response.items() if name.startswith("containerimage.")}
        with self._job.part(task, "sending tarball"):
            await self._client.send_file(output.number, made.chunks, metadata)

    async def _files(self, output: Output, task: Task) -> None:
        request = self._request(output, "tar", ())
        made = await self._engine.builds.outputs.export(request)
        if output.type == "tar":
            await self._client.send_file(output.number, made.chunks, {})
            return
        contexts = self._engine.builds.contexts(_NO_QUERY, self._job.cancellation)
        try:
            with self._job.part(task, "copying files"):
                await self._client.send_directory(output.number, made.chunks, contexts, mirror=output.is_mirror)
        finally:
            await asyncio.shield(run_blocking(contexts.close))

    # -- the cache ----------------------------------------------------------------------------------------------------

    async def _keep(self, cache: CacheEntry) -> None:
        """An image has its history, which is what a cache is made of: for "inline" nothing is left to do."""
        if cache.type == "inline":
            return
        images = [Result(item.image, item.build) for item in self._built]
        if cache.attributes.get("mode") == "max":
            images += [Result(image) for image in dict.fromkeys(image for item in self._built for image in item.stages)]
        request = OutputRequest(
            images=images,
            format="oci" if cache.type == "local" else "registry",
            names=[cache.attributes.get("ref", "cache")],
            cache=True,
            annotations=[f"index:{CACHE_NOTE}=1"] if len(images) > 1 else [],
            compression=cache.attributes.get("compression", "uncompressed" if cache.type == "local" else ""),
            level=compression_level(cache.attributes),
            oci_types=cache.attributes.get("oci-mediatypes", "true") == "true",
        )
        title = "exporting cache to client directory" if cache.type == "local" else "exporting cache to registry"
        with self._job.vertex(title) as task, _ignored(cache, self._job):
            if cache.type == "local":
                await self._keep_in_directory(cache.attributes["dest"], request)
                return
            auth = await self._client.credentials(reference.parse(request.names[0]).domain)
            await self._followed(self._engine.builds.outputs.push(request, auth), task)

    async def _keep_in_directory(self, directory: str, request: OutputRequest) -> None:
        """The blobs; the client writes its index, for which it is told the descriptor."""
        made = await self._engine.builds.outputs.export(request)
        assert made.top is not None
        await self._client.write_layout(directory, made.chunks, self._job.cancellation)
        self.response["cache.manifest"] = encode(made.top.document()).decode()


@contextlib.contextmanager
def _ignored(cache: CacheEntry, job: Job) -> Iterator[None]:
    """``ignore-error=true``: the build is no failure when its cache cannot be kept."""
    try:
        yield
    except CortenError as error:
        if isinstance(error, Cancelled) or cache.attributes.get("ignore-error") != "true":
            raise
        job.tell({"warning": f"the cache was not kept: {error}", "line": 0})


_NEEDED = {"inline": "", "registry": "ref", "local": "dest"}
_CACHE_OPTIONS = frozenset(
    "mode ignore-error compression compression-level force-compression oci-mediatypes image-manifest".split()
)
_OF_TYPES = {"inline": frozenset(), "registry": frozenset({"ref"}), "local": frozenset({"dest", "tag"})}


def check_caches(exports: Sequence[CacheEntry]) -> None:
    """Errors: InvalidParameter for what this engine cannot write."""
    for cache in exports:
        needed = _NEEDED.get(cache.type)
        if needed is None:
            raise InvalidParameter(f"unknown cache exporter: {cache.type!r}: inline, registry and local are supported")
        if needed and not cache.attributes.get(needed):
            raise InvalidParameter(f"cache exporter {cache.type} needs {needed}")
        if cache.type == "registry":
            reference.parse(cache.attributes["ref"])
        for name in cache.attributes:
            if name not in _CACHE_OPTIONS | _OF_TYPES[cache.type]:
                raise InvalidParameter(f"cache exporter {cache.type}: the option {name} is not supported")
        _check_values(cache.attributes)


def _check_values(attributes: Mapping[str, str]) -> None:
    for name, allowed in (
        ("mode", ("min", "max")),
        ("compression", ("uncompressed", "gzip", "zstd")),
        ("oci-mediatypes", ("true", "false")),
    ):
        if attributes.get(name, allowed[0]) not in allowed:
            raise InvalidParameter(f"invalid {name} of a cache exporter: {attributes[name]}")
    compression_level(attributes)

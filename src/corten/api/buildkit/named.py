"""Where a build's files come from: its Dockerfile, its context, and what has a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corten.api.buildkit.attributes import CacheEntry, Order
from corten.api.buildkit.graphs import RESULT, source_of
from corten.build.build import find_dockerfile
from corten.build.contexts import NamedContexts
from corten.build.tree import Tree
from corten.dockerfile.ignore import NAME as IGNORE_FILE
from corten.dockerfile.ignore import Ignore, read_patterns
from corten.engine.streams import feed_thread, run_blocking
from corten.errors import CortenError, InvalidParameter, NotFound
from corten.oci import reference
from corten.oci.platform import Platform, parse_platform, this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from corten.api.buildkit.clients import Client
    from corten.api.buildkit.jobs import Job
    from corten.build.contexts import BuildContext
    from corten.buildkit.proto import control_pb2 as pb
    from corten.engine.build_contexts import Contexts
    from corten.engine.engine import Engine

_UPLOAD = "http://buildkit-session/"


class Sources:
    """Of one call of the frontend; what was opened belongs to ``contexts``."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        client: Client,
        order: Order,
        inputs: Mapping[str, pb.Definition],
        contexts: Contexts,
    ) -> None:
        self._engine = engine
        self._job = job
        self._client = client
        self._order = order
        self._inputs = inputs
        self._contexts = contexts
        self._remote: BuildContext | None = None
        self._ignore: list[str] | None = None
        self._local: dict[str, Tree] = {}

    # -- the Dockerfile -----------------------------------------------------------------------------------------------

    async def dockerfile(self) -> bytes:
        """Errors: InvalidParameter when there is none; those of fetching a context."""
        order = self._order
        name = order.query.dockerfile
        if order.directory:
            raise InvalidParameter("contextsubdir is not supported: name the directory in the address")
        remote = await self._remote_context()
        if remote is not None and not order.has_dockerfile_name:
            with self._job.vertex(f"[internal] load build definition from {name}"):
                return await run_blocking(find_dockerfile, remote, name)
        given = self._inputs.get(order.dockerfile_name)
        if given is not None and not order.has_dockerfile_name:
            context = await self._of_graph(given, "dockerfile")
            return await run_blocking(find_dockerfile, context, name)
        return await self._local_dockerfile(name)

    async def _local_dockerfile(self, name: str) -> bytes:
        order = self._order
        lower = "/".join([*name.split("/")[:-1], "dockerfile"]) if name.split("/")[-1] == "Dockerfile" else name
        ignore = f"{name}.dockerignore"
        with self._job.vertex(f"[internal] load build definition from {name}") as task:
            session = order.sessions.get(order.dockerfile_name, "")
            files = await self._client.read_files(
                session, order.dockerfile_name, sorted({name, lower, ignore}), self._contexts.scratch
            )
            content = files.get(name, files.get(lower))
            if content is None:
                raise InvalidParameter(f"failed to read dockerfile: open {name}: no such file or directory")
            if not content.strip():
                raise InvalidParameter(f"the Dockerfile ({name}) cannot be empty")
            self._job.tell(task.part("transferring dockerfile:", current=len(content), done=True))
        if ignore in files:
            self._ignore = read_patterns(files[ignore])
        return content

    # -- the context --------------------------------------------------------------------------------------------------

    async def main(self) -> BuildContext:
        """Errors: InvalidParameter, NotFound, Unavailable."""
        remote = await self._remote_context()
        if remote is not None:
            return remote
        order = self._order
        session = order.sessions.get(order.context_name, "")
        patterns = await self._patterns()
        return self._client.directory(
            session, order.context_name, patterns, self._contexts, self._job, "[internal] load build context"
        )

    async def ignored(self) -> Ignore | None:
        """What the client's directory leaves out; None for a context that comes in another way."""
        if self._order.context or self._job.body is not None or "context" in self._inputs:
            return None
        return Ignore(await self._patterns())

    async def _patterns(self) -> list[str]:
        if self._ignore is None:
            name = self._order.context_name
            session = self._order.sessions.get(name, "")
            self._ignore = await self._ignore_file(session, name, "[internal] load .dockerignore")
        return self._ignore

    async def _ignore_file(self, session: str, name: str, title: str) -> list[str]:
        with self._job.vertex(title) as task:
            files = await self._client.read_files(session, name, [IGNORE_FILE], self._contexts.scratch)
            content = files.get(IGNORE_FILE, b"")
            self._job.tell(task.part("transferring context:", current=len(content), done=True))
        return read_patterns(content)

    async def _remote_context(self) -> BuildContext | None:
        """What does not come as files of the client's directory."""
        if self._remote is None:
            self._remote = await self._fetched_context()
        return self._remote

    async def _fetched_context(self) -> BuildContext | None:
        address = self._order.context
        body = self._job.body
        if body is not None:
            with self._job.vertex("[internal] load remote build context"):
                return await feed_thread(body, self._with_ignore(self._contexts.unpacked))
        if address.startswith(_UPLOAD):
            with self._job.vertex("[internal] load remote build context"):
                uploaded = self._client.uploaded(address)
                return await feed_thread(uploaded, self._with_ignore(self._contexts.unpacked))
        if address:
            with self._job.vertex(f"[internal] load remote build context {address}"):
                fetched = self._with_ignore(lambda _: self._contexts.fetched(address, keep_git=self._order.keep_git))
                return await run_blocking(fetched, None)
        if "context" in self._inputs:
            return await self._of_graph(self._inputs["context"], "context")
        return None

    def _with_ignore(self, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def made(argument: Any) -> Any:
            context = make(argument)
            context.ignore(self._order.query.dockerfile)
            return context

        return made

    async def _of_graph(self, definition: pb.Definition, name: str) -> BuildContext:
        """A context that a client describes as a graph of one source.  Errors: InvalidParameter."""
        source = source_of(definition, name)
        address = _address(source, name)
        with self._job.vertex(f"[internal] load remote build context {address}"):
            return await run_blocking(self._with_ignore(lambda _: self._contexts.fetched(address)), None)

    # -- names --------------------------------------------------------------------------------------------------------

    async def named(self, platform: str) -> NamedContexts:
        """What names stand for in a build for a platform ("" for this machine's).  Errors: as ``main``."""
        trees: dict[str, Tree] = {}
        images: dict[str, str] = {}
        chosen: dict[str, str] = {}
        for key, value in self._order.named.items():
            name, _, only_for = key.partition("::")
            if only_for == (platform or str(this_machine())) or (not only_for and name not in chosen):
                chosen[name] = value
        for name, value in chosen.items():
            found = await self._one(name, value, parse_platform(platform) if platform else None)
            if isinstance(found, str):
                images[name] = found
            else:
                trees[name] = found
        return NamedContexts(trees, images)

    async def _one(self, name: str, value: str, platform: Platform | None) -> str | Tree:
        kind, _, rest = value.partition(":")
        if kind == "docker-image":
            image = rest.removeprefix("//")
            if reference.try_parse(image) is None:
                raise InvalidParameter(f"the context {name} is no valid reference of an image: {image[:200]}")
            return image
        if kind == "local":
            return await self._directory(name, rest)
        if kind == "input":
            return await self._input(name, rest)
        if kind == "oci-layout":
            with self._job.vertex(f"[context {name}] OCI load from client"):
                return await self._client.layout_image(self._engine, rest.removeprefix("//"), platform)
        if kind in ("http", "https", "git", "ssh") or value.startswith("git@"):
            return await self._fetched(name, value)
        raise InvalidParameter(f"unsupported context source {kind} for {name}")

    async def _directory(self, name: str, directory: str) -> Tree:
        known = self._local.get(directory)
        if known is None:
            session = self._order.sessions.get(directory, "")
            patterns = await self._ignore_file(session, directory, f"[context {name}] load {IGNORE_FILE}")
            known = self._local[directory] = self._client.directory(
                session, directory, patterns, self._contexts, self._job, f"[context {name}] load from client"
            )
        return known

    async def _fetched(self, name: str, address: str) -> Tree:
        known = self._local.get(address)
        if known is None:
            with self._job.vertex(f"[context {name}] {address}"):
                known = self._local[address] = await run_blocking(self._contexts.fetched, address)
        return known

    async def _input(self, name: str, key: str) -> str | Tree:
        if key not in self._inputs:
            raise InvalidParameter(f"invalid input {key} for {name}")
        source = source_of(self._inputs[key], name)
        if source.identifier.startswith(RESULT):
            image = self._job.graphs.get(source.identifier.removeprefix(RESULT))
            if image is None:
                raise NotFound(f"the result that the context {name} names is not known any more")
            return image
        if source.identifier.startswith("docker-image://"):
            return source.identifier.removeprefix("docker-image://")
        return await self._fetched(name, _address(source, name))

    # -- the cache ----------------------------------------------------------------------------------------------------

    async def cache_sources(self) -> list[str]:
        """Images whose history is trusted; what is not there yet is passed over: a first build finds no cache."""
        found: list[str] = []
        for entry in dict.fromkeys(map(_CacheKey, (*self._order.caches, *self._job.wishes.cache_imports))):
            if entry.type not in ("registry", "local"):
                raise InvalidParameter(f"unknown cache importer: {entry.type!r}: registry and local are supported")
            name = entry.reference
            with self._job.vertex(f"importing cache manifest from {name or entry.directory}"):
                try:
                    found += await self._cached(entry)
                except CortenError as error:
                    self._job.tell({"warning": f"cache from {name or entry.directory}: {error}", "line": 0})
        return found

    async def _cached(self, entry: _CacheKey) -> list[str]:
        if entry.type == "local":
            return await self._client.cached_layout(self._engine, entry.directory, entry.digest)
        return await self._client.cached_images(self._engine, entry.reference)


class _CacheKey:
    """A cache entry, the same one twice being one."""

    def __init__(self, entry: CacheEntry) -> None:
        self.type = entry.type
        self.reference = entry.attributes.get("ref", "")
        self.directory = entry.attributes.get("src", "")  # of the client
        self.digest = entry.attributes.get("digest", "")  # of what is meant in there

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.type, self.reference, self.directory, self.digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CacheKey) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)


def _address(source: pb.SourceOp, name: str) -> str:
    """The address that a source stands for, as a context's.  Errors: InvalidParameter."""
    kind, _, rest = source.identifier.partition("://")
    if kind in ("http", "https"):
        return str(source.identifier)
    if kind == "git":
        address, _, fragment = rest.partition("#")
        full = source.attrs.get("git.fullurl") or f"https://{address}"
        return f"{full}#{fragment}" if fragment else full
    raise InvalidParameter(f"the context {name} is a source of the kind {kind}, which is not supported here")

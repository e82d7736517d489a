"""The Dockerfile frontend: attributes, the client's files and names become builds.

Source: moby/buildkit, frontend/dockerui (where Dockerfile, ignore file and contexts come from).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from corten.api.buildkit import subrequests
from corten.api.buildkit.attributes import Order
from corten.api.buildkit.delivery import Built
from corten.api.buildkit.failures import located
from corten.api.buildkit.named import Sources
from corten.api.buildkit.progress import of_part
from corten.build.options import BuildOptions
from corten.build.workshop import Cancellation
from corten.buildkit.agents import SessionAgents
from corten.buildkit.secrets import SessionSecrets
from corten.dockerapi.build_request import BuildRequest
from corten.dockerfile.lint import Base, Surroundings
from corten.dockerfile.parser import parse
from corten.engine.build_contexts import Gathered
from corten.engine.builds import Order as BuildOrder
from corten.engine.streams import run_blocking
from corten.errors import CortenError, InvalidParameter
from corten.oci.platform import this_machine

if TYPE_CHECKING:
    from pathlib import Path

    from corten.api.buildkit.clients import Client
    from corten.api.buildkit.jobs import Job
    from corten.buildkit.proto import control_pb2 as pb
    from corten.buildkit.sessions import Session
    from corten.engine.build_contexts import Contexts
    from corten.engine.engine import Engine

Document = dict[str, Any]


@dataclass(slots=True)
class FrontendResult:
    """Images with their platforms as the client knows them, or the metadata of an answer."""

    order: Order
    built: list[Built] = field(default_factory=list)
    platforms: list[str] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)


class Frontend:
    """One call.  Use once."""

    def __init__(
        self, engine: Engine, job: Job, client: Client, order: Order, inputs: Mapping[str, pb.Definition]
    ) -> None:
        self._engine = engine
        self._job = job
        self._client = client
        self._order = order
        self._inputs = inputs
        self._content = b""

    async def run(self) -> FrontendResult:
        """Errors: InvalidParameter, NotFound, DockerfileError, BuildFailed, Cancelled, those of pulls."""
        if self._order.request == subrequests.DESCRIBE:
            return FrontendResult(self._order, metadata=subrequests.answer(self._order, b"", Surroundings()))
        contexts = self._engine.builds.contexts(self._order.query, self._job.cancellation)
        try:
            return await self._run(contexts)
        except CortenError as error:
            failure = self._job.translator.failure
            raise located(error, self._order.query.dockerfile, self._content, failure) from error
        finally:
            await asyncio.shield(run_blocking(contexts.close))

    async def _run(self, contexts: Contexts) -> FrontendResult:
        session = await self._client.session()
        if session is not None:
            contexts.secrets = SessionSecrets(session, self._job.cancellation)
        sources = Sources(self._engine, self._job, self._client, self._order, self._inputs, contexts)
        self._content = await sources.dockerfile()
        if self._order.request:
            around = await self._around(sources) if self._order.request == subrequests.LINT else Surroundings()
            answer = await run_blocking(subrequests.answer, self._order, self._content, around)
            return FrontendResult(self._order, metadata=answer)
        await self._warn(await self._around(sources))
        main = await sources.main()
        options = await self._options(sources)
        result = FrontendResult(self._order)
        platforms = [str(item) for item in self._order.platforms] or [""]
        for number, platform in enumerate(platforms):
            named = await sources.named(platform)
            inputs = Gathered(main, named, BuildRequest(), self._content)
            result.built.append(await self._build(number, platform, inputs, options, contexts.scratch))
            result.platforms.append(platform or str(this_machine()))
        return result

    async def _around(self, sources: Sources) -> Surroundings:
        """What the linter may know beside the Dockerfile."""
        platforms = self._order.platforms
        platform = "" if len(platforms) > 1 else str(platforms[0] if platforms else this_machine())
        named = {name.partition("::")[0] for name in self._order.named}

        def base(name: str) -> Base | None:
            return None if name in named else self._engine.builds.base_of(name)

        return Surroundings(await sources.ignored(), base, platform)

    async def _warn(self, around: Surroundings) -> None:
        """What the linter finds.  Errors: InvalidParameter when the Dockerfile wants that to be an error."""
        name = self._order.query.dockerfile
        found, is_error = await run_blocking(
            lambda: subrequests.findings(parse(self._content), self._order.check, around)
        )
        if found and is_error:
            rules = sorted({item.rule for item in found})
            raise InvalidParameter(f"lint violation found for rules: {', '.join(rules)}")
        source = self._content.decode("utf-8", "surrogateescape")
        for item in found:
            self._job.tell(
                {"warning": item.message, "rule": item.rule, "line": item.line, "file": name, "source": source}
            )

    async def _options(self, sources: Sources) -> BuildOptions:
        order, wishes = self._order, self._job.wishes
        query = replace(order.query, cache_from=tuple(await sources.cache_sources()))
        epoch = next((output.epoch for output in wishes.outputs if output.epoch), "")
        if epoch and "SOURCE_DATE_EPOCH" not in query.arguments:
            query = replace(query, arguments={**query.arguments, "SOURCE_DATE_EPOCH": epoch})
        request = BuildRequest(
            allow=sorted(wishes.entitlements),
            no_cache_filter=[name.lower() for name in order.fresh_stages],
            structured=True,
            rewrite_times=any(output.rewrite_times for output in wishes.outputs),
        )
        options = self._engine.builds.options(query, request)
        return replace(
            options,
            cache_namespace=order.cache_namespace,
            limits=replace(options.limits, hostname=order.hostname),
        )

    async def _build(self, number: int, platform: str, inputs: Gathered, options: BuildOptions, scratch: Path) -> Built:
        job, is_alone = self._job, len(self._order.platforms) < 2
        query = replace(self._order.query, platform=platform, tags=self._names())
        build = job.ref if not number else f"{job.ref}-{number}"
        note: Document = {"id": build, "attributes": dict(job.attributes)}
        cancellation = Cancellation()  # which ends with its build; others may follow
        session = await self._client.session()
        if session is not None and not query.tags and not query.remote:
            note["name"] = session.shared_key.partition(":")[0]  # clients make it of the directory's name
        if number:
            note["part_of"] = job.ref
        last: Document = {}
        async with _lent(session, scratch, cancellation) as (secrets, agents):
            order = BuildOrder(
                query,
                inputs,
                replace(options, platform=platform, secrets=secrets, agents=agents),
                lambda host: self._client.credentials_in_thread(host, cancellation),
                note,
                is_recorded=not job.wishes.is_internal,
            )
            documents = self._engine.builds.solve(order, cancellation)
            with job.cancellation.calling(cancellation.cancel):
                async with contextlib.aclosing(documents) as stream:
                    async for document in stream:
                        last = document
                        if "aux" in document:
                            # until it has its names, or is on its way: a prune must not take it
                            held = self._engine.builds.held(document["aux"]["ID"])
                            await run_blocking(job.held.enter_context, held)
                        job.tell(of_part(document, number, "" if is_alone else platform))
        return Built(last["aux"]["ID"], build, platform, tuple(last.get("stages", ())))

    def _names(self) -> tuple[str, ...]:
        return tuple(name for output in self._job.wishes.outputs for name in output.names)


@contextlib.asynccontextmanager
async def _lent(
    session: Session | None, scratch: Path, cancellation: Cancellation
) -> AsyncIterator[tuple[Mapping[str, bytes], Mapping[str, str]]]:
    """What one build has of its client: secrets and agents."""
    if session is None:
        yield {}, {}
        return
    agents = SessionAgents(session, scratch, cancellation)
    try:
        yield SessionSecrets(session, cancellation), agents
    finally:
        await asyncio.shield(agents.close())

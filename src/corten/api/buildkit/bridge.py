"""The service moby.buildkit.v1.frontend.LLBBridge: a client that is the frontend of its own solve.

buildx builds this way: it begins a solve without a frontend, asks here for what the built-in one makes of its
attributes, and returns that.  Source: moby/buildkit, frontend/gateway/pb and control/gateway.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from corten.api.buildkit import graphs, workers
from corten.api.buildkit.failures import grpc_error, of_status
from corten.api.buildkit.frontend import FrontendResult
from corten.buildkit.proto import control_pb2 as pb
from corten.buildkit.wire import parsed
from corten.errors import CortenError, InvalidParameter, NotFound
from corten.grpc import metadata
from corten.grpc.server import Handler, ServerCall, unary

if TYPE_CHECKING:
    from corten.api.buildkit.jobs import Job
    from corten.api.buildkit.solving import Solving
    from corten.engine.engine import Engine

_BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
_BUILD = "buildkit-controlapi-buildid"
Work = Callable[["Job", bytes], Awaitable[bytes]]


class Bridge:
    """Of one engine."""

    def __init__(self, engine: Engine, solving: Solving) -> None:
        self._engine = engine
        self._solving = solving

    def handlers(self) -> Mapping[str, Handler]:
        methods: dict[str, Work] = {
            "Ping": self._ping,
            "Solve": self._solve,
            "Return": self._return,
            "Evaluate": self._evaluate,
            "Inputs": self._inputs,
            "ReadFile": self._read_file,
            "ReadDir": self._read_directory,
            "StatFile": self._stat_file,
        }
        return {f"{_BRIDGE}{name}": unary(self._of_build(work)) for name, work in methods.items()}

    def _of_build(self, work: Work) -> Callable[[bytes, ServerCall], Awaitable[bytes]]:
        async def handle(data: bytes, call: ServerCall) -> bytes:
            ref = metadata.first(call.metadata, _BUILD)
            if not ref:
                raise InvalidParameter("a call of the bridge needs the id of its build")
            job = await self._solving.jobs.wait(ref)
            if job.is_over:
                raise NotFound(f"no such job {ref}")
            try:
                with job.working():
                    return await work(job, data)
            except CortenError as error:
                raise grpc_error(error) from error

        return handle

    async def _ping(self, _job: Job, _data: bytes) -> bytes:
        return pb.PongResponse(
            frontend_caps=[pb.APICap(id=name, enabled=True) for name in workers.FRONTEND_CAPABILITIES],
            llb_caps=[pb.APICap(id=name, enabled=True) for name in workers.LLB_CAPABILITIES],
            workers=workers.workers(self._engine),
        ).SerializeToString()

    async def _solve(self, job: Job, data: bytes) -> bytes:
        request = parsed(pb.BridgeSolveRequest, data)
        if request.definition.ops:
            raise InvalidParameter("a build graph (LLB) is not supported: the frontend dockerfile.v0 is built in")
        result = await self._solving.call_frontend(
            job, request.frontend, request.frontend_opt, dict(request.frontend_inputs)
        )
        return pb.BridgeSolveResponse(result=self._message(job, result)).SerializeToString()

    def _message(self, job: Job, result: FrontendResult) -> pb.Result:
        made = pb.Result(metadata=result.metadata)
        if not result.built:
            made.ref.SetInParent()
            return made
        for number, built in enumerate(result.built):
            name = secrets.token_hex(12)
            job.results[name] = result
            job.images[name] = built.image
            graphs.remember(self._solving.graphs, name, built.image)
            ref = pb.Ref(id=name, definition=graphs.of_result(name))
            if result.order.is_index:
                made.refs.refs[result.platforms[number]].CopyFrom(ref)
            else:
                made.ref.CopyFrom(ref)
        return made

    async def _return(self, job: Job, data: bytes) -> bytes:
        request = parsed(pb.ReturnRequest, data)
        if not job.returned.done():
            if request.HasField("error"):
                job.returned.set_exception(of_status(request.error))
                job.returned.exception()  # the solve may have ended meanwhile
            else:
                try:
                    job.returned.set_result(self._returned(job, request.result))
                except NotFound as error:
                    job.returned.set_exception(error)
                    raise
        return pb.ReturnResponse().SerializeToString()

    @staticmethod
    def _returned(job: Job, result: pb.Result) -> FrontendResult | None:
        """Which of the frontend's results the client means; None for none.  Errors: NotFound."""
        kind = result.WhichOneof("result")
        names: list[str] = []
        if kind == "ref":
            names = [result.ref.id]
        elif kind == "refs":
            names = [ref.id for ref in result.refs.refs.values()]
        elif kind == "ref_deprecated":
            names = [result.ref_deprecated]
        elif kind == "refs_deprecated":
            names = list(result.refs_deprecated.refs.values())
        names = [name for name in names if name]
        found = [job.results[name] for name in names if name in job.results]
        if len(found) != len(names) or any(item is not found[0] for item in found):
            raise NotFound("the client returns a result that it has not got from here")
        return found[0] if found else None

    async def _evaluate(self, job: Job, data: bytes) -> bytes:
        """A result is there when its solve has ended."""
        self._image(job, parsed(pb.EvaluateRequest, data).ref)
        return pb.EvaluateResponse().SerializeToString()

    async def _inputs(self, job: Job, _data: bytes) -> bytes:
        return pb.InputsResponse(definitions=dict(job.wishes.inputs)).SerializeToString()

    # -- files of results ---------------------------------------------------------------------------------------------

    @staticmethod
    def _image(job: Job, ref: str) -> str:
        """Errors: NotFound."""
        image = job.images.get(ref)
        if image is None:
            raise NotFound(f"no such ref {ref[:100]}")
        return image

    async def _read_file(self, job: Job, data: bytes) -> bytes:
        request = parsed(pb.ReadFileRequest, data)
        content = await self._in_tree(
            job, request.ref, graphs.read_file, request.file_path, request.range.offset, request.range.length
        )
        return pb.ReadFileResponse(data=content).SerializeToString()

    async def _stat_file(self, job: Job, data: bytes) -> bytes:
        request = parsed(pb.StatFileRequest, data)
        stat = await self._in_tree(job, request.ref, graphs.stat_file, request.path)
        return pb.StatFileResponse(stat=stat).SerializeToString()

    async def _read_directory(self, job: Job, data: bytes) -> bytes:
        request = parsed(pb.ReadDirRequest, data)
        entries = await self._in_tree(
            job, request.ref, graphs.read_directory, request.dir_path, request.include_pattern
        )
        return pb.ReadDirResponse(entries=entries).SerializeToString()

    async def _in_tree(self, job: Job, ref: str, work: Callable[..., Any], *arguments: Any) -> Any:
        image = self._image(job, ref)

        def look() -> Any:
            with self._engine.builds.outputs.files_of(image) as tree:
                return work(tree, *arguments)

        return await asyncio.to_thread(look)

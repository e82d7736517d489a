"""The service moby.buildkit.v1.Control: solves and their progress, workers, the cache, the history.

Source: moby/buildkit, api/services/control and control/control.go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corten.api.buildkit import workers
from corten.api.buildkit.attributes import ENTITLEMENTS, CacheEntry
from corten.api.buildkit.delivery import check_caches
from corten.api.buildkit.exporters import read_outputs
from corten.api.buildkit.failures import grpc_error
from corten.api.buildkit.filters import Filters
from corten.api.buildkit.records import Records, changes, now_header
from corten.api.buildkit.solving import Solving
from corten.api.buildkit.wishes import Wishes
from corten.buildkit.proto import content_pb2
from corten.buildkit.proto import control_pb2 as pb
from corten.buildkit.wire import parsed
from corten.dockerapi.build import PruneSpace
from corten.dockerapi.timestamps import parse_moment
from corten.engine.streams import run_blocking
from corten.errors import CortenError, InvalidParameter, NotFound
from corten.grpc.server import Handler, ServerCall, unary

if TYPE_CHECKING:
    from corten.engine.engine import Engine

logger = logging.getLogger(__name__)
Document = dict[str, Any]
_CONTROL = "/moby.buildkit.v1.Control/"
_CONTENT = "/containerd.services.content.v1.Content/"
_PIECE = 1 << 20
_HISTORY_PAUSE_S = 0.2  # in which several changes become one


class Control:
    """Of one engine."""

    def __init__(self, engine: Engine, solving: Solving) -> None:
        self._engine = engine
        self._solving = solving
        self._records = Records(engine.builds.history)

    def handlers(self) -> Mapping[str, Handler]:
        return {
            f"{_CONTROL}Solve": unary(self._solve),
            f"{_CONTROL}Status": self._status,
            f"{_CONTROL}Info": unary(self._info),
            f"{_CONTROL}ListWorkers": unary(self._list_workers),
            f"{_CONTROL}DiskUsage": unary(self._disk_usage),
            f"{_CONTROL}Prune": self._prune,
            f"{_CONTROL}ListenBuildHistory": self._history,
            f"{_CONTROL}UpdateBuildHistory": unary(self._update_history),
            f"{_CONTENT}Info": unary(self._content_info),
            f"{_CONTENT}Read": self._content_read,
        }

    # -- solves -------------------------------------------------------------------------------------------------------

    async def _solve(self, data: bytes, _call: ServerCall) -> bytes:
        request = parsed(pb.SolveRequest, data)
        try:
            response = await self._solving.solve(read_wishes(request))
        except CortenError as error:
            raise grpc_error(error) from error
        return pb.SolveResponse(exporter_response=response).SerializeToString()

    async def _status(self, call: ServerCall) -> None:
        request = parsed(pb.StatusRequest, await _only(call))
        jobs = self._solving.jobs
        if jobs.get(request.ref) is None:
            with contextlib.suppress(NotFound):
                for message in await run_blocking(self._records.log, request.ref):
                    await call.send(message.SerializeToString())
                return
        job = await jobs.wait(request.ref)
        async for sent in job.follow():
            await call.send(sent)

    # -- workers ------------------------------------------------------------------------------------------------------

    async def _info(self, _data: bytes, _call: ServerCall) -> bytes:
        return pb.InfoResponse(buildkit_version=workers.version()).SerializeToString()

    async def _list_workers(self, data: bytes, _call: ServerCall) -> bytes:
        request = parsed(pb.ListWorkersRequest, data)
        return pb.ListWorkersResponse(record=workers.workers(self._engine, request.filter)).SerializeToString()

    # -- the cache ----------------------------------------------------------------------------------------------------

    async def _disk_usage(self, data: bytes, _call: ServerCall) -> bytes:
        request = parsed(pb.DiskUsageRequest, data)
        filters = Filters(request.filter)
        rows = [row for row in await self._engine.builds.usage() if _is_meant(row, filters)]
        if request.age_limit:
            rows = [row for row in rows if time.time_ns() - _last_used(row) >= request.age_limit]
        return pb.DiskUsageResponse(record=[_usage(row) for row in rows]).SerializeToString()

    async def _prune(self, call: ServerCall) -> None:
        request = parsed(pb.PruneRequest, await _only(call))
        filters = Filters(request.filter)
        rows = {row["ID"]: row for row in await self._engine.builds.usage() if _is_meant(row, filters)}
        wanted: dict[str, list[str]] = {"id": list(rows)} if request.filter else {}
        if request.keep_duration:
            wanted["until"] = [f"{request.keep_duration // 10**9}s"]
        space = PruneSpace(
            reserved=request.reserved_space, max_used=request.max_used_space, min_free=request.min_free_space
        )
        if request.filter and not rows:
            return
        answer = await self._engine.builds.prune(everything=request.all, space=space, wanted=wanted)
        for name in answer["CachesDeleted"] or ():
            await call.send(_usage(rows[name]).SerializeToString() if name in rows else b"")

    # -- the history --------------------------------------------------------------------------------------------------

    async def _history(self, call: ServerCall) -> None:
        request = parsed(pb.BuildHistoryRequest, await _only(call))
        call.begin(now_header())
        if request.early_exit:
            await self._list_history(call, request)
            return
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(changed.set)

        # of what changes from now on, however many builds are listed first
        wanted = pb.BuildHistoryRequest(ref=request.ref, filter=request.filter)
        with self._records.watched(tell):
            known, _ = changes({}, await run_blocking(self._records.events, wanted))
            await self._list_history(call, request)
            while True:
                await changed.wait()
                changed.clear()
                known, messages = changes(known, await run_blocking(self._records.events, wanted))
                for message in messages:
                    await call.send(message)
                await asyncio.sleep(_HISTORY_PAUSE_S)

    async def _list_history(self, call: ServerCall, request: pb.BuildHistoryRequest) -> None:
        for event in await run_blocking(self._records.events, request):
            await call.send(event.SerializeToString())

    async def _update_history(self, data: bytes, _call: ServerCall) -> bytes:
        await run_blocking(self._records.update, parsed(pb.UpdateBuildHistoryRequest, data))
        return pb.UpdateBuildHistoryResponse().SerializeToString()

    # -- what records name --------------------------------------------------------------------------------------------

    async def _content_info(self, data: bytes, _call: ServerCall) -> bytes:
        digest = parsed(content_pb2.InfoRequest, data).digest
        content = await run_blocking(self._records.content, digest)
        info = content_pb2.Info(digest=digest, size=len(content))
        return content_pb2.InfoResponse(info=info).SerializeToString()

    async def _content_read(self, call: ServerCall) -> None:
        request = parsed(content_pb2.ReadContentRequest, await _only(call))
        content = await run_blocking(self._records.content, request.digest)
        end = request.offset + request.size if request.size else len(content)
        for offset in range(request.offset, min(end, len(content)), _PIECE):
            piece = content[offset : min(offset + _PIECE, end)]
            await call.send(content_pb2.ReadContentResponse(offset=offset, data=piece).SerializeToString())


async def _only(call: ServerCall) -> bytes:
    """The request of a call that has one."""
    data = await call.receive()
    return b"" if data is None else data


def read_wishes(request: pb.SolveRequest) -> Wishes:
    """Errors: InvalidParameter for what this engine does not do."""
    if request.definition.ops:
        raise InvalidParameter("a build graph (LLB) is not supported: the frontend dockerfile.v0 is built in")
    if request.source_policy.rules:
        raise InvalidParameter("source policies are not supported")
    if request.proxy_network:
        raise InvalidParameter("a network proxy for steps is not supported")
    if request.enable_session_exporter:
        raise InvalidParameter("exporters of the client's session are not supported")
    exporters = [(item.type, dict(item.attrs)) for item in request.exporters]
    if not exporters and request.exporter_deprecated:
        exporters = [(request.exporter_deprecated, dict(request.exporter_attrs_deprecated))]
    exports = _exports(request.cache)
    check_caches(exports)
    return Wishes(
        ref=request.ref,
        session=request.session,
        frontend=request.frontend,
        attributes=dict(request.frontend_attrs),
        inputs=dict(request.frontend_inputs),
        outputs=tuple(read_outputs(exporters)),
        exporters=tuple(exporters),
        cache_exports=tuple(exports),
        cache_imports=tuple(_imports(request.cache)),
        entitlements=_entitlements(request.entitlements),
        is_internal=request.internal,
    )


def _exports(options: pb.CacheOptions) -> list[CacheEntry]:
    found = [CacheEntry(item.type, dict(item.attrs)) for item in options.exports]
    if options.export_ref_deprecated:
        found.append(CacheEntry("registry", {"ref": options.export_ref_deprecated}))
    return found


def _imports(options: pb.CacheOptions) -> list[CacheEntry]:
    found = [CacheEntry(item.type, dict(item.attrs)) for item in options.imports]
    return found + [CacheEntry("registry", {"ref": name}) for name in options.import_refs_deprecated]


def _entitlements(names: Any) -> frozenset[str]:
    for name in names:
        if name not in ENTITLEMENTS and not name.startswith("device="):
            raise InvalidParameter(f"unknown entitlement {name}: {', '.join(sorted(ENTITLEMENTS))}")
    return frozenset(names)


def _is_meant(row: Document, filters: Filters) -> bool:
    values = {
        "id": row["ID"],
        "parents": ";".join(row["Parents"]),
        "parent": row["Parent"],
        "description": row["Description"],
        "inuse": str(row["InUse"]).lower(),
        "shared": str(row["Shared"]).lower(),
        "private": str(not row["Shared"]).lower(),
        "mutable": str(row["Type"] == "exec.cachemount").lower(),
        "immutable": str(row["Type"] != "exec.cachemount").lower(),
        "type": row["Type"],
    }
    return filters.match(lambda name: values.get(name.lower()))


def _last_used(row: Document) -> int:
    return parse_moment(row["LastUsedAt"] or row["CreatedAt"])


def _usage(row: Document) -> pb.UsageRecord:
    made = pb.UsageRecord(
        id=row["ID"],
        mutable=row["Type"] == "exec.cachemount",
        in_use=row["InUse"],
        size=row["Size"],
        usage_count=row["UsageCount"],
        description=row["Description"],
        record_type=row["Type"],
        shared=row["Shared"],
        parents=row["Parents"],
    )
    made.created_at.FromNanoseconds(parse_moment(row["CreatedAt"]))
    if row["LastUsedAt"]:
        made.last_used_at.FromNanoseconds(parse_moment(row["LastUsedAt"]))
    return made

"""A solve from its beginning to its end: the frontend's result goes to the outputs, the history keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from corten.api.buildkit.attributes import Order, read_order
from corten.api.buildkit.clients import Client
from corten.api.buildkit.delivery import Delivery
from corten.api.buildkit.exporters import check_outputs
from corten.api.buildkit.failures import text_of
from corten.api.buildkit.frontend import Frontend, FrontendResult
from corten.api.buildkit.graphs import Graphs
from corten.api.buildkit.jobs import Job, Jobs
from corten.api.buildkit.uploads import Uploads
from corten.api.buildkit.wishes import Wishes
from corten.build.history import CANCELED, COMPLETED, ERROR, Record
from corten.build.workshop import Cancelled
from corten.engine.streams import run_blocking
from corten.errors import CortenError, InvalidParameter, NotFound
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.api.buildkit.delivery import Response
    from corten.buildkit.proto import control_pb2 as pb
    from corten.engine.engine import Engine

logger = logging.getLogger(__name__)


class Solving:
    """Of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = engine.sessions
        self.jobs = Jobs()
        self.graphs: Graphs = OrderedDict()
        self.uploads = Uploads()
        self.by_build_id: dict[str, str] = {}  # of builds that can be cancelled by their client's name for them

    def cancel(self, build_id: str) -> None:
        """Nothing for one that is not there."""
        job = self.jobs.get(self.by_build_id.get(build_id, ""))
        if job is not None:
            job.cancel()

    async def solve(self, wishes: Wishes, body: AsyncIterator[bytes] | None = None) -> Response:
        """What the client is told of the result.

        body: the context, where it does not come through a session
        Errors: all that a build can fail with; Cancelled when the client or its session goes.
        """
        if not wishes.ref:
            raise InvalidParameter("a solve needs a ref")
        job = self.jobs.begin(wishes, body, self.graphs)
        error: BaseException | None = None
        try:
            async with self._watched(job):
                return await self._solve(job)
        except BaseException as failure:
            error = failure
            is_ended_by_job = job.cancellation.is_cancelled and isinstance(failure, asyncio.CancelledError)
            if is_ended_by_job:
                _go_on()
            job.cancel()
            await job.settle()
            if is_ended_by_job:
                raise Cancelled("the build was cancelled") from None
            raise
        finally:
            try:
                await asyncio.shield(run_blocking(self._keep, job, error))
            finally:
                self.jobs.end(job)

    def _client(self, wishes: Wishes) -> Client:
        return Client(self._sessions, wishes.session, wishes.credentials)

    @contextlib.asynccontextmanager
    async def _watched(self, job: Job) -> AsyncIterator[None]:
        """The solve ends with the session that it takes its files from."""
        session = job.wishes.session
        if not session:
            with job.working():
                yield
            return
        closed = await self._client(job.wishes).closed()

        def end(_: object) -> None:
            job.cancel()

        closed.add_done_callback(end)
        try:
            with job.working():
                yield
        finally:
            closed.remove_done_callback(end)  # a session outlives its solves

    async def _solve(self, job: Job) -> Response:
        wishes = job.wishes
        if wishes.frontend:
            result = await self.call_frontend(job, wishes.frontend, wishes.attributes, wishes.inputs)
        else:
            result = await job.returned
        if result is None:
            return {}
        if not result.built:
            return {name: value.decode("utf-8", "replace") for name, value in result.metadata.items()}
        client = self._client(wishes)
        order = result.order
        delivery = Delivery(self._engine, job, client, result.built, order.attestations, is_index=order.is_index)
        job.response = await delivery.deliver(wishes.outputs, wishes.cache_exports)
        return job.response

    async def call_frontend(
        self, job: Job, frontend: str, attributes: Mapping[str, str], inputs: Mapping[str, pb.Definition]
    ) -> FrontendResult:
        """Errors: InvalidParameter (attributes), and what a build fails with."""
        order = read_order(frontend, attributes)
        self._check(order, job.wishes)
        job.attributes = dict(attributes)
        client = self._client(job.wishes)
        return await Frontend(self._engine, job, client, order, inputs).run()

    @staticmethod
    def _check(order: Order, wishes: Wishes) -> None:
        if order.request:
            return
        check_outputs(wishes.outputs, max(1, len(order.platforms)), order.attestations)
        if order.query.network == "host" and "network.host" not in wishes.entitlements:
            raise InvalidParameter("network.host is not allowed (--allow network.host)")

    # -- the history --------------------------------------------------------------------------------------------------

    def _keep(self, job: Job, error: BaseException | None) -> None:
        """Complete the record of the build, which the engine has begun when it came so far.  For worker threads."""
        if job.wishes.is_internal or (error is None and not job.attributes):
            return
        history = self._engine.builds.history
        try:
            record = history.get(job.ref)
        except NotFound:
            record = Record(id=job.ref, started=job.started, completed=time.time_ns())
        record.attributes = dict(job.attributes or job.wishes.attributes)
        record.exporters = [{"type": kind, "attrs": dict(attributes)} for kind, attributes in job.wishes.exporters]
        record.response = dict(job.response)
        record.completed = time.time_ns()
        if error is not None:
            is_cancelled = isinstance(error, (asyncio.CancelledError, Cancelled)) or (
                isinstance(error, GrpcError) and error.code == Code.CANCELLED  # the client says so itself
            )
            record.status = CANCELED if is_cancelled else ERROR
            record.error = text_of(error) if isinstance(error, CortenError) else "the build was cancelled"
        else:
            record.status, record.error = COMPLETED, ""
        history.put(record, job.log)


_of_engines: WeakKeyDictionary[Engine, Solving] = WeakKeyDictionary()


def solving_of(engine: Engine) -> Solving:
    """The one of an engine, over all its connections."""
    known = _of_engines.get(engine)
    if known is None:
        known = _of_engines[engine] = Solving(engine)
    return known


def _go_on() -> None:
    """This task was to end what it did, and goes on with telling so."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()

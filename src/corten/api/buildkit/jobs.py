"""Solves under way: what each has told so far, who follows it, what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from corten.api.buildkit.progress import Steps, Task, Translator
from corten.build.workshop import Cancellation
from corten.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from corten.api.buildkit.frontend import FrontendResult
    from corten.api.buildkit.graphs import Graphs
    from corten.api.buildkit.wishes import Wishes
    from corten.buildkit.proto import control_pb2 as pb

Document = dict[str, Any]
_PATIENCE_S = 5.0  # how long a client may ask for a build before it has begun
_REMEMBERED = 8  # ended ones, for clients that ask late
_KEPT_BYTES = 2 << 20  # of output, for the history
_KEPT_DOCUMENTS = 20_000
_LARGE = 1 << 20  # bytes of messages that are not remembered
_OWN_STEPS = 1_000_000  # numbers of vertexes that are no instructions


class Job:
    """One solve.  Used by the loop alone.

    log: the documents so far, for the history
    results, images: of calls of the frontend, by the ids that the client knows them by
    body: the context, where it does not come through a session; graphs: what results of other solves are
    attributes: of the last of these calls; response: what the client is told of the result
    """

    def __init__(self, wishes: Wishes, body: AsyncIterator[bytes] | None, graphs: Graphs) -> None:
        self.ref = wishes.ref
        self.body = body
        self.graphs = graphs
        self.wishes = wishes
        self.cancellation = Cancellation()
        self.log: list[Document] = []
        self.results: dict[str, FrontendResult] = {}
        self.images: dict[str, str] = {}
        self.attributes: dict[str, str] = {}
        self.response: dict[str, str] = {}
        self.started = time.time_ns()
        self.returned: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.translator = Translator(wishes.ref)
        self._steps = Steps(_OWN_STEPS)
        self._messages: list[bytes] = []
        self._kept = 0
        self.held = contextlib.ExitStack()  # what lasts as long as the solve
        self._is_over = False
        self._news = asyncio.Event()
        self._working: set[asyncio.Task[Any]] = set()

    # -- telling ------------------------------------------------------------------------------------------------------

    def tell(self, document: Document) -> None:
        self._keep(document)
        message = self.translator.translate(document)
        if message is not None:
            self.send(message)

    def _keep(self, document: Document) -> None:
        size = len(document.get("output", ""))
        if "progressDetail" in document or len(self.log) >= _KEPT_DOCUMENTS or self._kept + size > _KEPT_BYTES:
            return
        self._kept += size
        self.log.append(document)

    def send(self, message: pb.StatusResponse) -> None:
        self._messages.append(message.SerializeToString())
        self._news.set()

    @property
    def is_large(self) -> bool:
        return sum(map(len, self._messages)) > _LARGE

    @contextlib.contextmanager
    def vertex(self, name: str) -> Iterator[Task]:
        """A vertex for the time of the block."""
        task = self._steps.begin(name)
        self.tell(task.opening)
        try:
            yield task
        except BaseException as error:
            self.tell(task.end("canceled" if isinstance(error, asyncio.CancelledError) else str(error)))
            raise
        self.tell(task.end())

    @contextlib.contextmanager
    def part(self, task: Task, name: str) -> Iterator[None]:
        self.tell(task.part(name))
        try:
            yield
        finally:
            self.tell(task.part(name, done=True))

    async def follow(self) -> AsyncIterator[bytes]:
        """All messages from the beginning, to the end of the solve."""
        position = 0
        while True:
            while position < len(self._messages):
                position += 1
                yield self._messages[position - 1]
            if self._is_over:
                return
            self._news.clear()
            await self._news.wait()

    # -- ending -------------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        return self._is_over

    def finish(self) -> None:
        self._is_over = True
        self._news.set()
        self.held.close()
        if not self.returned.done():
            self.returned.cancel()

    def cancel(self) -> None:
        """From outside of its tasks, or from the one that ends it."""
        self.cancellation.cancel()
        for task in self._working - {asyncio.current_task()}:
            task.cancel()

    async def settle(self) -> None:
        """Wait until no other task works for the solve any more."""
        while others := self._working - {asyncio.current_task()}:
            await asyncio.wait(others)
            await asyncio.sleep(0)  # they take themselves off when they have ended

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The current task is cancelled with the solve."""
        task = asyncio.current_task()
        assert task is not None
        self._working.add(task)
        try:
            yield
        finally:
            self._working.discard(task)


class Jobs:
    """By their refs.

    A follower may come before its solve, and shortly after its end.
    """

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._arrival = asyncio.Event()

    def begin(self, wishes: Wishes, body: AsyncIterator[bytes] | None, graphs: Graphs) -> Job:
        """Errors: Conflict."""
        known = self._jobs.get(wishes.ref)
        if known is not None and not known.is_over:
            raise Conflict(f"job ID {wishes.ref} exists")
        job = self._jobs[wishes.ref] = Job(wishes, body, graphs)
        self._arrival.set()
        self._arrival.clear()
        return job

    def end(self, job: Job) -> None:
        job.finish()
        over = [known for known in self._jobs.values() if known.is_over]
        for known in (*over[:-_REMEMBERED], *(item for item in over if item.is_large)):
            self._jobs.pop(known.ref, None)

    def running(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.is_over]

    def get(self, ref: str) -> Job | None:
        return self._jobs.get(ref)

    async def wait(self, ref: str, patience_s: float = _PATIENCE_S) -> Job:
        """Errors: NotFound when none comes."""
        try:
            async with asyncio.timeout(patience_s):
                while ref not in self._jobs:
                    await self._arrival.wait()
        except TimeoutError:
            raise NotFound(f"no such job {ref}") from None
        return self._jobs[ref]

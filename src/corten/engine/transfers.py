"""Long work with registries: it runs in a thread, several clients may follow it, and it ends when nobody does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from corten.registry.progress import Report
from corten.registry.registry import Registry
from corten.registry.transport import Transport

Document = dict[str, Any]
Work = Callable[[Transport, Report], None]
_WAITING = 512  # documents that a slow client may be behind; beyond that what only moves a bar is left out
_threads = ThreadPoolExecutor(32, thread_name_prefix="registry")


class _Follower:
    """One client's view."""

    def __init__(self, seen: list[Document]) -> None:
        self.queue: asyncio.Queue[Document | None] = asyncio.Queue()
        for document in seen:
            self.queue.put_nowait(document)

    def put(self, document: Document) -> None:
        if self.queue.qsize() < _WAITING or not document.get("progressDetail"):
            self.queue.put_nowait(document)


class _Transfer:
    def __init__(self, transport: Transport, work: Work) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._seen: dict[Hashable, Document] = {}
        self._followers: set[_Follower] = set()
        self.result: asyncio.Future[None] = self._loop.run_in_executor(_threads, self._run, work)
        self.result.add_done_callback(self._done)

    # -- the thread's side --------------------------------------------------------------------------------------------

    def _run(self, work: Work) -> None:
        try:
            work(self._transport, self._report)
        finally:
            self._transport.close()

    def _report(self, document: Document) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._publish, document)

    # -- the loop's side ----------------------------------------------------------------------------------------------

    def _publish(self, document: Document) -> None:
        # whoever joins later is told the last state of each layer, and everything that has no id
        self._seen[document.get("id") or len(self._seen)] = document
        for follower in self._followers:
            follower.put(document)

    def _done(self, result: asyncio.Future[None]) -> None:
        if not result.cancelled():
            result.exception()  # told to the followers; nobody may be left
        for follower in self._followers:
            follower.queue.put_nowait(None)

    async def follow(self) -> AsyncGenerator[Document, None]:
        """What happens until the end.  Errors: what the work raises."""
        follower = _Follower(list(self._seen.values()))
        self._followers.add(follower)
        if self.result.done():
            follower.queue.put_nowait(None)
        try:
            while (document := await follower.queue.get()) is not None:
                yield document
            await asyncio.shield(self.result)
        finally:
            self._followers.discard(follower)
            if not self._followers:
                await self.end()

    async def end(self) -> None:
        """Nobody wants it any more: what waits is woken, and the thread has ended when this returns."""
        if not self.result.done():
            self._transport.abort()
            with contextlib.suppress(Exception):
                await asyncio.shield(self.result)


class Transfers:
    """Everything that moves between this daemon and registries now."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._running: dict[Hashable, _Transfer] = {}

    async def follow(self, key: Hashable, work: Work) -> AsyncGenerator[Document, None]:
        """Do ``work``, or follow the same work (by ``key``) that is going on already.

        The work is cancelled when the last follower has left.
        Errors: what it raises.
        """
        transfer = self._running.get(key)
        if transfer is None:
            transfer = self._running[key] = _Transfer(self._registry.transport(), work)
            transfer.result.add_done_callback(lambda _: self._forget(key, transfer))
        async with contextlib.aclosing(transfer.follow()) as documents:
            async for document in documents:
                yield document

    def _forget(self, key: Hashable, transfer: _Transfer | None) -> None:
        if self._running.get(key) is transfer:
            del self._running[key]

    async def close(self) -> None:
        for transfer in list(self._running.values()):
            await transfer.end()

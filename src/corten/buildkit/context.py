"""A client's directory as a build's context: listed at once, contents come when somebody needs them.

Contents of unchanged files are known from earlier builds (``remembered.py``), so that a build whose steps are all
cached transfers a listing and nothing else.  A file that is asked for brings the next ones of the listing with it: an
instruction takes them in the same order.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corten.build.context import Context
from corten.build.tree import Node
from corten.buildkit.filesync import FileSync, Wanted
from corten.buildkit.listing import Listing, can_be_asked_for
from corten.buildkit.remembered import key_of
from corten.errors import Conflict, CortenError, InvalidParameter, SystemFailure, Unavailable

if TYPE_CHECKING:
    from corten.buildkit.proto.fsutil_pb2 import Stat
    from corten.buildkit.sessions import Session

_AHEAD_FILES = 512
_AHEAD_BYTES = 64 << 20
_FAREWELL_S = 10.0
_REPORTED_EVERY_S = 0.25
_EMPTY = hashlib.sha256().digest()
_threads = ThreadPoolExecutor(4, thread_name_prefix="corten-files")
_ending: set[asyncio.Task[None]] = set()  # tasks need somebody who knows them


class _File:
    """One content.

    digest: of what has come, or of what came in an earlier build; is_here: it lies in the spool from ``place`` on
    """

    __slots__ = (
        "arrived",
        "digest",
        "hasher",
        "index",
        "is_here",
        "key",
        "node",
        "number",
        "path",
        "place",
        "received",
    )

    def __init__(self, number: int, index: int, path: str, node: Node, key: bytes) -> None:
        self.number = number
        self.index = index
        self.path = path
        self.node = node
        self.key = key
        self.digest: bytes | None = None
        self.hasher: Any = None
        self.place = 0
        self.received = 0
        self.is_here = False
        self.arrived: asyncio.Future[None] | None = None  # it has been asked for


class SessionContext(Context):
    """A ``BuildContext``.  Made and closed by ``open`` and ``close``; read in worker threads."""

    def __init__(self, scratch: Path, session: Session, sync: FileSync, wanted: Wanted) -> None:
        super().__init__(scratch)
        self._session = session
        self._sync = sync
        self._known = session.remembered
        self._directory = (session.shared_key, wanted.name)
        self._listing: Listing | None = Listing()
        self._entries = 0
        self._files: dict[str, _File] = {}
        self._in_order: list[_File] = []
        self._asked: dict[int, _File] = {}
        self._failure: CortenError | None = None
        self._receiving: asyncio.Task[None] | None = None
        self.report: Callable[[int], None] | None = None  # told how many bytes have come
        self.transferred = 0
        self._reported = 0.0

    @classmethod
    async def open(cls, session: Session, wanted: Wanted, scratch: Path) -> SessionContext:
        """Errors: InvalidParameter (a bad listing, what the client refuses), NotFound (it has no such directory),
        NotImplementedYet (it sends no files), Unavailable, OSError.
        """
        sync = await FileSync.open(session, wanted)
        context = cls(scratch, session, sync, wanted)
        try:
            await sync.listing(context._take)
        except BaseException as error:
            Context.close(context)
            await sync.give_up(str(error))
            raise
        context._listing = None
        context._receiving = session.loop.create_task(context._receive(), name=f"files {wanted.name[:40]}")
        return context

    def _take(self, stat: Stat) -> None:
        assert self._listing is not None
        path, node, first = self._listing.take(stat)
        number = self._entries
        self._entries += 1
        if first:
            original = self._files.get(first)
            if original is None:
                raise InvalidParameter(f"the client's listing is invalid: {path[:200]!r} is a link to nothing")
            self._files[path] = original
            node = original.node
        elif can_be_asked_for(stat.mode):
            file = _File(number, len(self._in_order), path, node, key_of(self._directory, path, node))
            if not node.size:
                file.digest, file.is_here = _EMPTY, True
            self._files[path] = file
            self._in_order.append(file)
        self.add(path, node)

    def close(self) -> None:
        """From any thread; the spool goes when nothing is written to it any more."""
        try:
            self._session.loop.call_soon_threadsafe(self._begin_end)
        except RuntimeError:  # the loop has ended
            super().close()

    def _begin_end(self) -> None:
        if self._receiving is not None:
            self._fail(Unavailable("the build is over"))
            task = self._session.loop.create_task(self._end_transfer(self._receiving))
            self._receiving = None
            _ending.add(task)
            task.add_done_callback(_ending.discard)

    async def _end_transfer(self, receiving: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await self._sync.finish()
                await asyncio.wait([receiving])
        except TimeoutError:
            pass
        self._sync.cancel()
        await asyncio.wait([receiving])
        # to give back a large file's room takes time
        await self._session.loop.run_in_executor(_threads, super().close)

    # -- contents that come -------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        error: CortenError = Unavailable("the client has ended the transfer of its files")
        try:
            await self._sync.receive(self._store)
        except CortenError as failure:
            error = failure
        except OSError as failure:
            error = SystemFailure(f"files of the client cannot be kept: {failure}", errno=failure.errno or 0)
        finally:
            self._fail(error)
        if not isinstance(error, Unavailable):
            await self._sync.give_up(str(error))

    def _fail(self, error: CortenError) -> None:
        if self._failure is None:
            self._failure = error
        for file in self._asked.values():
            _wake(file)
        self._asked.clear()

    async def _store(self, batch: Sequence[tuple[int, bytes]]) -> None:
        """Errors: InvalidParameter, Conflict (not what was listed), OSError."""
        if self._failure is not None:
            return  # what was under way when nobody wanted it any more
        for file in await self._session.loop.run_in_executor(_threads, self._write, batch):
            self._asked.pop(file.number, None)
            _wake(file)
        self.transferred += sum(len(data) for _, data in batch)
        now = self._session.loop.time()
        if self.report is not None and (not self._asked or now - self._reported > _REPORTED_EVERY_S):
            self._reported = now
            self.report(self.transferred)

    def _write(self, batch: Sequence[tuple[int, bytes]]) -> list[_File]:
        """In a thread.  The files that are complete."""
        ended = []
        for number, data in batch:
            file = self._asked.get(number)
            if file is None or file.is_here:
                raise InvalidParameter("the client sends contents that nobody has asked for")
            if not data:
                self._complete(file)
                ended.append(file)
                continue
            if file.received + len(data) > file.node.size:
                raise _changed(file.path)
            file.hasher.update(data)
            place = file.place + file.received
            file.received += len(data)
            view = memoryview(data)
            while view:
                written = os.pwrite(self._spool, view, place)
                place += written
                view = view[written:]
        return ended

    def _complete(self, file: _File) -> None:
        if file.received != file.node.size:
            raise _changed(file.path)
        digest = file.hasher.digest()
        if file.digest not in (None, digest):
            self._known.forget(file.key)
            raise _changed(file.path)
        file.digest = digest
        file.is_here = True
        self._known.put(file.key, digest, file.node.mtime_ns)

    # -- contents that are needed -------------------------------------------------------------------------------------

    async def _bring(self, file: _File, *, content: bool) -> None:
        """Wait until a file is here.

        content: the digest alone does not do, for this file and those after it
        Errors: those that ended the transfer.
        """
        if file.arrived is None and self._failure is None:
            numbers = self._ask_from(file, content=content)
            await self._sync.ask(numbers)
        if file.arrived is not None and not file.is_here:
            await asyncio.wait([file.arrived])
        if not file.is_here:
            raise self._failure or Unavailable("the client has ended the transfer of its files")

    def _ask_from(self, first: _File, *, content: bool) -> list[int]:
        numbers: list[int] = []
        size = 0
        for index in range(first.index, len(self._in_order)):
            file = self._in_order[index]
            size += file.node.size
            if len(numbers) >= _AHEAD_FILES or (numbers and size > _AHEAD_BYTES):
                break
            if file.arrived is not None or file.is_here or not (content or self._digest(file) is None):
                continue
            file.arrived = self._session.loop.create_future()
            file.hasher = hashlib.sha256()
            file.place = self._end_of_spool(file.node.size)
            self._asked[file.number] = file
            numbers.append(file.number)
        return numbers

    def _end_of_spool(self, size: int) -> int:
        place = self._end
        self._end += size
        return place

    def _digest(self, file: _File) -> bytes | None:
        if file.digest is None and file.key:
            file.digest = self._known.get(file.key)
        return file.digest

    def _file(self, path: str) -> _File:
        try:
            return self._files[path]
        except KeyError:
            raise InvalidParameter(f"{path} is no file of the context") from None

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        """Errors: Conflict when the client does not send what it has listed, Unavailable."""
        file = self._file(path)
        if not file.is_here:
            self._session.wait_for(self._bring(file, content=True))
        yield from super().chunks(path, Node(node.kind, node.mode, size=file.node.size, place=file.place))

    def digest(self, path: str, node: Node) -> bytes:
        """Errors: as ``chunks``."""
        file = self._file(path)
        if self._digest(file) is None:
            self._session.wait_for(self._bring(file, content=False))
        assert file.digest is not None
        return file.digest


def _wake(file: _File) -> None:
    if file.arrived is not None and not file.arrived.done():
        file.arrived.set_result(None)


def _changed(path: str) -> Conflict:
    return Conflict(f"{path} was changed or cannot be read: the client sends something else than it has listed")


async def read_files(session: Session, wanted: Wanted, paths: Sequence[str], scratch: Path) -> dict[str, bytes]:
    """Contents of a few small files, links between them followed; what is not there is left out.

    Errors: as ``SessionContext.open``; Conflict.
    """
    context = await SessionContext.open(session, wanted, scratch)
    try:
        found = {}
        for path in paths:
            content = await session.loop.run_in_executor(_threads, context.read, path)
            if content is not None:
                found[path] = content
        return found
    finally:
        context.close()

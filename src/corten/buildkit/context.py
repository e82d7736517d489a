"""A client's directory as a build's context: listed at once, contents come when somebody needs them.

What is listed as it was in an earlier build is known (``remembered.py``), contents too, so that a build whose steps are
all cached transfers a listing and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corten.build.context import Context
from corten.build.small_files import read
from corten.build.tree import Node
from corten.build.workshop import Cancelled
from corten.buildkit.contents import Content, Contents, threads
from corten.buildkit.filesync import FileSync, Wanted, stat_of
from corten.buildkit.listing import Entry, Listing
from corten.errors import InvalidParameter, Unavailable

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session

_FAREWELL_S = 10.0
_ending: set[asyncio.Task[None]] = set()  # tasks need somebody who knows them


class SessionContext(Context):
    """A ``BuildContext``.  Made and closed by ``open`` and ``close``; read in worker threads."""

    def __init__(self, scratch: Path, session: Session, sync: FileSync, wanted: Wanted) -> None:
        super().__init__(scratch)
        self._session = session
        self._sync = sync
        self._known = session.remembered.directory(session.shared_key, wanted.name)
        self._listing = Listing()
        self._entries = 0
        self._files: dict[str, Content] = {}
        self._contents = Contents(session, sync, scratch, self._spool)
        self._receiving: asyncio.Task[None] | None = None

    @property
    def transferred(self) -> int:
        """Bytes of contents that have come."""
        return self._contents.transferred

    @property
    def revision(self) -> int:
        """See ``Revised``."""
        return self._contents.revision

    def report_to(self, report: Callable[[int], None]) -> None:
        """Have somebody told of them, on the loop, from time to time."""
        self._contents.report = report

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
        context._receiving = session.loop.create_task(context._contents.run(), name=f"files {wanted.name[:40]}")
        return context

    def _take(self, packet: bytes) -> bool:
        """One more packet of the listing; whether others follow."""
        entry = self._known.get(packet)
        if entry is None:
            stat = stat_of(packet)
            if stat is None:
                return False
            entry = Entry(stat)
            self._known.put(packet, entry)
        self._listing.take(entry)
        number = self._entries
        self._entries += 1
        path, node = entry.path, entry.node
        if entry.first:
            original = self._files.get(entry.first)
            if original is None:
                raise InvalidParameter(f"the client's listing is invalid: {path[:200]!r} is a link to nothing")
            self._files[path] = original
            node = original.entry.node
        elif entry.can_be_asked_for:
            self._files[path] = self._contents.add(number, entry)
        self.add(path, node)
        return True

    def interrupt(self) -> None:
        """Whoever waits for contents, or comes to wait, gets Cancelled.  From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._session.loop.call_soon_threadsafe(self._contents.fail, Cancelled("the build was cancelled"))

    def close(self) -> None:
        """From any thread; the spool goes when nothing is written to it any more."""
        try:
            self._session.loop.call_soon_threadsafe(self._begin_end)
        except RuntimeError:  # the loop has ended
            self._close_files()

    def _begin_end(self) -> None:
        if self._receiving is not None:
            self._contents.fail(Unavailable("the build is over"))
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
        await self._session.loop.run_in_executor(threads, self._close_files)

    def _close_files(self) -> None:
        self._contents.close()
        super().close()

    # -- reading ------------------------------------------------------------------------------------------------------

    def _file(self, path: str) -> Content:
        try:
            return self._files[path]
        except KeyError:
            raise InvalidParameter(f"{path} is no file of the context") from None

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        """Errors: those of ``Contents``."""
        return self._contents.chunks(self._file(path))

    def given(self, path: str) -> int | None:
        """See ``Giving``."""
        return self._contents.given(self._file(path))

    def digest(self, path: str, node: Node) -> bytes:
        """Errors: those of ``Contents``."""
        return self._contents.digest(self._file(path))


async def read_files(session: Session, wanted: Wanted, paths: Sequence[str], scratch: Path) -> dict[str, bytes]:
    """Contents of a few small files, links between them followed; what is not there is left out.

    Errors: as ``SessionContext.open``; Conflict.
    """
    context = await SessionContext.open(session, wanted, scratch)
    try:
        found = {}
        for path in paths:
            content = await session.loop.run_in_executor(threads, read, context, path)
            if content is not None:
                found[path] = content
        return found
    finally:
        context.close()

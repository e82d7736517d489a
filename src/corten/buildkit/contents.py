"""Contents of a client's files: asked for when somebody needs them, kept in a file without a name, large ones in one of
their own, which may become a layer's: what is copied is written once.

A file that is asked for brings those after it in the listing with it, because an instruction takes them in the same
order; how far ahead follows how far the instruction is.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corten.build.tree import CHUNK
from corten.buildkit.remembered import remember
from corten.errors import Conflict, CortenError, InvalidParameter, SystemFailure, Unavailable
from corten.linux import paths

if TYPE_CHECKING:
    from corten.buildkit.filesync import FileSync
    from corten.buildkit.listing import Entry
    from corten.buildkit.sessions import Session

_LARGE = 4 << 20  # bytes of a content that has a file of its own
_WRITTEN_EVERY = 16 << 20
_AHEAD_FILES = 512
_AHEAD_BYTES = 64 << 20
_REPORTED_EVERY_S = 2.0
EMPTY = hashlib.sha256().digest()
threads = ThreadPoolExecutor(4, thread_name_prefix="corten-files")
_descriptors = threading.Semaphore(256)  # of large contents, over all builds


class Content:
    """Of one file, which may have several names.

    number: by which it is asked for; index: its place among the contents; entry: as it was listed
    digest: of what has come, or of what came in an earlier build
    is_here: all of it lies in ``file``, from ``place`` on
    has_own: the file is, or will be, its own one
    """

    __slots__ = (
        "digest",
        "entry",
        "file",
        "has_own",
        "hasher",
        "index",
        "is_asked_for",
        "is_here",
        "number",
        "place",
        "received",
        "size",
    )

    def __init__(self, number: int, index: int, entry: Entry) -> None:
        self.number = number
        self.index = index
        self.entry = entry
        self.size = entry.node.size
        self.digest = entry.digest if self.size else EMPTY
        self.hasher: Any = None
        self.file = -1
        self.has_own = False
        self.place = 0
        self.received = 0
        self.is_here = not self.size
        self.is_asked_for = False


class Contents:
    """All of one listing.  ``run`` takes them in on the loop; ``digest`` and ``chunks`` are for worker threads.

    scratch: a directory on the file system that takes large files; spool: a descriptor, of the caller's
    Errors of ``digest`` and ``chunks``: Conflict when the client does not send what it has listed, InvalidParameter
    when it sends something else, Unavailable.
    """

    def __init__(self, session: Session, sync: FileSync, scratch: Path, spool: int) -> None:
        self._session = session
        self._sync = sync
        self._scratch = scratch
        self._spool = spool
        self._own: list[int] = []  # files of large contents
        self._reserved = 0  # descriptors of them
        self._giving = threading.Lock()
        self._end = 0
        self._all: list[Content] = []
        self._asked: dict[int, Content] = {}
        self._asked_bytes = 0
        self._next = 0  # place of the first content that has not been looked at when asking ahead
        self._position = 0  # of the content that was needed last
        self._needs_bytes = False
        self._trusts = True  # what earlier builds had
        self.revision = 0  # how often that was wrong
        self._failure: CortenError | None = None
        self._news: asyncio.Future[None] = session.loop.create_future()
        self.report: Callable[[int], None] | None = None  # told how many bytes have come
        self.transferred = 0
        self._reported = 0.0

    def add(self, number: int, entry: Entry) -> Content:
        content = Content(number, len(self._all), entry)
        self._all.append(content)
        return content

    # -- what comes ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """To the end of the call."""
        error: CortenError = Unavailable("the client has ended the transfer of its files")
        try:
            await self._sync.receive(self._store)
        except CortenError as failure:
            error = failure
        except OSError as failure:
            error = SystemFailure(f"files of the client cannot be kept: {failure}", errno=failure.errno or 0)
        finally:
            self.fail(error)
        if not isinstance(error, Unavailable):
            await self._sync.give_up(str(error))

    def fail(self, error: CortenError) -> None:
        """Whoever waits, or comes to wait, gets the first error."""
        if self._failure is None:
            self._failure = error
        self._asked.clear()
        self._tell()

    def close(self) -> None:
        """When nobody reads or writes any more.  In a thread: to give back a large file's room takes time."""
        for descriptor in self._own:
            os.close(descriptor)
        self._own.clear()
        if self._reserved:
            _descriptors.release(self._reserved)
            self._reserved = 0
        self._spool = -1  # whose descriptor becomes another file's

    def _tell(self) -> None:
        news, self._news = self._news, self._session.loop.create_future()
        news.set_result(None)

    async def _store(self, batch: Sequence[tuple[int, bytes]]) -> None:
        """Errors: InvalidParameter, Conflict (not what was listed), OSError."""
        if self._failure is not None:
            return  # what was under way when nobody wanted it any more
        for content in await self._session.loop.run_in_executor(threads, self._write, batch):
            if self._asked.pop(content.number, None) is not None:
                self._asked_bytes -= content.size
        self.transferred += sum(len(data) for _, data in batch)
        self._tell()
        if len(self._asked) < _AHEAD_FILES // 2:
            await self._ask(self._next)
        now = self._session.loop.time()
        if self.report is not None and (not self._asked or now - self._reported > _REPORTED_EVERY_S):
            self._reported = now
            self.report(self.transferred)

    def _write(self, batch: Sequence[tuple[int, bytes]]) -> list[Content]:
        """In a thread.  The contents that are complete."""
        ended = []
        for number, data in batch:
            content = self._asked.get(number)
            if content is None or content.is_here:
                raise InvalidParameter("the client sends contents that nobody has asked for")
            if not data:
                self._complete(content)
                ended.append(content)
                continue
            if content.received + len(data) > content.size:
                raise _changed(content)
            content.hasher.update(data)
            if content.file < 0:
                content.file = self._file(content)
            place = content.place + content.received
            view = memoryview(data)
            while view:
                written = os.pwrite(content.file, view, place)
                place += written
                view = view[written:]
            if content.has_own and place // _WRITTEN_EVERY > content.received // _WRITTEN_EVERY:
                start = (place // _WRITTEN_EVERY - 1) * _WRITTEN_EVERY
                paths.begin_writing(content.file, start, _WRITTEN_EVERY)
            content.received += len(data)  # from here on others read it
        return ended

    def _file(self, content: Content) -> int:
        if not content.has_own:
            return self._spool
        descriptor = os.open(self._scratch, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        self._own.append(descriptor)
        return descriptor

    def _complete(self, content: Content) -> None:
        if content.received != content.size:
            raise _changed(content)
        digest = content.hasher.digest()
        if content.digest not in (None, digest):
            self._distrust()
        content.digest = digest
        content.is_here = True  # whoever sees that sees the revision, too
        remember(content.entry, digest)

    def _distrust(self) -> None:
        """A content is another one than an earlier build had under the same name, size and time: so may others be."""
        self._trusts = False
        for content in self._all:
            if not content.is_here:
                content.digest = None
        self.revision += 1

    # -- what is needed -----------------------------------------------------------------------------------------------

    async def _ask(self, start: int) -> None:
        """Ask for what is needed from a place on, as far as is sensible."""
        numbers = []
        last = min(len(self._all), self._position + _AHEAD_FILES)
        place = start
        while place < last and len(self._asked) < _AHEAD_FILES:
            content = self._all[place]
            is_needed = not content.is_here and (self._needs_bytes or self._remembered(content) is None)
            if is_needed and not content.is_asked_for:
                if self._asked and self._asked_bytes + content.size > _AHEAD_BYTES:
                    break
                self._prepare(content)
                numbers.append(content.number)
            place += 1
        self._next = place
        if numbers:
            await self._sync.ask(numbers)

    def _prepare(self, content: Content) -> None:
        content.is_asked_for = True
        content.hasher = hashlib.sha256()
        content.has_own = content.size >= _LARGE and _descriptors.acquire(blocking=False)
        if content.has_own:
            self._reserved += 1
        else:
            content.place = self._end
            self._end += content.size
        self._asked[content.number] = content
        self._asked_bytes += content.size

    async def _more(self, content: Content, offset: int, *, needs_bytes: bool) -> None:
        """Wait until all of a content is here, or bytes beyond an offset.

        needs_bytes: digests alone do not do, for this one and those after it
        """
        while not content.is_here and content.received <= offset:
            if self._failure is not None:
                raise self._failure
            if not content.is_asked_for:
                self._needs_bytes = needs_bytes
                await self._ask_first(content)
            await asyncio.wait([self._news])

    async def _ask_first(self, content: Content) -> None:
        """Ask for this one whatever else is under way, then for those after it."""
        self._prepare(content)
        await self._sync.ask([content.number])
        await self._ask(content.index + 1)

    def _remembered(self, content: Content) -> bytes | None:
        if content.digest is None and self._trusts:
            content.digest = content.entry.digest  # another build may have had it meanwhile
        return content.digest

    def digest(self, content: Content) -> bytes:
        """SHA-256, from memory or from what comes."""
        self._position = content.index
        while (digest := self._remembered(content)) is None:
            self._session.wait_for(self._more(content, content.size, needs_bytes=False))
        return digest

    def chunks(self, content: Content) -> Iterator[bytes]:
        """As they come; the last one when the whole is what it should be."""
        self._position = content.index
        offset, size = 0, content.size
        while offset < size:
            if not content.is_here and content.received <= offset:
                self._session.wait_for(self._more(content, offset, needs_bytes=True))
            end = size if content.is_here else content.received
            if end == size and not content.is_here:
                self._session.wait_for(self._more(content, size, needs_bytes=True))
            data = os.pread(content.file, min(CHUNK, end - offset), content.place + offset)
            offset += len(data)
            yield data

    def given(self, content: Content) -> int | None:
        """The descriptor of a file that holds this content alone, once."""
        with self._giving:
            is_there = content.has_own and content.is_here
            content.has_own = content.has_own and not is_there
        return content.file if is_there else None


def _changed(content: Content) -> Conflict:
    return Conflict(
        f"{content.entry.path} was changed or cannot be read: the client sends something else than it has listed"
    )

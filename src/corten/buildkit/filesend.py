"""What a build has made goes to the client: a tree of files, or the bytes of one file.

Source: moby/buildkit, ``session/filesync`` (FileSend, names of metadata); tonistiigi/fsutil, ``send.go``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from corten.build.tree import Node, Tree
from corten.buildkit.listing import can_be_asked_for, go_mode
from corten.buildkit.proto.fsutil_pb2 import Packet, Stat
from corten.buildkit.proto.session_pb2 import BytesMessage
from corten.buildkit.wire import parsed
from corten.errors import Conflict, InvalidParameter
from corten.grpc.status import Code, GrpcError

if TYPE_CHECKING:
    from corten.buildkit.sessions import Session
    from corten.grpc.client import Call

_DIFF_COPY = "/moby.filesync.v1.FileSend/DiffCopy"
_EXPORTER = "buildkit-attachable-exporter-id"
_WHOLE = "buildkit-exporter-multi-platform"
_ABOUT = "exporter-md-"
_PIECE = 256 << 10  # clients take messages of 4 MB
_LISTED = 256  # entries that are looked up at once
_MAX_ERROR = 2048
_FAREWELL_S = 10.0
_threads = ThreadPoolExecutor(4, thread_name_prefix="corten-send")


async def send_file(
    session: Session, exporter: int, chunks: AsyncIterator[bytes], about: Mapping[str, str] | None = None
) -> None:
    """The bytes of an archive.

    exporter: its number in the client's request; about: what the client is told of the archive
    Errors: NotImplementedYet (the client takes no results), Conflict (its target exists), others as
    ``GrpcError.as_kind``.
    """
    session.require(_DIFF_COPY, "takes no results")
    metadata = {_EXPORTER: [str(exporter)], **{_ABOUT + name: [value] for name, value in (about or {}).items()}}
    try:
        async with await session.stream(_DIFF_COPY, metadata) as call:
            async for chunk in chunks:
                for start in range(0, len(chunk), _PIECE):
                    await call.send(BytesMessage(data=chunk[start : start + _PIECE]).SerializeToString())
            await call.half_close()
            while await call.receive() is not None:
                pass
    except GrpcError as error:
        raise _told(error) from None


async def send_tree(session: Session, exporter: int, tree: Tree, *, mirror: bool = False) -> None:
    """Files into the client's directory.

    tree: read in worker threads; mirror: what the client's directory has beside it is to go
    Errors: as ``send_file``, those of ``tree``.
    """
    session.require(_DIFF_COPY, "takes no results")
    metadata = {_EXPORTER: [str(exporter)]}
    if mirror:
        metadata[_WHOLE] = ["1"]
    try:
        async with await session.stream(_DIFF_COPY, metadata) as call:
            await _Sender(call, tree).run()
    except GrpcError as error:
        raise _told(error) from None


def _told(error: GrpcError) -> Exception:
    if error.code == Code.ALREADY_EXISTS:
        return Conflict(f"the client's target exists: {error.message}")
    return error.as_kind("sending the result to the client")


class _Sender:
    """Lists the tree and answers requests side by side: the client asks while it is still told what there is."""

    def __init__(self, call: Call, tree: Tree) -> None:
        self._call = call
        self._tree = tree
        self._loop = asyncio.get_running_loop()
        self._files: dict[int, tuple[str, Node]] = {}
        self._wanted: asyncio.Queue[tuple[int, str, Node] | None] = asyncio.Queue()

    async def run(self) -> None:
        tasks = [self._loop.create_task(work()) for work in (self._list, self._answer, self._send)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _list(self) -> None:
        entries = _sorted(self._tree)
        number = 0
        while True:
            batch = await self._loop.run_in_executor(_threads, _some, entries)
            packets = []
            for path, node in batch:
                stat = _stat(path, node)
                if can_be_asked_for(stat.mode):
                    self._files[number] = (path, node)
                number += 1
                packets.append(Packet(type=Packet.PACKET_STAT, stat=stat).SerializeToString())
            if packets:
                await self._call.send_all(packets)
            if len(batch) < _LISTED:
                break
        await self._call.send(Packet(type=Packet.PACKET_STAT).SerializeToString())

    async def _answer(self) -> None:
        try:
            while (message := await self._call.receive()) is not None:
                packet = parsed(Packet, message)
                if packet.type == Packet.PACKET_FIN:
                    await self._wanted.join()
                    await self._end()
                    return
                if packet.type == Packet.PACKET_ERR:
                    text = packet.data[:_MAX_ERROR].decode(errors="replace")
                    raise InvalidParameter(f"the client cannot take the result: {text}")
                if packet.type == Packet.PACKET_REQ:
                    found = self._files.pop(packet.ID, None)
                    if found is None:
                        raise InvalidParameter(f"the client asks for the file {packet.ID}, which it cannot have")
                    self._wanted.put_nowait((packet.ID, *found))
        finally:
            self._wanted.put_nowait(None)

    async def _end(self) -> None:
        """The client has all that it wants; how it ends the call is its last word, if it comes."""
        await self._call.send(Packet(type=Packet.PACKET_FIN).SerializeToString())
        await self._call.half_close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                while await self._call.receive() is not None:
                    pass

    async def _send(self) -> None:
        while (wanted := await self._wanted.get()) is not None:
            number, path, node = wanted
            chunks = iter(self._tree.chunks(path, node))
            while (chunk := await self._loop.run_in_executor(_threads, next, chunks, b"")) != b"":
                for start in range(0, len(chunk), _PIECE):
                    piece = chunk[start : start + _PIECE]
                    await self._call.send(Packet(type=Packet.PACKET_DATA, ID=number, data=piece).SerializeToString())
            await self._call.send(Packet(type=Packet.PACKET_DATA, ID=number).SerializeToString())
            self._wanted.task_done()


def _sorted(tree: Tree) -> Iterator[tuple[str, Node]]:
    """Everything below the root, each directory before what is in it, names in the order of their bytes."""
    pending = [("", iter(sorted(tree.names(""), key=os.fsencode)))]
    while pending:
        place, names = pending[-1]
        name = next(names, None)
        if name is None:
            pending.pop()
            continue
        path = f"{place}/{name}" if place else name
        node = tree.node(path)
        if node is None:
            continue
        yield path, node
        if node.is_directory:
            pending.append((path, iter(sorted(tree.names(path), key=os.fsencode))))


def _some(entries: Iterator[tuple[str, Node]]) -> list[tuple[str, Node]]:
    return list(itertools.islice(entries, _LISTED))


def _stat(path: str, node: Node) -> Stat:
    return Stat(
        path=os.fsencode(path),
        mode=go_mode(node),
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        modTime=node.mtime_ns,
        linkname=os.fsencode(node.link),
        devmajor=node.device[0],
        devminor=node.device[1],
        xattrs={name.decode("utf-8", "replace"): value for name, value in node.xattrs},
    )

"""``cp`` and ``export``: a container's files in and out, whether it runs or not (``archive``, ``container_root``)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any, BinaryIO

from corten.engine import archive
from corten.engine.container_root import StoppedRoot, running_root
from corten.engine.lifecycle import Lifecycle
from corten.engine.live import Index, Live
from corten.engine.preparation import Preparation
from corten.engine.streams import feed_thread, iterate_in_thread, run_blocking
from corten.errors import Conflict
from corten.linux import mount as kernel_mount
from corten.snapshot.api import Snapshotter

_ENDING_S = 10.0


class ContainerFiles:
    """The files of this daemon's containers."""

    def __init__(
        self,
        *,
        index: Index,
        snapshotter: Snapshotter,
        stopped_root: StoppedRoot,
        lifecycle: Lifecycle,
        preparation: Preparation,
    ) -> None:
        self._index = index
        self._snapshotter = snapshotter
        self._stopped_root = stopped_root
        self._lifecycle = lifecycle
        self._preparation = preparation

    async def stat(self, reference: str, path: str) -> dict[str, Any]:
        live = self._index.find(reference)
        await self._make_mount_points(live)

        def work() -> dict[str, Any]:
            with self._rootfs(live, read_only=True) as root:
                return archive.stat(archive.View(live.container, root, reference), path)

        return await run_blocking(work)

    async def get(self, reference: str, path: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        live = self._index.find(reference)
        document = await self.stat(reference, path)

        def chunks() -> Iterator[bytes]:
            with self._rootfs(live, read_only=True) as root:
                yield from archive.get(archive.View(live.container, root, reference), path)

        self._lifecycle.publish(live, "archive-path")
        return document, iterate_in_thread(chunks)

    async def put(
        self,
        reference: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        live = self._index.find(reference)

        def write(root: int, stream: BinaryIO) -> None:
            archive.put(
                archive.View(live.container, root, reference),
                path,
                stream,
                no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
                copy_uid_gid=copy_uid_gid,
            )

        def write_stopped(stream: BinaryIO) -> None:
            with self._rootfs(live, read_only=False) as root:
                write(root, stream)

        root = await self._running_root(live)
        if root >= 0:
            try:
                await feed_thread(body, lambda stream: write(root, stream))
            finally:
                os.close(root)
        else:
            async with live.lock:  # a file system is writable in one place at a time: nothing starts meanwhile
                await feed_thread(body, write_stopped)
        self._lifecycle.publish(live, "extract-to-dir")

    async def _running_root(self, live: Live) -> int:
        """A descriptor of the root of a container that runs; -1 of one that does not, also when it is just ending."""

        def pinned() -> int:
            with running_root(live.container) as descriptor:
                return os.dup(descriptor)

        while live.container.is_running:
            stopped = live.stopped
            try:
                return await run_blocking(pinned)
            except Conflict:
                if stopped is None:
                    raise
                # the program is gone, but not all of it yet: its file system is still mounted for writing
                await asyncio.wait({stopped}, timeout=_ENDING_S)
                if not stopped.done():
                    raise
        return -1

    async def export(self, reference: str) -> AsyncIterator[bytes]:
        live = self._index.find(reference)

        def chunks() -> Iterator[bytes]:
            with self._own_files(live) as root:
                yield from archive.export(archive.View(live.container, root))

        self._lifecycle.publish(live, "export")
        return iterate_in_thread(chunks)

    @contextlib.contextmanager
    def _rootfs(self, live: Live, *, read_only: bool) -> Iterator[int]:
        """A descriptor of the container's root with its mounts."""
        container = live.container
        with contextlib.ExitStack() as stack:
            descriptor = -1
            if container.is_running:
                try:
                    descriptor = stack.enter_context(running_root(container))
                except Conflict:  # its program has just ended
                    if not read_only:
                        raise
            if descriptor < 0:
                directory = self._preparation.directory(container.id)
                stopped = self._stopped_root.open(container, directory, read_only=read_only)
                descriptor = stack.enter_context(stopped)
            yield descriptor

    async def _make_mount_points(self, live: Live) -> None:
        """Before the first start a volume may have no place yet in the container's files."""
        if live.container.is_running or not await run_blocking(self._stopped_root.lacks_mount_points, live.container):
            return

        def make() -> None:
            with self._rootfs(live, read_only=False):
                pass

        async with live.lock:
            if not live.container.is_running:
                await run_blocking(make)

    @contextlib.contextmanager
    def _own_files(self, live: Live) -> Iterator[int]:
        """The container's root without what is mounted in it."""
        if not live.container.is_running:
            with self._snapshotter.open_rootfs(live.container.id, True) as descriptor:
                yield descriptor
            return
        # recursive: without the machine's root it may consist of several (linux/root_pieces.py)
        descriptor = kernel_mount.clone_tree(self._snapshotter.rootfs(live.container.id)["target"], recursive=True)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

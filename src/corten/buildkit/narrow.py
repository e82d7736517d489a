"""A client's directory of which each instruction has only its own part listed.

A context of 50,000 files of which one is copied costs a listing of one.  What an image's ONBUILD will copy is known
late, so nothing is decided before an instruction asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol

from corten.build.contexts import BuildContext, revision
from corten.build.loops import on_loop
from corten.build.selection import followed
from corten.build.tree import Node, Tree
from corten.build.workshop import Cancellation

# paths to follow, () for everything
Load = Callable[[Sequence[str]], Coroutine[Any, Any, "Part"]]


class Part(BuildContext, Protocol):
    def interrupt(self) -> None:
        """Whoever waits for contents, or comes to wait, gets Cancelled.  From any thread."""


class NarrowContext:
    """A ``BuildContext`` and ``Narrowable``.  Used in worker threads; ``load`` runs on the loop.

    As a tree itself it is the whole directory.
    Errors of all: those of ``load``, each time; Cancelled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, load: Load, cancellation: Cancellation) -> None:
        self._loop = loop
        self._cancellation = cancellation
        self._held = contextlib.ExitStack()
        self._load = load
        self._lock = threading.Lock()
        self._parts: dict[tuple[str, ...], _Slot] = {}

    def narrowed(self, patterns: Sequence[str]) -> Tree:
        """See ``Narrowable``."""
        return self._part(followed(patterns))

    def _part(self, paths: tuple[str, ...]) -> BuildContext:
        with self._lock:
            whole = self._parts.get(())
            part = whole if whole is not None else self._parts.setdefault(paths, _Slot())
        with part.lock:
            if part.error is not None:
                raise part.error
            if part.context is None:
                try:
                    part.context = on_loop(self._loop, self._load(paths), self._cancellation)
                    with self._lock:
                        self._held.enter_context(self._cancellation.calling(part.context.interrupt))
                except Exception as error:
                    part.error = error
                    raise
            return part.context

    @property
    def revision(self) -> int:
        """See ``Revised``."""
        with self._lock:
            parts = [part.context for part in self._parts.values()]
        return revision(part for part in parts if part is not None)

    def node(self, path: str) -> Node | None:
        return self._part(()).node(path)

    def names(self, path: str) -> list[str]:
        return self._part(()).names(path)

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        return self._part(()).chunks(path, node)

    def digest(self, path: str, node: Node) -> bytes:
        return self._part(()).digest(path, node)

    def find_dockerfile(self, name: str) -> bytes | None:
        return self._part(()).find_dockerfile(name)

    def close(self) -> None:
        with self._lock:
            self._held.close()
        for part in self._parts.values():
            with part.lock:
                if part.context is not None:
                    part.context.close()


class _Slot:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.context: Part | None = None
        self.error: Exception | None = None

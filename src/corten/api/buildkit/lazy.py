"""A context of the client that nothing is asked of until an instruction needs a file of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from corten.build.workshop import Cancelled

if TYPE_CHECKING:
    from corten.build.contexts import BuildContext
    from corten.build.tree import Node


class LazyContext:
    """A ``BuildContext``.  Used in worker threads; ``load`` runs on the loop, once.

    Errors of all: those of ``load``, each time.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, load: Callable[[], Coroutine[Any, Any, BuildContext]]) -> None:
        self._loop = loop
        self._load = load
        self._lock = threading.Lock()
        self._loaded: BuildContext | None = None
        self._error: BaseException | None = None

    def _context(self) -> BuildContext:
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._loaded is None:
                try:
                    self._loaded = asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()
                except asyncio.CancelledError:
                    self._error = Cancelled("the build was cancelled")
                    raise self._error from None
                except BaseException as error:
                    self._error = error
                    raise
            return self._loaded

    def node(self, path: str) -> Node | None:
        return self._context().node(path)

    def names(self, path: str) -> list[str]:
        return self._context().names(path)

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        return self._context().chunks(path, node)

    def digest(self, path: str, node: Node) -> bytes:
        return self._context().digest(path, node)

    def find_dockerfile(self, name: str) -> bytes | None:
        return self._context().find_dockerfile(name)

    def close(self) -> None:
        with self._lock:
            if self._loaded is not None:
                self._loaded.close()

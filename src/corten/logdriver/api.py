"""What the shim holds of a log driver: its writer.  What the engine holds is in ``reading``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

STREAMS = ("stdout", "stderr")


class Loop(Protocol):
    """What a writer may need of the shim's event loop."""

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None: ...
    def forget(self, descriptor: int) -> None: ...


class LogWriter(Protocol):
    """Takes one container's output.  Not thread-safe.

    ``write``, ``finish`` and ``rotate`` raise OSError when the disk refuses; the file stays whole then.
    """

    @property
    def dropped(self) -> int:
        """Bytes of output that were not logged: the disk was full, or too slow for a non-blocking log."""
        ...

    def write(self, stream: str, data: bytes, moment_ns: int) -> None:
        """Log what the program wrote to ``stream`` ("stdout", "stderr")."""
        ...

    def finish(self, moment_ns: int) -> None:
        """The program has ended: log what it left without a newline."""
        ...

    def rotate(self) -> None:
        """Begin a new file now."""
        ...

    def close(self) -> None: ...

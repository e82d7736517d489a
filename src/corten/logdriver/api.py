"""What a log driver is: a writer, which the shim holds, and a reader, which the engine holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Which entries, and how they look.

    since, until: nanoseconds since the epoch, 0 for no bound
    tail:         entries from the end, -1 for all
    timestamps, details: what stands before each entry: its time, its attributes
    framed:       Docker's 8-byte headers; False for a terminal's raw output
    """

    stdout: bool = True
    stderr: bool = True
    since: int = 0
    until: int = 0
    tail: int = -1
    timestamps: bool = False
    details: bool = False
    framed: bool = True


class LogReader(Protocol):
    """One pass over a container's log, across its rotated files.  Use from one thread at a time."""

    @property
    def done(self) -> bool:
        """Entries after ``until`` have been met: nothing more will come."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """What is there up to the present end.  A later call goes on behind it, whatever has been rotated meanwhile."""
        ...

    def keep_up(self) -> None:
        """Take hold of files that have been begun since, so that a rotation does not take them away unread."""
        ...

    def close(self) -> None: ...

"""What the engine holds of a log driver: its reader, and what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


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
        """Take hold of files that have been begun since, so that a rotation does not take them away unread.

        The only call that may come from another thread.
        """
        ...

    def close(self) -> None: ...

"""What a maker and an init write to is copied for them before anybody waits for it.

A fork shares its parent's memory until it writes to a page, and Python writes wherever it counts a reference: each of
the two takes several hundred page faults, together a tenth of a start.  The pages are nearly the same every time, for
all are forks of one spawner: the first ones tell it which, the later ones have them copied while they are spare.
"""

from __future__ import annotations

import _socket
import contextlib
import marshal

from corten.linux import pages
from corten.linux.pages import Range

MAKER, INIT = "maker", "init"
_PACKET = 128 * 1024


class WorkingSet:
    """The spawner's knowledge, and in its forks the way to add to it."""

    def __init__(self) -> None:
        self._listening, self._telling = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        # marshalled: objects would be memory for every fork to copy
        self._known: dict[str, bytes] = {}

    def listen(self) -> None:
        """The spawner's, before a fork: take what the earlier ones had to tell."""
        with contextlib.suppress(BlockingIOError):
            while True:
                name, ranges = marshal.loads(self._listening.recv(_PACKET, _socket.MSG_DONTWAIT))
                self._known.setdefault(name, marshal.dumps(ranges))

    def knows(self, name: str) -> bool:
        return name in self._known

    def of(self, name: str) -> list[Range]:
        ranges: list[Range] = marshal.loads(self._known[name]) if name in self._known else []
        return ranges

    def tell(self, name: str, ranges: list[Range]) -> None:
        """A fork's: what has been written to, for those that come later."""
        with contextlib.suppress(OSError):
            self._telling.send(marshal.dumps((name, ranges)), _socket.MSG_DONTWAIT)

    def tell_own(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.tell(name, pages.own())

    def close(self) -> None:
        """A fork that has nothing to tell."""
        self._listening.close()
        self._telling.close()

"""Answers that were given before, and whether they are still true.

The same head of a request gets the same answer as long as the stamps of what the answer was made of are the same: two
or three ``stat`` calls instead of parsing, rights, links and headers.  Nothing has to be told to other workers: what
one of them changes, the others see by the stamps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from corten.registry.server.heads import Heads
from corten.registry.server.replies import Reply
from corten.registry.server.storage import Missing

_MAX_BODY = 256 << 10
_MAX_BYTES = 64 << 20
_MAX_ENTRIES = 16_384


@dataclass(slots=True)
class _Entry:
    start: bytes
    rest: bytes
    stays: Callable[[], bool]
    status: int
    sent: int


class Known:
    """The memory of one worker; the oldest answers are forgotten first.

    counted: called for each answer from memory: the request's head, who asked, status, bytes of the body
    """

    def __init__(self, heads: Heads, counted: Callable[[bytes, str, int, int], None]) -> None:
        self._heads = heads
        self._counted = counted
        self._entries: dict[bytes, _Entry] = {}
        self._bytes = 0

    def answer(self, head: bytes, peer: str) -> bytes | None:
        """The whole answer to a request with exactly this head; None when it has to be made."""
        entry = self._entries.get(head)
        if entry is None:
            return None
        try:
            still = entry.stays()
        except Missing:
            still = False
        if not still:
            self._forget(head)
            return None
        self._counted(head, peer, entry.status, entry.sent)
        return entry.start + self._heads.date() + entry.rest

    def keep(self, head: bytes, reply: Reply, is_head: bool) -> None:
        if reply.stays is None or len(reply.body) > _MAX_BODY:
            return
        self._forget(head)
        start, rest = self._heads.parts(reply)
        body = b"" if is_head else reply.body
        self._entries[head] = _Entry(start, rest + body, reply.stays, reply.status, len(body))
        self._bytes += len(head) + len(rest) + len(body)
        while self._bytes > _MAX_BYTES or len(self._entries) > _MAX_ENTRIES:
            self._forget(next(iter(self._entries)))

    def _forget(self, head: bytes) -> None:
        entry = self._entries.pop(head, None)
        if entry is not None:
            self._bytes -= len(head) + len(entry.rest)

"""Netlink connections that several threads use."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from corten.linux.netlink import Connection, Message


class SharedConnection(Connection):
    """One request at a time, from any thread."""

    def __init__(self, family: int) -> None:
        super().__init__(family)
        self._lock = threading.Lock()

    def transact(self, messages: Sequence[Message]) -> None:
        with self._lock:
            super().transact(messages)

    def batch(self, begin: Message, messages: Sequence[Message], end: Message) -> None:
        with self._lock:
            super().batch(begin, messages, end)

    def get(self, message: Message) -> tuple[int, bytes]:
        with self._lock:
            return super().get(message)

    def dump(self, message: Message) -> list[tuple[int, bytes]]:
        with self._lock:
            return super().dump(message)

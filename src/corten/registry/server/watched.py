"""Files that people edit while the server runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from corten.errors import InvalidParameter

T = TypeVar("T")
logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5


class WatchedFile(Generic[T]):
    """What a file means, read again when it has changed; what cannot be read leaves the last meaning.

    Errors at first: InvalidParameter naming the file.
    """

    def __init__(self, path: Path, parse: Callable[[Path, bytes], T]) -> None:
        self._path = path
        self._parse = parse
        self._looked = 0.0
        self._generation = 0
        try:
            self._stamp = self._look()
            self._value = parse(path, path.read_bytes())
        except OSError as error:
            raise InvalidParameter(f"cannot read {path}: {error.strerror}") from None

    @property
    def value(self) -> T:
        self.generation()
        return self._value

    def generation(self) -> int:
        """Another number after each change; looked for twice a second."""
        now = time.monotonic()
        if now - self._looked > _LOOK_EVERY_S:
            self._looked = now
            self._refresh()
        return self._generation

    def _look(self) -> tuple[int, int, int]:
        found = os.stat(self._path)
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _refresh(self) -> None:
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._value = self._parse(self._path, self._path.read_bytes())
            self._generation += 1
        except (OSError, InvalidParameter) as error:
            logger.error("%s: the rules that were read before stay: %s", self._path, error)

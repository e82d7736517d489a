"""One line per request, in the combined format that tools for web servers read, with the time it took in seconds."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

from corten.errors import InvalidParameter

logger = logging.getLogger(__name__)

_HOLD_BYTES = 32 << 10
_UNSAFE = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x22, 0x5C, *range(0x7F, 0x100))}


class AccessLog:
    """Appends to a file, or to standard output for "-".  Lines are gathered for up to a second (``flush``).

    A file that was renamed (logrotate) is left and made anew; as long as that cannot be done, the old one is written.
    """

    def __init__(self, target: str) -> None:
        """A file that cannot be opened is told in the server's own log, and tried again: see ``check``."""
        self._path = None if target == "-" else Path(target)
        self._is_told = False
        self._lines: list[str] = []
        self._size = 0
        self._second = 0
        self._moment = ""
        self._file = sys.stdout.fileno() if self._path is None else -1
        self._follow()

    @staticmethod
    def check(target: str) -> None:
        """Errors: InvalidParameter for a file that cannot be written."""
        if target != "-":
            os.close(_open(Path(target)))

    def _follow(self) -> None:
        """Write to the file that has the name now, where that is possible."""
        if self._path is None or self._is_current():
            return
        try:
            file = _open(self._path)
        except InvalidParameter as error:
            if not self._is_told:
                logger.warning("access log: %s", error)
            self._is_told = True
            return
        if self._file >= 0:
            os.close(self._file)
        self._file, self._is_told = file, False

    def write(self, peer: str, user: str, request: str, status: int, size: int, agent: str, seconds: float) -> None:
        """request: its first line"""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
        host = peer.rpartition(":")[0] or peer
        line = (
            f'{host} - {user.translate(_UNSAFE) or "-"} [{self._moment}] "{request[:2048].translate(_UNSAFE)}" '
            f'{status} {size} "-" "{agent[:256].translate(_UNSAFE)}" {seconds:.6f}\n'
        )
        self._lines.append(line)
        self._size += len(line)
        if self._size > _HOLD_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._lines:
            return
        text = "".join(self._lines).encode("utf-8", "replace")
        self._lines, self._size = [], 0
        self._follow()
        if self._file < 0:
            return
        try:
            os.write(self._file, text)  # whole lines in one call: those of several workers do not mix
        except OSError:
            return  # a full disk must not stop the registry

    def close(self) -> None:
        self.flush()
        if self._path is not None and self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_current(self) -> bool:
        if self._path is None or self._file < 0:
            return False
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except OSError:
            return False


def _open(path: Path) -> int:
    """Errors: InvalidParameter."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise InvalidParameter(f"cannot write {path}: {error.strerror}") from None

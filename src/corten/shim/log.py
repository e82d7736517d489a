"""A shim's log: opened when there is something to write, never the reason for a program to stop."""

from __future__ import annotations

import time
from collections.abc import Callable

from corten.logdriver.api import LogWriter
from corten.logdriver.options import LogOptions
from corten.logdriver.writers import open_writer
from corten.shim.handover import LogPlan
from corten.shim.loop import EpollLoop

_TELL_EVERY_S = 60.0


class Log:
    """What one program writes.

    on_error:  called, not more than once a minute, when output could not be logged
    on_defect: called with an error that is a fault of ours
    """

    def __init__(
        self, plan: LogPlan, loop: EpollLoop, on_error: Callable[[], None], on_defect: Callable[[BaseException], None]
    ) -> None:
        self._plan = plan
        self._loop = loop
        self._on_error = on_error
        self._on_defect = on_defect
        self._writer: LogWriter | None = None
        self._unlogged = 0
        self._told_at = -_TELL_EVERY_S

    def write(self, stream: str, data: bytes) -> None:
        try:
            # only now: a silent container's shim has a third less memory of its own
            writer = self._writer or self._open()
            writer.write(stream, data, time.time_ns())
        except OSError:
            if self._writer is None:
                self._unlogged += len(data)
            self._tell()
        except Exception as error:
            self._unlogged += len(data)
            self._on_defect(error)
            self._tell()

    def _open(self) -> LogWriter:
        driver, path, options, attributes = self._plan
        writer = self._writer = open_writer(driver, path, LogOptions(*options), attributes, self._loop)
        return writer

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self._on_error()

    @property
    def dropped(self) -> int:
        """Bytes of output that are not in the log."""
        return self._unlogged + (self._writer.dropped if self._writer is not None else 0)

    def rotate(self) -> None:
        """Errors: OSError."""
        if self._writer is not None:  # nothing written, nothing to put aside
            self._writer.rotate()

    def finish(self) -> None:
        """The program has ended."""
        if self._writer is not None:
            try:
                self._writer.finish(time.time_ns())
            except OSError:
                self._tell()
            self._writer.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

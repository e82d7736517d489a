"""The writers by name."""

from __future__ import annotations

import os

from corten.logdriver.api import LogWriter, Loop
from corten.logdriver.cutting import CuttingWriter
from corten.logdriver.detached import DetachedWriter
from corten.logdriver.json_file import JsonFileWriter
from corten.logdriver.local import LocalWriter
from corten.logdriver.options import LogOptions
from corten.logdriver.rotation import open_append


class NoneWriter:
    """Keeps nothing."""

    dropped = 0

    def write(self, stream: str, data: bytes, moment_ns: int) -> None:
        return

    def finish(self, moment_ns: int) -> None:
        return

    def rotate(self) -> None:
        return

    def close(self) -> None:
        return


def check_writable(driver: str, path: str) -> None:
    """Make sure that the log can be written, without keeping it open.  Errors: OSError."""
    if driver != "none":
        os.close(open_append(path, 0))


def open_writer(driver: str, path: str, chosen: LogOptions, attributes: dict[str, str], loop: Loop) -> LogWriter:
    """The writer of a new run of a container.

    chosen:     of ``options.parse``
    attributes: what ``attributes.attributes`` found for this container
    Errors:     OSError for the file
    """
    if driver == "none":
        return NoneWriter()

    def open_file() -> CuttingWriter:
        if driver == "local":
            return LocalWriter(path, chosen, attributes)
        return JsonFileWriter(path, chosen, attributes)

    return DetachedWriter(open_file, chosen.buffer_size, loop) if chosen.non_blocking else open_file()

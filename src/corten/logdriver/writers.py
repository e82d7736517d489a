"""The writers by name, and the ring that keeps a slow disk from holding up the program."""

from __future__ import annotations

from typing import Protocol

from corten.logdriver.json_file import JsonFileWriter
from corten.logdriver.local import LocalWriter
from corten.logdriver.options import LogOptions, parse


class LogWriter(Protocol):
    """What the shim holds.  ``write`` and ``finish`` raise OSError when the disk refuses."""

    def write(self, stream: str, data: bytes, moment_ns: int) -> None: ...
    def finish(self, moment_ns: int) -> None: ...
    def close(self) -> None: ...


class NoneWriter:
    """Keeps nothing."""

    def write(self, stream: str, data: bytes, moment_ns: int) -> None:
        return

    def finish(self, moment_ns: int) -> None:
        return

    def close(self) -> None:
        return


def open_writer(driver: str, config: dict[str, str], path: str) -> tuple[LogWriter, LogOptions]:
    """Errors: NotFound, InvalidParameter, OSError."""
    options = parse(driver, config)
    if driver == "json-file":
        return JsonFileWriter(path, options), options
    if driver == "local":
        return LocalWriter(path, options), options
    return NoneWriter(), options

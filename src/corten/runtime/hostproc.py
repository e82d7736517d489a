"""The host's procfs, held by a descriptor.

Once a process is inside a container, "/proc" is the container's to shape: a write to a path below it could land
anywhere (CVE-2019-16884, CVE-2025-52881).  A descriptor opened before stays what it is, and its "self" is the caller
in every pid namespace below the host's.
"""

from __future__ import annotations

import os

from corten.errors import SystemFailure
from corten.linux import paths


class HostProc:
    def __init__(self) -> None:
        """Errors: SystemFailure when /proc is no procfs."""
        self._directory = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if paths.filesystem_type(self._directory) != paths.PROC_SUPER_MAGIC:
            os.close(self._directory)
            raise SystemFailure("/proc of the host is not a procfs", step="procfs")

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC, dir_fd=self._directory)

    def write(self, path: str, text: str) -> None:
        descriptor = self.open(path, os.O_WRONLY)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def read(self, path: str) -> str:
        descriptor = self.open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 65536).decode("utf-8", "surrogateescape")
        finally:
            os.close(descriptor)

    def close(self) -> None:
        os.close(self._directory)

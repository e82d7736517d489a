"""A limit on what a container's writable layer may hold.

On xfs that is mounted with ``prjquota`` the layer's directories become a project with a limit.  Elsewhere, also on ext4
(whose quotas answer EDQUOT where programs know ENOSPC), the layer lies in a file system of its own, in a sparse file:

overlay2/<id>/disk.img    the file, ext4
overlay2/<id>/disk        where it is mounted while the container exists: diff and work are inside
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import loop, projects
from corten.linux import mount as mounting

# what ext4 is made for holds a journal and an inode for every 16 KiB beside the files
MINIMUM_BYTES = 1 << 20
_JOURNAL_BYTES = 4 << 20
_BYTES_PER_INODE = 16384
_INODE_BYTES = 256
_FIRST_PROJECT = 1_000_000
_MAKER = "mkfs.ext4"
_PLACES = "/usr/sbin:/sbin:/usr/bin:/bin"


class DiskLimits:
    """The limits of one snapshotter's containers.

    root: the directory of the snapshots
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._counted: bool | None = None

    def problem(self) -> str:
        """Why there can be no limits here, "" when there can."""
        if self._is_counted() or shutil.which(_MAKER, path=_PLACES):
            return ""
        return f"the file system of {self._root} keeps no project quotas, and {_MAKER} is not installed"

    def _is_counted(self) -> bool:
        if self._counted is None:
            try:
                self._counted = projects.is_xfs(str(self._root)) and projects.is_counted(str(self._root))
            except OSError:
                self._counted = False
        return self._counted

    # -- a container --------------------------------------------------------------------------------------------------

    def prepare(self, snapshot_id: str, size_bytes: int) -> None:
        """Before anything is written: the directory's own files count, or lie in a file of their own.

        Errors: InvalidParameter (too small, or no way to limit), SystemFailure.
        """
        if size_bytes < MINIMUM_BYTES:
            raise InvalidParameter(f"invalid storage option size={size_bytes}: the smallest is 1MiB")
        problem = self.problem()
        if problem:
            raise InvalidParameter(f"--storage-opt size is not supported here: {problem}")
        try:
            if self._is_counted():
                self._count(self._root / snapshot_id, size_bytes)
            else:
                self._make_image(self._root / snapshot_id, size_bytes)
        except OSError as error:
            text = f"cannot limit the size of the container's layer: {error.strerror or error}"
            raise SystemFailure(text, step="disk limit", errno=error.errno or 0) from error

    def place(self, snapshot_id: str) -> Path:
        """The directory that holds a layer's "diff" and "work"; mounted again if it was not, after a reboot.

        Errors: OSError.
        """
        directory = self._root / snapshot_id
        image = directory / "disk.img"
        disk = directory / "disk"
        with self._lock:
            if not image.exists():
                return directory
            if not os.path.ismount(disk):
                loop.mount_image(str(image), str(disk), "ext4")
        return disk

    def release(self, snapshot_id: str) -> None:
        """Before the directory is removed: nothing of the limit stays.  Never raises."""
        directory = self._root / snapshot_id
        with self._lock:
            # first, so that nobody mounts it again
            with contextlib.suppress(OSError):
                (directory / "disk.img").unlink()
            with contextlib.suppress(OSError):
                mounting.umount2(str(directory / "disk"), mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)
        with contextlib.suppress(OSError):
            project = projects.project_of(str(directory)) if self._is_counted() else 0
            if project >= _FIRST_PROJECT:
                projects.limit(str(self._root), project, 0)

    # -- how ----------------------------------------------------------------------------------------------------------

    def _count(self, directory: Path, size_bytes: int) -> None:
        with self._lock:
            project = max([_FIRST_PROJECT, *(self._project(entry) for entry in self._root.iterdir())]) + 1
            projects.set_project(str(directory), project)
        projects.limit(str(directory), project, size_bytes)

    @staticmethod
    def _project(directory: Path) -> int:
        try:
            return projects.project_of(str(directory))
        except OSError:
            return 0  # it is being removed

    def _make_image(self, directory: Path, size_bytes: int) -> None:
        image, unfinished, disk = directory / "disk.img", directory / "disk.img.new", directory / "disk"
        beside = _JOURNAL_BYTES + size_bytes * _INODE_BYTES // _BYTES_PER_INODE + (1 << 20)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.truncate(descriptor, size_bytes + beside)
        finally:
            os.close(descriptor)
        disk.mkdir(mode=0o700)
        command = [
            _MAKER, "-q", "-F", "-b", "4096", "-m", "0", "-i", str(_BYTES_PER_INODE), "-I", str(_INODE_BYTES),
            "-O", "^resize_inode", "-J", f"size={_JOURNAL_BYTES >> 20}", "-E", "nodiscard,lazy_itable_init=1",
            str(unfinished),
        ]  # fmt: skip
        done = subprocess.run(
            command, env={"PATH": _PLACES}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise OSError(0, f"{_MAKER}: {done.stderr.strip().splitlines()[-1:]}")
        with self._lock:
            unfinished.rename(image)
            loop.mount_image(str(image), str(disk), "ext4")
        (disk / "lost+found").rmdir()

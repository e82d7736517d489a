"""The init layer: mount points that a container needs, below its writable layer so that ``diff`` does not show them.

What an image has already is left alone, and nothing is made below a directory that the image replaced by a link.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from corten.linux import user_namespace

# (path, kind): as dockerd makes them
_ENTRIES = (
    ("dev", "directory"),
    ("dev/pts", "directory"),
    ("dev/shm", "directory"),
    ("dev/console", "file"),
    ("proc", "directory"),
    ("sys", "directory"),
    (".dockerenv", "file"),
    ("etc", "directory"),
    ("etc/resolv.conf", "file"),
    ("etc/hosts", "file"),
    ("etc/hostname", "file"),
    ("etc/mtab", "link"),
)


def _find(lower: list[Path], name: str) -> os.stat_result | None:
    """The topmost entry of that name; a whiteout counts as nothing."""
    for directory in lower:
        try:
            status = os.lstat(directory / name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return None
        return status
    return None


def make(target: Path, lower: list[Path]) -> None:
    """Fill ``target`` with what the layers below lack (topmost first)."""
    descriptor = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    skipped: set[str] = set()
    of_the_image: dict[str, os.stat_result] = {}
    try:
        for path, kind in _ENTRIES:
            parent = path.rpartition("/")[0]
            if parent in skipped:
                continue
            present = _find(lower, path)
            if present is not None:
                if kind == "directory" and stat.S_ISDIR(present.st_mode):
                    of_the_image[path] = present
                elif kind == "directory":
                    skipped.add(path)  # a link or a file of the image: nothing may be made behind it
                continue
            if parent in of_the_image:
                _make_directory(descriptor, parent, of_the_image.pop(parent))
            if kind == "directory":
                os.mkdir(path, 0o755, dir_fd=descriptor)
            else:
                _make_entry(descriptor, path, kind)
    finally:
        os.close(descriptor)


def _make_directory(descriptor: int, path: str, present: os.stat_result) -> None:
    """The topmost directory gives a merged one its owner and mode."""
    os.mkdir(path, 0o755, dir_fd=descriptor)
    os.chown(path, *user_namespace.owner(present), dir_fd=descriptor)
    os.chmod(path, stat.S_IMODE(present.st_mode), dir_fd=descriptor)


def _make_entry(descriptor: int, path: str, kind: str) -> None:
    if kind == "link":
        os.symlink("/proc/mounts", path, dir_fd=descriptor)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=descriptor))

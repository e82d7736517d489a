"""What a layer needs from the layers below it, done once those are known.

A layer can be unpacked before its parents are: archives come in any order.  Two things wait for the parents:
directories that the archive used without listing them take owner, mode and attributes from below, and a layer whose
root is opaque hides every name below (overlayfs does not heed the mark on a layer's own root).
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from corten.image.extract import OVERLAY_XATTRS
from corten.image.layer_apply import LayerStats, opaque_attribute
from corten.linux import user_namespace
from corten.linux.user_namespace import Rights


def settle(layer: Path, lower: list[Path], stats: LayerStats, rights: Rights) -> None:
    """lower: the files of the layers below, nearest first."""
    opaque = opaque_attribute(rights)
    for path in stats.implied:
        _take_over(layer, lower, path, opaque, rights)
    if stats.opaque_root:
        _hide_all(layer, lower, opaque)


def find_lower(lower: list[Path], path: bytes, opaque: str) -> bytes | None:
    """The directory that the layers below show at ``path``, None when they show none."""
    parts = path.split(b"/")
    for top in lower:
        place = os.fsencode(top)
        hidden = False
        for part in parts:
            place += b"/" + part
            try:
                status = os.lstat(place)
            except FileNotFoundError:
                break
            if not stat.S_ISDIR(status.st_mode):
                return None  # a whiteout, a file or a link
            hidden = hidden or _is_opaque(place, opaque)
        else:
            return place
        if hidden:
            return None
    return None


def _is_opaque(place: bytes, opaque: str) -> bool:
    try:
        return os.getxattr(place, opaque, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _take_over(layer: Path, lower: list[Path], path: bytes, opaque: str, rights: Rights) -> None:
    source = find_lower(lower, path, opaque)
    target = os.fsencode(layer) + b"/" + path
    if source is None or not stat.S_ISDIR(os.lstat(target).st_mode):
        return
    status = os.lstat(source)
    if rights.owners:
        os.chown(target, *user_namespace.owner(status), follow_symlinks=False)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if not os.fsencode(name).startswith(OVERLAY_XATTRS):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name, follow_symlinks=False), follow_symlinks=False)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def _hide_all(layer: Path, lower: list[Path], opaque: str) -> None:
    top = os.fsencode(layer)
    for directory in lower:
        for name in os.listdir(os.fsencode(directory)):
            place = top + b"/" + name
            try:
                status = os.lstat(place)
            except FileNotFoundError:
                os.mknod(place, stat.S_IFCHR | 0o600, 0)
                continue
            if stat.S_ISDIR(status.st_mode):
                os.setxattr(place, opaque, b"y", follow_symlinks=False)

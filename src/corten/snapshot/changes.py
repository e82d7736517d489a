"""What changed between an image and a container: from an overlay's upper directory, or by comparing two trees."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from corten.linux import fuse_overlay
from corten.snapshot.api import Change

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque", f"{fuse_overlay.ATTRIBUTES}opaque")


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: str | Path) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) in (b"y", b"x"):
                return True
        except OSError:
            continue
    return False


def _in_lower(lower: list[Path], relative: str) -> bool:
    """Whether the layers below (topmost first) show ``relative``."""
    parts = relative.split("/")
    for directory in lower:
        for depth in range(1, len(parts) + 1):
            partial = directory.joinpath(*parts[:depth])
            try:
                status = os.lstat(partial)
            except (FileNotFoundError, NotADirectoryError):
                break
            if is_whiteout(status) or (depth < len(parts) and not stat.S_ISDIR(status.st_mode)):
                return False
            if depth == len(parts):
                return True
            if is_opaque(partial):
                remaining = directory / relative
                return os.path.lexists(remaining) and not is_whiteout(os.lstat(remaining))
    return False


def of_overlay(upper: Path, lower: list[Path]) -> list[Change]:
    """Changes in an upper directory over its layers."""
    changes: list[Change] = []
    for directory, names, files in os.walk(upper):
        relative_directory = os.path.relpath(directory, upper)
        prefix = "" if relative_directory == "." else f"{relative_directory}/"
        for name in [*names, *files]:
            if name in fuse_overlay.MARKS and is_opaque(directory):
                continue
            relative = prefix + name
            status = os.lstat(f"{directory}/{name}")
            known = _in_lower(lower, relative)
            if is_whiteout(status):
                if known:
                    changes.append(Change(f"/{relative}", "D"))
                continue
            if known and stat.S_ISDIR(status.st_mode):
                if is_opaque(f"{directory}/{name}"):
                    changes += _hidden_by_opaque(upper, lower, relative)
                elif _is_untouched(f"{directory}/{name}", status, lower, relative):
                    continue
            changes.append(Change(f"/{relative}", "C" if known else "A"))
    return sorted(set(changes))


def _is_untouched(directory: str, status: os.stat_result, lower: list[Path], relative: str) -> bool:
    """An empty directory as the one that it covers, down to the time: made to mount something on it, and never used."""
    covered = next((place for layer in lower if os.path.lexists(place := layer / relative)), None)
    if covered is None or os.listdir(directory):
        return False
    before = os.lstat(covered)
    return (before.st_mode, before.st_mtime_ns) == (status.st_mode, status.st_mtime_ns)


def _hidden_by_opaque(upper: Path, lower: list[Path], relative: str) -> list[Change]:
    """Children below a directory that was removed and made again."""
    hidden: set[str] = set()
    for directory in lower:
        place = directory / relative
        if place.is_dir() and not place.is_symlink():
            hidden.update(os.listdir(place))
    gone = [name for name in hidden if not os.path.lexists(upper / relative / name)]
    return [Change(f"/{relative}/{name}", "D") for name in gone if _in_lower(lower, f"{relative}/{name}")]


def of_trees(new: Path, old: Path) -> list[Change]:
    """Changes of one whole tree against another, by what stat shows."""
    changes: list[Change] = []
    _compare(new, old, "", changes)
    touched = {change.path for change in changes}
    for path in list(touched):
        parent = os.path.dirname(path)
        while parent not in ("/", "") and parent not in touched:
            touched.add(parent)
            changes.append(Change(parent, "C"))
            parent = os.path.dirname(parent)
    return sorted(set(changes))


def _compare(new: Path, old: Path, relative: str, changes: list[Change]) -> None:
    here = set(os.listdir(new / relative))
    there = set(os.listdir(old / relative)) if (old / relative).is_dir() else set()
    changes += [Change(f"/{relative}{name}", "D") for name in there - here]
    for name in here:
        path = f"{relative}{name}"
        status = os.lstat(new / path)
        directory = stat.S_ISDIR(status.st_mode)
        if name not in there:
            changes.append(Change(f"/{path}", "A"))
            if directory:
                _compare(new, Path("/nonexistent"), f"{path}/", changes)
            continue
        before = os.lstat(old / path)
        if _differs(status, before):
            changes.append(Change(f"/{path}", "C"))
        if directory:
            _compare(new, old, f"{path}/", changes)


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    owner = (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (old.st_mode, old.st_uid, old.st_gid, old.st_rdev)
    content = (new.st_size, new.st_mtime_ns) != (old.st_size, old.st_mtime_ns)
    return owner or (content and not stat.S_ISDIR(new.st_mode))

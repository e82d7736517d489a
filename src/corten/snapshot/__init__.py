"""Layer and container file systems behind one Protocol: overlay, by the kernel or by fuse-overlayfs, and vfs."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from corten.errors import InvalidParameter
from corten.linux import fuse_overlay, paths
from corten.linux import overlay as kernel
from corten.snapshot.api import Snapshotter
from corten.snapshot.fuse import FuseOverlaySnapshotter
from corten.snapshot.overlay import OverlaySnapshotter
from corten.snapshot.vfs import VfsSnapshotter

logger = logging.getLogger(__name__)

_SNAPSHOTTERS: tuple[type[OverlaySnapshotter] | type[VfsSnapshotter], ...] = (
    OverlaySnapshotter,
    FuseOverlaySnapshotter,
    VfsSnapshotter,
)
DRIVERS = tuple(one.name for one in _SNAPSHOTTERS)
_PROBE = ".overlay-probe-"


def overlay_problem(data_root: Path) -> str:
    """Why overlayfs cannot be used below ``data_root``, "" when it can: tried with a real mount."""
    return _problem(data_root, lambda lower, upper, work: kernel.overlay_fd([lower], upper, work, []))


def fuse_problem(data_root: Path) -> str:
    """The same of fuse-overlayfs."""
    if not fuse_overlay.program():
        return "the program is not installed (Debian package fuse-overlayfs)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    return _problem(data_root, lambda lower, upper, work: fuse_overlay.detached([lower], upper, work))


def _problem(data_root: Path, mount: Callable[[str, str, str], int]) -> str:
    with _probe(data_root) as probe:
        try:
            os.close(mount(str(probe / "lower"), str(probe / "upper"), str(probe / "work")))
        except OSError as error:
            return str(error.strerror or error)
    return ""


@contextlib.contextmanager
def _probe(data_root: Path) -> Iterator[Path]:
    """Directories to try a mount with; those of a daemon that was killed at it go, too."""
    probe = data_root / f"{_PROBE}{secrets.token_hex(4)}"
    try:
        for part in ("lower", "upper", "work"):
            (probe / part).mkdir(parents=True)
        yield probe
    finally:
        _remove_probes(data_root)


def _remove_probes(data_root: Path) -> None:
    directory = os.open(data_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(data_root):
            if name.startswith(_PROBE):
                paths.remove_tree(directory, name)
    finally:
        os.close(directory)


_PROBLEMS: dict[str, Callable[[Path], str]] = {
    OverlaySnapshotter.name: overlay_problem,
    FuseOverlaySnapshotter.name: fuse_problem,
    VfsSnapshotter.name: lambda data_root: "",
}


def open_snapshotter(data_root: Path, driver: str = "") -> Snapshotter:
    """The asked-for driver, or the first that works here, but none before the one that has layers here already.

    Errors: InvalidParameter when the asked-for driver does not work on this file system.
    """
    if driver and driver not in DRIVERS:
        raise InvalidParameter(f"unknown storage driver '{driver}': {', '.join(DRIVERS)} are supported")
    first = next((index for index, name in enumerate(DRIVERS) if (data_root / name).exists()), 0)
    for snapshotter in _SNAPSHOTTERS if driver else _SNAPSHOTTERS[first:]:
        name = snapshotter.name
        if driver not in ("", name):
            continue
        problem = _PROBLEMS[name](data_root)
        if not problem:
            return snapshotter(data_root)
        if driver:
            raise InvalidParameter(f"storage driver {driver} does not work below {data_root}: {problem}")
        logger.warning("the storage driver %s does not work below %s: %s", name, data_root, problem)
    raise AssertionError("vfs works everywhere")

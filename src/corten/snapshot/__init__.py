"""Layer and container file systems behind one Protocol: overlay and vfs."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from corten.errors import InvalidParameter
from corten.linux import overlay as kernel
from corten.linux import paths
from corten.snapshot.api import Snapshotter
from corten.snapshot.overlay import OverlaySnapshotter
from corten.snapshot.vfs import VfsSnapshotter

logger = logging.getLogger(__name__)


def overlay_problem(data_root: Path) -> str:
    """Why overlayfs cannot be used below ``data_root``, "" when it can: tried with a real mount."""
    name = f".overlay-probe-{secrets.token_hex(4)}"
    probe = data_root / name
    try:
        for part in ("lower", "upper", "work"):
            (probe / part).mkdir(parents=True)
        os.close(kernel.overlay_fd([str(probe / "lower")], str(probe / "upper"), str(probe / "work"), []))
    except OSError as error:
        return str(error.strerror or error)
    finally:
        directory = os.open(data_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.remove_tree(directory, name)
        finally:
            os.close(directory)
    return ""


def open_snapshotter(data_root: Path, driver: str = "") -> Snapshotter:
    """The asked-for driver, or the best that works here.

    Errors: InvalidParameter when the asked-for driver does not work on this file system.
    """
    if driver == "vfs":
        return VfsSnapshotter(data_root)
    if not driver and (data_root / "vfs").exists() and not (data_root / "overlay2").exists():
        return VfsSnapshotter(data_root)
    problem = overlay_problem(data_root)
    if not problem:
        return OverlaySnapshotter(data_root)
    if driver:
        raise InvalidParameter(f"storage driver overlay2 does not work below {data_root}: {problem}")
    logger.warning("overlay2 does not work below %s (%s): vfs copies every layer and is slow", data_root, problem)
    return VfsSnapshotter(data_root)

"""What a shim leaves in its runtime directory, and what one that was killed leaves elsewhere.  Synchronous."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
from pathlib import Path
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import CortenError
from corten.linux import mount as mounting
from corten.linux import paths

logger = logging.getLogger(__name__)

_DELETE_S = 20.0


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_exit(directory: Path) -> dict[str, Any] | None:
    """ "code", "at_ns" and "oom_killed" of a program that has ended; None when nothing is written down."""
    document = _read(directory / "exit.json")
    if document is None:
        return None
    try:
        return {
            "code": int(document["code"]),
            "at_ns": int(document["at_ns"]),
            "oom_killed": bool(document["oom_killed"]),
        }
    except (KeyError, TypeError, ValueError):
        return None


def read_start(directory: Path) -> tuple[int, int]:
    """(pid, start in nanoseconds) of a program that was started; zeros when nothing is written down."""
    document = _read(directory / "state.json") or {}
    try:
        return int(document["pid"]), int(document["started_ns"])
    except (KeyError, TypeError, ValueError):
        return 0, 0


def remove_directory(directory: Path) -> None:
    """Take a shim's runtime directory away; nothing there is no error."""
    with contextlib.suppress(FileNotFoundError):
        parent = os.open(directory.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            paths.remove_tree(parent, directory.name)
        finally:
            os.close(parent)


def clean_up(directory: Path, cgroup: str = "", target: str = "") -> None:
    """Take away what a killed shim left: processes, cgroup, mount, directory.

    cgroup, target: used when the shim did not come to write them down
    """
    name = directory.name[:12]
    state = _read(directory / "state.json") or {}
    with contextlib.suppress(OSError):
        logger.error("the shim of container %s: %s", name, (directory / "shim.log").read_text().strip())
    _end_processes(name, str(state.get("cgroup") or cgroup))
    _forget_foreign(directory.name, state.get("runtime"))
    target = str(state.get("target") or target)
    if target:
        # EINVAL: a plain directory, or not mounted any more
        with contextlib.suppress(OSError):
            mounting.umount2(target, mounting.MNT_DETACH | mounting.UMOUNT_NOFOLLOW)
    remove_directory(directory)


def _forget_foreign(container_id: str, command: Any) -> None:
    """Have another OCI runtime forget a container."""
    if not command:
        return
    try:
        done = subprocess.run(
            [*command, "delete", "--force", container_id],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DELETE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("container %s: its runtime keeps it: %s", container_id[:12], error)
        return
    if done.returncode and "does not exist" not in done.stderr:
        # its processes are gone: nothing but the record is left
        logger.info("container %s: its runtime keeps it: %s", container_id[:12], done.stderr.strip()[-500:])
        remove_directory(Path(command[-1]) / container_id)


def _end_processes(name: str, path: str) -> None:
    if not path:
        return
    try:
        cgroup = Cgroup(path)
        if not cgroup.exists():
            return
        with contextlib.suppress(CortenError, OSError):
            cgroup.thaw()  # what is frozen does not die on cgroup v1
        cgroup.kill()
        cgroup.delete()
    except (CortenError, OSError) as error:
        logger.warning("container %s: its cgroup %s stays: %s", name, path, error)

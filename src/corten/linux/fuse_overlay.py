"""Overlays that the program fuse-overlayfs shows, where the kernel does not make any itself.

The program ends with its mount.  It knows whiteouts and opaque directories as overlayfs has them; those that it makes
itself bear marks of its own besides (``MARKS``).  Source: fuse-overlayfs(1).
"""

from __future__ import annotations

import errno
import os
import subprocess

from corten.linux import mount as kernel

PROGRAM = "fuse-overlayfs"
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")
# names in an opaque directory of an upper layer that are no files of anybody's
MARKS = (".wh..wh..opq", ".wh..opq")
ATTRIBUTES = "user.fuseoverlayfs."


def program() -> str:
    """Where it is installed; "" when it is not."""
    return next((path for place in _PLACES if os.access(path := f"{place}/{PROGRAM}", os.X_OK)), "")


def mount_at(target: str, lower: list[str], upper: str | None, work: str | None, *, read_only: bool = False) -> None:
    """Mount at a path; lower: topmost first.

    Errors: OSError with what the program says.
    """
    settings = [f"lowerdir={':'.join(map(_escape, lower))}"]
    if upper is not None and work is not None:
        settings += [f"upperdir={_escape(upper)}", f"workdir={_escape(work)}"]
    found = program()
    if not found:
        raise OSError(errno.ENOENT, f"{PROGRAM} is not installed")
    command = [found, "-o", ",".join(settings), target]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env={"PATH": ":".join(_PLACES)}
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "unknown argument ignored" not in line]
        raise OSError(errno.EINVAL, f"{PROGRAM}: {'; '.join(said) or f'ended with {done.returncode}'}", target)
    if read_only or upper is None:
        place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel.mount_setattr(place, set_=kernel.MOUNT_ATTR_RDONLY)
        finally:
            os.close(place)


def detached(lower: list[str], upper: str | None, work: str | None) -> int:
    """A detached mount, with which the program ends.  Errors: OSError."""
    with kernel.hidden_place("fuse") as place:
        mount_at(place, lower, upper, work)
        return kernel.clone_tree(place)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

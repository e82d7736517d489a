"""Overlays that the program fuse-overlayfs shows, where the kernel does not make any itself.

The mount is made here and the program gets its end of it ("/dev/fd/N" of libfuse 3.3): it is attached nowhere until its
owner attaches it, and whoever is killed half-way leaves nothing.  The program ends with its mount.  It knows whiteouts
and opaque directories as overlayfs has them; those that it makes itself bear marks of its own besides (``MARKS``).

Sources: fuse-overlayfs(1), fuse(4).
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Sequence

from corten.linux import mount as kernel

PROGRAM = "fuse-overlayfs"
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin")
# names in an opaque directory of an upper layer that are no files of anybody's
MARKS = (".wh..wh..opq", ".wh..opq")
ATTRIBUTES = "user.fuseoverlayfs."

Ids = Sequence[tuple[int, int, int]]


def program() -> str:
    """Where it is installed; "" when it is not."""
    return next((path for place in _PLACES if os.access(path := f"{place}/{PROGRAM}", os.X_OK)), "")


def mount_at(target: str, lower: list[str], upper: str | None, work: str | None, ids: tuple[Ids, Ids]) -> None:
    """Mount at a path; lower: topmost first.

    ids:    of users and of groups, (on disk, shown, count), for files that are to be somebody else's; none without
    Errors: OSError with what the program says.
    """
    descriptor = detached(lower, upper, work, ids)
    try:
        kernel.attach(descriptor, target)
    finally:
        os.close(descriptor)


def detached(lower: list[str], upper: str | None, work: str | None, ids: tuple[Ids, Ids] = ((), ())) -> int:
    """A detached mount, with which the program ends; read-only without ``upper``.

    Errors: OSError with what the program says.
    """
    settings = [f"lowerdir={':'.join(map(_escape, lower))}"]
    if upper is not None and work is not None:
        settings += [f"upperdir={_escape(upper)}", f"workdir={_escape(work)}"]
    for name, ranges in zip(("uidmapping", "gidmapping"), ids, strict=True):
        if ranges:
            settings.append(f"{name}={':'.join(str(number) for whole in ranges for number in whole)}")
    found = program()
    if not found:
        raise OSError(errno.ENOENT, f"{PROGRAM} is not installed")
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        descriptor = _mount(device, read_only=upper is None)
        try:
            _serve([found, "-o", ",".join(settings), f"/dev/fd/{device}"], device)
        except BaseException:
            os.close(descriptor)
            raise
    finally:
        os.close(device)
    return descriptor


def _mount(device: int, *, read_only: bool) -> int:
    """A detached mount whose other end is the device, as the program itself would make it.  Errors: OSError."""
    context = kernel.fsopen("fuse")
    try:
        settings = {"source": PROGRAM, "subtype": PROGRAM, "fd": str(device), "rootmode": "40000"}
        for key, value in {**settings, "user_id": str(os.geteuid()), "group_id": str(os.getegid())}.items():
            kernel.fsconfig_string(context, key, value)
        for key in ("default_permissions", "allow_other"):
            kernel.fsconfig_flag(context, key)
        kernel.fsconfig_create(context)
        attributes = kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOATIME
        return kernel.fsmount(context, attributes | (kernel.MOUNT_ATTR_RDONLY if read_only else 0))
    finally:
        os.close(context)


def _serve(command: list[str], device: int) -> None:
    """Start the program; returns when it has gone to the background.  Errors: OSError."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": ":".join(_PLACES)},
        pass_fds=(device,),
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "unknown argument ignored" not in line]
        raise OSError(errno.EINVAL, f"{PROGRAM}: {'; '.join(said) or f'ended with {done.returncode}'}")


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")

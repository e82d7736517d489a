"""Overlay mounts, detached or attached.

One ``lowerdir+`` at a time where the kernel takes it (Linux 6.8), so that neither the number of layers nor the length
of their paths is bound by a page of options; before that one ``lowerdir`` string.
Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from corten.linux import mount as kernel

MAXIMUM_LAYERS = 500  # OVL_MAX_STACK


class _Support:
    """What this kernel's overlay takes; learnt at the first mount."""

    appended_layers = True
    detached_layers = True


def overlay_fd(
    lower: list[str], upper: str | None, work: str | None, options: list[str], *, read_only: bool = False
) -> int:
    """A detached overlay mount.

    lower: topmost first; without upper the mount is read-only
    """
    if len(lower) > 1 and _contains_others(lower, upper):
        with _apart(lower[-1]) as base:
            return overlay_fd([*lower[:-1], base], upper, work, options, read_only=read_only)
    if len(lower) > MAXIMUM_LAYERS:
        raise OSError(errno.EINVAL, f"overlay: {len(lower)} layers, the kernel takes {MAXIMUM_LAYERS}")
    attributes = kernel.MOUNT_ATTR_RDONLY if read_only or upper is None else 0
    if upper is None and len(lower) == 1:
        descriptor = kernel.clone_tree(lower[0])
        kernel.mount_setattr(descriptor, set_=kernel.MOUNT_ATTR_RDONLY)
        return descriptor
    if _Support.appended_layers:
        try:
            return _mount(lower, upper, work, options, attributes, appended=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            descriptor = _mount(lower, upper, work, options, attributes, appended=False)
            _Support.appended_layers = False
            return descriptor
    return _mount(lower, upper, work, options, attributes, appended=False)


def _contains_others(lower: list[str], upper: str | None) -> bool:
    """Whether the bottom layer is a directory above the others, such as "/"."""
    if lower[-1].startswith("/proc/"):
        return False
    base = os.path.realpath(lower[-1]).rstrip("/") + "/"
    return any(path.startswith(base) for path in [*lower[:-1], upper or ""])


@contextlib.contextmanager
def _apart(directory: str) -> Iterator[str]:
    """A path that shows ``directory`` as a file system of its own, while the block runs.

    overlayfs refuses a layer below another layer of the same file system ("overlapping lowerdir path", ELOOP).  Seen
    through an overlay of its own, with an empty directory, the outer one is another file system.
    """
    empty = kernel.new_filesystem("tmpfs", "corten", ["size=4k", "mode=755"])
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, empty)
        if _Support.detached_layers:
            try:
                view = overlay_fd([directory, f"/proc/self/fd/{empty}"], None, None, [])
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                _Support.detached_layers = False
            else:
                stack.callback(os.close, view)
                yield f"/proc/self/fd/{view}"
                return
        # before Linux 6.15 a layer must be mounted somewhere in sight; once the outer overlay holds it, it may go
        place = f"/tmp/.corten-base-{os.getpid()}-{empty}-{os.urandom(4).hex()}"
        os.mkdir(place, 0o700)
        stack.callback(os.rmdir, place)
        _attach(empty, place)
        stack.callback(kernel.umount2, place, kernel.MNT_DETACH)
        os.mkdir(f"{place}/empty")
        os.mkdir(f"{place}/view")
        view = overlay_fd([directory, f"{place}/empty"], None, None, [])
        stack.callback(os.close, view)
        _attach(view, f"{place}/view")
        stack.callback(kernel.umount2, f"{place}/view", kernel.MNT_DETACH)
        yield f"{place}/view"


def _attach(descriptor: int, target: str) -> None:
    place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.move_mount(descriptor, place)
    finally:
        os.close(place)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount(
    lower: list[str], upper: str | None, work: str | None, options: list[str], attributes: int, *, appended: bool
) -> int:
    settings = [f"lowerdir+={path}" for path in lower] if appended else [f"lowerdir={':'.join(map(_escape, lower))}"]
    if upper is not None and work is not None:
        settings += [f"upperdir={upper}", f"workdir={work}"]
    return kernel.new_filesystem("overlay", "overlay", settings + options, attributes)


def overlay_mount(
    target: str, lower: list[str], upper: str | None, work: str | None, options: list[str], *, read_only: bool = False
) -> None:
    """Attach an overlay at ``target``."""
    descriptor = overlay_fd(lower, upper, work, options, read_only=read_only)
    try:
        _attach(descriptor, target)
    finally:
        os.close(descriptor)

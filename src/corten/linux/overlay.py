"""Overlay mounts, detached or attached.

One ``lowerdir+`` at a time where the kernel takes it (Linux 6.8), so that neither the number of layers nor the length of
their paths is bound by a page of options; before that one ``lowerdir`` string.
Source: Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os

from corten.linux import mount as kernel

MAXIMUM_LAYERS = 500  # OVL_MAX_STACK


class _Support:
    """What this kernel's overlay takes; learnt at the first mount."""

    appended_layers = True


def overlay_fd(lower: list[str], upper: str | None, work: str | None, options: list[str], *, read_only: bool = False) -> int:
    """A detached overlay mount.

    lower: topmost first; without upper the mount is read-only
    """
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


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mount(lower: list[str], upper: str | None, work: str | None, options: list[str], attributes: int, *, appended: bool) -> int:
    settings = [f"lowerdir+={path}" for path in lower] if appended else [f"lowerdir={':'.join(map(_escape, lower))}"]
    if upper is not None and work is not None:
        settings += [f"upperdir={upper}", f"workdir={work}"]
    return kernel.new_filesystem("overlay", "overlay", settings + options, attributes)


def overlay_mount(target: str, lower: list[str], upper: str | None, work: str | None, options: list[str], *, read_only: bool = False) -> None:
    """Attach an overlay at ``target``."""
    descriptor = overlay_fd(lower, upper, work, options, read_only=read_only)
    try:
        place = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kernel.move_mount(descriptor, place)
        finally:
            os.close(place)
    finally:
        os.close(descriptor)

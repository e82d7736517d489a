"""Files as block devices.  Source: loop(4); include/uapi/linux/loop.h."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from corten.linux import mount as mounting

_CONTROL = "/dev/loop-control"
_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
_TRIES = 32


def _configuration(descriptor: int) -> bytes:
    """``struct loop_config``: the file, block size by default, 64-bit information, of which only the flags are set."""
    information = struct.pack("=5Q4I", 0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR).ljust(232, b"\0")
    return struct.pack("=II", descriptor, 0) + information + bytes(64)


def attach(image: int) -> tuple[int, str]:
    """(descriptor, path) of a block device that shows an open file, and is free again when nobody holds it any more.

    Errors: OSError when the machine has no loop devices (left).
    """
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, _configuration(image))
            except OSError as error:
                os.close(device)
                if error.errno == errno.EBUSY:
                    continue  # somebody else was faster
                raise
            except BaseException:
                os.close(device)
                raise
            return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device", _CONTROL)


def mount_image(image: str, target: str, kind: str, options: str = "") -> None:
    """Mount a file system that lies in a file; the device goes with the mount.

    Errors: OSError.
    """
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        device, path = attach(file)
    finally:
        os.close(file)
    try:
        # nothing of it is meant for the host's own users, who might find a way to it
        mounting.mount(path, target, kind, mounting.MS_NOSUID | mounting.MS_NODEV, options)
    finally:
        os.close(device)

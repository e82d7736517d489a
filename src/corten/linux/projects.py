"""Project quotas: a limit on a tree of files, where the file system counts by project.

Source: quotactl(2), quotactl_fd(2), xfs_quota(8), ioctl_xfs_fsgetxattr(2); include/uapi/linux/{quota,dqblk_xfs,fs}.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys

from corten.linux.syscall import call

_PROJECT_QUOTA = 2
_GET_ATTRIBUTES = 0x801C581F
_SET_ATTRIBUTES = 0x401C5820
_INHERIT = 0x200
_XFS_SET_LIMIT = (ord("X") << 8) | 4
_XFS_GET_QUOTA = (ord("X") << 8) | 3
_BASIC_BLOCK = 512
_XFS_MAGIC = 0x58465342


class _DiskQuota(ctypes.Structure):
    """``struct fs_disk_quota``, which xfs and the kernel's general quota code both speak."""

    _fields_ = (
        ("version", ctypes.c_int8),
        ("flags", ctypes.c_int8),
        ("fieldmask", ctypes.c_uint16),
        ("id", ctypes.c_uint32),
        ("blk_hardlimit", ctypes.c_uint64),
        ("blk_softlimit", ctypes.c_uint64),
        ("ino_hardlimit", ctypes.c_uint64),
        ("ino_softlimit", ctypes.c_uint64),
        ("bcount", ctypes.c_uint64),
        ("icount", ctypes.c_uint64),
        ("timers", ctypes.c_int32 * 2),
        ("warnings", ctypes.c_uint16 * 2),
        ("padding2", ctypes.c_int32),
        ("rtb", ctypes.c_uint64 * 3),
        ("rtbtimer", ctypes.c_int32),
        ("rtbwarns", ctypes.c_uint16),
        ("padding3", ctypes.c_int16),
        ("padding4", ctypes.c_char * 8),
    )


_SOFT, _HARD = 1 << 2, 1 << 3


def _quotactl(descriptor: int, command: int, project: int, quota: _DiskQuota) -> None:
    call("quotactl_fd", descriptor, (command << 8) | _PROJECT_QUOTA, project, quota)


def is_xfs(directory: str) -> bool:
    """Whether a directory lies on xfs, whose project quotas end in ENOSPC.  Errors: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        buffer = ctypes.create_string_buffer(256)
        call("fstatfs", descriptor, buffer)
        return int.from_bytes(buffer.raw[: struct.calcsize("l")], sys.byteorder) == _XFS_MAGIC
    finally:
        os.close(descriptor)


def is_counted(directory: str) -> bool:
    """Whether the file system below a directory keeps and enforces quotas of projects."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _quotactl(descriptor, _XFS_GET_QUOTA, 0, _DiskQuota())
    except OSError as error:
        # a project that has no files yet: but they are counted
        return error.errno == errno.ENOENT
    finally:
        os.close(descriptor)
    return True


def project_of(directory: str) -> int:
    """The project that files made in a directory belong to, 0 for none.  Errors: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return int(struct.unpack("=5I8x", fcntl.ioctl(descriptor, _GET_ATTRIBUTES, bytes(28)))[3])
    finally:
        os.close(descriptor)


def set_project(directory: str, project: int) -> None:
    """A directory, and the files that are made in it from now on, belong to a project.  Errors: OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags, extent, extents, _, cow = struct.unpack("=5I8x", fcntl.ioctl(descriptor, _GET_ATTRIBUTES, bytes(28)))
        fcntl.ioctl(descriptor, _SET_ATTRIBUTES, struct.pack("=5I8x", flags | _INHERIT, extent, extents, project, cow))
    finally:
        os.close(descriptor)


def limit(directory: str, project: int, size_bytes: int) -> None:
    """What the files of a project may take together; 0 lifts it.  Errors: OSError."""
    blocks = -(-size_bytes // _BASIC_BLOCK)
    quota = _DiskQuota(
        version=1,
        flags=_PROJECT_QUOTA,
        fieldmask=_SOFT | _HARD,
        id=project,
        blk_hardlimit=blocks,
        blk_softlimit=blocks,
    )
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _quotactl(descriptor, _XFS_SET_LIMIT, project, quota)
    finally:
        os.close(descriptor)

"""Files out of a tree and into it as plain tars: what ``cp``, ``export`` and imports of files need.

Here ``.wh.`` names are ordinary files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Container, Iterator

from corten.image import tarwrite
from corten.image.compression import DEFAULT_LIMITS, Limits, decompressed
from corten.image.extract import ExtractOptions, Extractor
from corten.image.pipes import Readable, chunks_of
from corten.image.tarstream import TarReader
from corten.image.treewalk import TreeWriter, walk
from corten.linux.subids import Translation
from corten.linux.user_namespace import Rights


def tar_tree(
    dir_fd: int, name: str, arcname: str, *, ids: Translation | None = None, hollow: Container[bytes] = ()
) -> Iterator[bytes]:
    """The file or tree ``name`` in the directory ``dir_fd`` as a tar, in pieces.

    name:     one name, never followed when it is a link; "." is the directory itself
    arcname:  how the top member is called; "" leaves it out and names what is below relative to it; with "/" all names
              begin with a slash, as Docker's clients expect of a container's root
    ids:      of the user namespace whose owners the archive is to have
    hollow:   paths from ``dir_fd`` on: of other file systems mounted there only the mount point is listed
    What the kernel makes up (/proc, /sys) has no content to archive: only its mount points are listed.
    Errors:   FileNotFoundError when ``name`` is not there; what vanishes while it is read is left out.
    """
    top = os.dup(dir_fd)
    try:
        writer = TreeWriter(top, ids)
        try:
            status = os.stat(name, dir_fd=top, follow_symlinks=False)
            path = b"" if name in (".", "") else os.fsencode(name)
            shown = os.fsencode(arcname)
            if shown != b"/":
                shown = shown.strip(b"/")
            yield from walk(writer, path, status, shown, top=bool(shown), hollow=hollow)
            yield tarwrite.END
        finally:
            writer.close()
    finally:
        os.close(top)


def unreadable(dir_fd: int) -> str | None:
    """The first path found below ``dir_fd`` that this process may not read; None when it may read everything."""
    writer = TreeWriter(dir_fd)
    try:
        found = writer.unreadable()
    finally:
        writer.close()
    return None if found is None else os.fsdecode(found) or "."


def untar_into(
    dir_fd: int,
    stream: Readable,
    *,
    no_overwrite_dir_non_dir: bool = False,
    owner: tuple[int, int] | None = None,
    ids: Translation | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> int:
    """Unpack a tar in any compression below the directory ``dir_fd``; the number of members.

    owner: (uid, gid) for everything instead of the archive's owners
    ids:   as ``ExtractOptions.ids``
    Errors: InvalidParameter and DataLoss (bad archive), Conflict (no_overwrite_dir_non_dir),
            SystemFailure (no space).
    """
    _, plain = decompressed(chunks_of(stream), limits)
    rights = Rights.here()
    options = ExtractOptions(
        chown=rights.owners,
        owner=owner,
        ids=ids,
        devices=rights.devices,
        no_overwrite_dir_non_dir=no_overwrite_dir_non_dir,
        keep_root=True,
        keep_space=False,
    )
    return Extractor(dir_fd, TarReader(plain), options).run()


def is_directory(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)

"""A layer's tar becomes a layer directory.

Whiteouts (OCI image-spec v1.1, layer.md) are written as overlayfs keeps them (a character device 0:0, the attribute
``trusted.overlay.opaque``), or applied at once where layers are whole copies.  They hide what is *below* the layer,
never the layer's own entries, wherever they stand in the archive.  What only looks like overlayfs's own marks is
dropped.

Beside the files a split of the archive is kept, from which its exact bytes come back (``tarsplit``).  Content that
a later entry of the same archive replaces moves to ``displaced/`` for that.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from corten.errors import InvalidParameter
from corten.image.directories import split
from corten.image.extract import NONE_GIVEN, ExtractOptions, Extractor, Given
from corten.image.tarheader import TarEntry, shown
from corten.image.tarsplit import SplitWriter
from corten.image.tarstream import TarReader
from corten.linux import paths
from corten.linux.user_namespace import Rights

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
META = b".wh..wh."
SPLIT_NAME = "tar-split.gz"
DISPLACED_NAME = "displaced"
_MAX_IMPLIED = 100_000
_YES = b"y"


def opaque_attribute(rights: Rights) -> str:
    """The attribute by which overlayfs knows an opaque directory; without privilege (``userxattr``) it is a user's."""
    return "trusted.overlay.opaque" if rights.devices else "user.overlay.opaque"


@dataclass(frozen=True, slots=True)
class LayerStats:
    """size: bytes of file content, what image sizes count; tar_size: bytes of the archive

    implied: directories that the archive used without listing them: they take owner and mode from the layers below
    opaque_root: the layer hides everything below it
    """

    size: int
    tar_size: int
    entries: int
    implied: tuple[bytes, ...] = ()
    opaque_root: bool = False


class LayerExtractor(Extractor):
    """Unpacks one layer.

    overlay: write whiteouts for overlayfs; else remove what they name from the copy of the layers below
    """

    def __init__(
        self,
        root_fd: int,
        reader: TarReader,
        options: ExtractOptions,
        split_writer: SplitWriter,
        layer_directory: int,
        *,
        overlay: bool,
        rights: Rights,
    ) -> None:
        super().__init__(root_fd, reader, options)
        self._split = split_writer
        self._layer_directory = layer_directory
        self._overlay = overlay
        self._opaque_name = opaque_attribute(rights)
        self._size = 0
        self._implied: list[bytes] = []
        self._opaque_root = False
        self._displaced_fd = -1
        # without an overlay our own entries and those of the layers below lie together: remember which are ours
        self._ours: set[bytes] | None = None if overlay else set()

    def stats(self) -> LayerStats:
        return LayerStats(self._size, self._split.size, self._entries, tuple(self._implied), self._opaque_root)

    def close(self) -> None:
        if self._displaced_fd >= 0:
            os.close(self._displaced_fd)
            self._displaced_fd = -1

    def _dispatch(self, entry: TarEntry, path: bytes) -> None:
        if WHITEOUT in path and (path.startswith(WHITEOUT) or b"/" + WHITEOUT in path):
            self._special(entry, path)
            return
        super()._dispatch(entry, path)
        if self._ours is not None:
            while path and path not in self._ours:
                self._ours.add(path)
                path = split(path)[0]

    # -- whiteouts ----------------------------------------------------------------------------------------------------

    def _special(self, entry: TarEntry, path: bytes) -> None:
        self._reader.record_data()
        parent, base = split(path)
        if base == OPAQUE and WHITEOUT not in parent:
            self._make_opaque(parent)
            return
        if path.startswith(META) or base.startswith(META):
            return  # aufs's own bookkeeping
        if parent.startswith(WHITEOUT) or b"/" + WHITEOUT in parent:
            raise InvalidParameter(f"invalid tar archive: {shown(entry.name)} is below a whiteout")
        name = base[len(WHITEOUT) :]
        if name in (b"", b".", b".."):
            raise InvalidParameter(f"invalid tar archive: invalid whiteout name {shown(entry.name)}")
        self._whiteout(parent, name)

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        directory = self._parent(parent)
        path = parent + b"/" + name if parent else name
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            if self._overlay:
                os.mknod(name, stat.S_IFCHR | 0o600, 0, dir_fd=directory)
            return
        is_directory = stat.S_ISDIR(status.st_mode)
        if self._ours is None:
            if is_directory:
                self._mark(name, directory)
        elif path not in self._ours:
            self._directories.forget()
            paths.remove_tree(self._directories.get(parent), os.fsdecode(name))
        elif is_directory:
            self._remove_theirs(path)

    def _make_opaque(self, path: bytes) -> None:
        directory = self._parent(path)
        if self._ours is not None:
            self._remove_theirs(path)
        elif not path:
            self._opaque_root = (
                True  # overlayfs does not heed the mark on a layer's root: settled when the parents are known
            )
        else:
            self._mark(b".", directory)

    def _mark(self, name: bytes, directory: int) -> None:
        descriptor = self._open_directory(name, directory)
        try:
            os.setxattr(descriptor, self._opaque_name, _YES)
        finally:
            os.close(descriptor)

    def _remove_theirs(self, path: bytes) -> None:
        """Empty a directory of what came from the layers below."""
        assert self._ours is not None
        self._directories.forget()
        pending = [path]
        while pending:
            current = pending.pop()
            directory = self._directories.get(current)
            for name in os.listdir(b"/proc/self/fd/%d" % directory):
                child = current + b"/" + name if current else name
                if child not in self._ours:
                    paths.remove_tree(directory, os.fsdecode(name))
                elif stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    pending.append(child)

    # -- what lies in the way -----------------------------------------------------------------------------------------

    def _make_implied(self, above: int, base: bytes, path: bytes) -> None:
        hides = self._overlay and self._replace_whiteout(above, base)
        super()._make_implied(above, base, path)
        if hides:
            self._mark(base, above)
        elif len(self._implied) < _MAX_IMPLIED:
            self._implied.append(path)

    def _replace_whiteout(self, directory: int, base: bytes) -> bool:
        try:
            status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not _is_whiteout(status):
            return False
        os.unlink(base, dir_fd=directory)
        return True

    def _directory(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        replaced = self._overlay and self._replace_whiteout(directory, base)
        super()._directory(entry, directory, base, path)
        if replaced:
            self._mark(base, self._directories.get(split(path)[0]))

    def _remove(self, directory: int, base: bytes, path: bytes, status: os.stat_result) -> None:
        """Content of this archive that is replaced is still needed to give the archive back."""
        has_content = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size)
        if not has_content or (self._ours is not None and path not in self._ours):
            super()._remove(directory, base, path, status)
            return
        parent, _ = split(path)
        real = self._directories.real(parent)
        number = self._split.displaced(real + b"/" + base if real else base)
        if self._displaced_fd < 0:
            os.mkdir(DISPLACED_NAME, 0o700, dir_fd=self._layer_directory)
            self._displaced_fd = os.open(
                DISPLACED_NAME, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._layer_directory
            )
        os.rename(base, b"%d" % number, src_dir_fd=directory, dst_dir_fd=self._displaced_fd)

    # -- content ------------------------------------------------------------------------------------------------------

    def _content(self, descriptor: int, entry: TarEntry, path: bytes) -> None:
        self._size += entry.real_size
        if entry.size:
            parent, base = split(path)
            real = self._directories.real(parent)
            if real is not parent:
                path = real + b"/" + base if real else base
            if entry.sparse is None:
                self._split.file(path, entry.size)
            else:
                self._split.sparse(path, entry.sparse)
        super()._content(descriptor, entry, path)

    def _symlink(self, entry: TarEntry, directory: int, base: bytes, path: bytes) -> None:
        super()._symlink(entry, directory, base, path)
        self._size += len(entry.linkname)  # as dockerd counts


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def apply_layer(
    next_chunk: Callable[[], bytes],
    target: Path,
    layer_directory: Path,
    *,
    overlay: bool,
    rights: Rights,
    given: Given = NONE_GIVEN,
) -> LayerStats:
    """Unpack one uncompressed layer tar into ``target`` and keep its split in ``layer_directory``.

    next_chunk: a function that returns the next bytes, b"" at the end; read once, to its end
    overlay: see LayerExtractor; rights: what is not allowed is left out of the layer; given: see ExtractOptions
    Errors: InvalidParameter, DataLoss for bad archives; SystemFailure when the file system refuses.
    Source: OCI image-spec v1.1, layer.md, "Applying Changesets".
    """
    options = ExtractOptions(chown=rights.owners, devices=rights.devices, new_tree=overlay, given=given)
    with contextlib.ExitStack() as stack:
        root = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        beside = os.open(layer_directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, beside)
        file = stack.enter_context(open(layer_directory / SPLIT_NAME, "xb", buffering=0))
        writer = SplitWriter(file)
        reader = TarReader(next_chunk, writer)
        extractor = LayerExtractor(root, reader, options, writer, beside, overlay=overlay, rights=rights)
        stack.callback(extractor.close)
        extractor.run()
        writer.close()
        return extractor.stats()

"""The members of an image archive, read once in whatever order they come.

Small documents stay in memory.  Whatever may be a layer is unpacked into a staged directory while it streams by,
because the manifest that names it may come last; where layers can only be unpacked in order (``vfs``) it waits in a
file without a name.  What no manifest asks for is thrown away in the end, and an error in it counts only when one
does.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from corten.errors import CortenError, DataLoss, InvalidParameter
from corten.image import tarheader as header
from corten.image.archive_names import member_name, resolve
from corten.image.compression import detect
from corten.image.layers import Layers, Staged
from corten.image.pipes import Chunks, Hashed, chunks_of, drain, peek
from corten.image.tarheader import TarEntry
from corten.image.tarstream import TarReader
from corten.oci.digest import Digest
from corten.oci.documents import MAX_CONFIG_BYTES

_MAX_DOCUMENTS_BYTES = 64 << 20  # of all small members together
_MAX_MEMBERS = 10_000
_PROGRESS_BYTES = 512 << 10
_REQUIRED = frozenset({"manifest.json", "index.json", "oci-layout", "repositories"})

Progress = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Member:
    """A layer candidate: unpacked, waiting in a file, or broken."""

    name: str
    size: int
    staged: Staged | None = None
    file: IO[bytes] | None = None
    error: CortenError | None = None
    digest: Digest | None = None  # of the bytes, known once they have been read


@dataclass(slots=True)
class Members:
    documents: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, Member] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def document(self, name: str) -> bytes | None:
        return self.documents.get(resolve(name, self.links))

    def blob(self, name: str) -> Member | None:
        return self.blobs.get(resolve(name, self.links))

    def close(self, layers: Layers) -> None:
        """Throw away what nobody took."""
        for member in self.blobs.values():
            if member.staged is not None:
                layers.discard(member.staged)
                member.staged = None
            if member.file is not None:
                member.file.close()


class Collector:
    """Reads one archive into ``members``."""

    def __init__(self, layers: Layers, scratch: Path, known: Callable[[str], bool], progress: Progress) -> None:
        """known: whether the store has a layer with that diff ID, so that it need not be unpacked again."""
        self._layers = layers
        self._scratch = scratch
        self._known = known
        self._progress = progress
        self._held = 0
        self.members = Members()

    def read(self, source: Chunks) -> None:
        """Errors: InvalidParameter (bad archive), SystemFailure (no space)."""
        reader = TarReader(source)
        count = 0
        while (entry := reader.next()) is not None:
            count += 1
            if count > _MAX_MEMBERS:
                raise InvalidParameter(f"invalid image archive: more than {_MAX_MEMBERS} members")
            self._member(entry, reader)

    def _member(self, entry: TarEntry, reader: TarReader) -> None:
        if entry.kind == header.DIRECTORY:
            return
        name = member_name(entry.name.decode("utf-8", "surrogateescape"))
        if entry.kind in (header.SYMLINK, header.HARDLINK):
            target = entry.linkname.decode("utf-8", "surrogateescape")
            # a hard link counts from the archive's root, a symbolic link from its own directory
            self.members.links[name] = "/" + target if entry.kind == header.HARDLINK else target
            return
        if entry.kind != header.REGULAR or entry.sparse is not None:
            return
        self.add(name, entry.size, lambda: bytes(reader.read_some()))

    def add(self, name: str, size: int, source: Chunks) -> None:
        """One file: kept when it is a document, unpacked when it may be a layer.  ``source`` is read to its end."""
        self._forget(name)
        start, source = peek(source, 512)
        if size <= MAX_CONFIG_BYTES and _looks_like_document(name, start):
            content = _whole(source)
            self._held += len(content)
            if self._held > _MAX_DOCUMENTS_BYTES:
                raise InvalidParameter(f"invalid image archive: more than {_MAX_DOCUMENTS_BYTES} bytes of documents")
            self.members.documents[name] = content
            return
        if name in _REQUIRED:
            raise InvalidParameter(f"invalid image archive: {name} of {size} bytes, the limit is {MAX_CONFIG_BYTES}")
        if not _may_be_layer(start):
            drain(source)
            self.members.blobs[name] = Member(
                name, size, error=InvalidParameter(f"invalid image archive: {name!r} is no layer")
            )
            return
        self._layer(name, size, source)

    def _forget(self, name: str) -> None:
        """A later member of the same name counts."""
        self._held -= len(self.members.documents.pop(name, b""))
        old = self.members.blobs.pop(name, None)
        if old is not None and old.staged is not None:
            self._layers.discard(old.staged)

    def _layer(self, name: str, size: int, source: Chunks) -> None:
        member = self.members.blobs[name] = Member(name, size)
        hashed = Hashed(self._reporting(name, size, source))
        expected = _digest_in(name)
        if expected and self._known(expected):
            # its name says that it is here already: nothing of these bytes is used, but they must be what they say
            drain(hashed)
            member.digest = hashed.digest
            if member.digest != expected:
                member.error = DataLoss(f"invalid content: expected digest {expected}, got {member.digest}")
            return
        if not self._layers.can_stage_early:
            member.file = self._spool(hashed)
            member.digest = hashed.digest
            return
        try:
            member.staged = self._layers.stage(hashed)
            member.digest = member.staged.blob
        except (InvalidParameter, DataLoss) as error:
            member.error = error
            drain(source)

    def _spool(self, source: Chunks) -> IO[bytes]:
        file = tempfile.TemporaryFile(dir=self._scratch, buffering=0)  # noqa: SIM115 the member keeps it
        try:
            while chunk := source():
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file

    def _reporting(self, name: str, size: int, source: Chunks) -> Chunks:
        label = layer_label(name)
        done = shown = 0

        def next_chunk() -> bytes:
            nonlocal done, shown
            chunk = source()
            done += len(chunk)
            if done - shown >= _PROGRESS_BYTES or (not chunk and done != shown):
                shown = done
                self._progress(
                    {"status": "Loading layer", "progressDetail": {"current": done, "total": size}, "id": label}
                )
            return chunk

        return next_chunk


def read_directory(directory: Path, collector: Collector) -> None:
    """The files of a directory (an OCI layout, an unpacked archive) as members; links and special files are left out.

    For the library: whoever calls it chose the directory.
    """
    for place, names, files in os.walk(directory):
        names.sort()
        for file in sorted(files):
            path = os.path.join(place, file)
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as opened:
                size = os.fstat(opened.fileno()).st_size
                collector.add(member_name(os.path.relpath(path, directory)), size, chunks_of(opened))


def layer_label(name: str) -> str:
    """What progress calls a layer: the first digits of the digest in its name."""
    parts = [part for part in name.replace(".tar", "").split("/") if part not in ("layer", "blobs", "sha256")]
    return (parts[-1] if parts else name)[:12]


def _digest_in(name: str) -> str:
    """The diff ID that a member's name promises, when it holds one."""
    base = name.rpartition("/")[2].partition(".")[0]
    return f"sha256:{base}" if len(base) == 64 and all(letter in "0123456789abcdef" for letter in base) else ""


def _looks_like_document(name: str, start: bytes) -> bool:
    base = name.rpartition("/")[2]
    if base in ("oci-layout", "repositories", "VERSION", "json") or base.endswith(".json"):
        return True
    return start.lstrip()[:1] in (b"{", b"[")


def _may_be_layer(start: bytes) -> bool:
    """A tar has at least one block, or none at all; anything compressed may hold one."""
    return len(start) in (0, 512) or len(start) > 512 or bool(detect(start))


def _whole(source: Chunks) -> bytes:
    parts = []
    while chunk := source():
        parts.append(chunk)
    return b"".join(parts)

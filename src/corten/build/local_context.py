"""A directory of this machine as a build's context: nothing of it is read before an instruction asks for it.

What is ignored is not there.  A file has one meaning during the whole build: when it changes after it was looked at,
the build fails instead of caching something else under its name.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterator

from corten.build.small_files import read_dockerfile, read_ignore
from corten.build.tree import CHUNK, Node, RootTree
from corten.dockerfile.ignore import Ignore, read_patterns
from corten.errors import Conflict, Forbidden, InvalidParameter
from corten.image.pipes import iterated, read_ahead

_LARGE = 16 << 20  # reading and hashing go side by side
_FRESH_NS = 2 * 10**9  # a file that was changed so short ago may change again within one tick of the clock
_MAX_DIGESTS = 32_768

# device, inode, size, mtime, ctime
Identity = tuple[int, int, int, int, int]


class FileDigests:
    """SHA-256 of files by what the kernel says of them, over all builds of a daemon.  Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Identity, bytes] = {}

    def get(self, identity: Identity) -> bytes | None:
        with self._lock:
            found = self._known.pop(identity, None)
            if found is not None:
                self._known[identity] = found  # the last one used goes last
            return found

    def put(self, identity: Identity, digest: bytes) -> None:
        if time.time_ns() - max(identity[3], identity[4]) < _FRESH_NS:
            return
        with self._lock:
            self._known[identity] = digest
            if len(self._known) > _MAX_DIGESTS:
                del self._known[next(iter(self._known))]


class LocalContext:
    """A ``Tree``; files belong to root, as in every context.  Thread-safe.

    descriptor: of the directory; owned
    """

    def __init__(self, descriptor: int, digests: FileDigests) -> None:
        self._descriptor = descriptor
        self._tree = RootTree(descriptor)
        self._digests = digests
        self._lock = threading.RLock()
        self._ignore = Ignore(())
        self._nodes: dict[str, tuple[Node, Identity] | None] = {}
        self.dockerfile: bytes | None = None

    def close(self) -> None:
        with self._lock:
            self._tree.close()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    # -- what is there ------------------------------------------------------------------------------------------------

    def ignore(self, dockerfile: str, patterns: bytes | None = None) -> None:
        """As ``Context.ignore``; ``patterns`` count in the place of the file.

        Errors: InvalidParameter for bad patterns.
        """
        self.dockerfile = self.find_dockerfile(dockerfile)
        content = read_ignore(self, dockerfile) if patterns is None else patterns
        if content is not None:
            self._ignore = Ignore(read_patterns(content))
            self._nodes.clear()

    def find_dockerfile(self, name: str) -> bytes | None:
        return read_dockerfile(self, name) if self.dockerfile is None else self.dockerfile

    def node(self, path: str) -> Node | None:
        with self._lock:
            if path not in self._nodes:
                self._nodes[path] = self._look(path)
            found = self._nodes[path]
        return found[0] if found is not None else None

    def _look(self, path: str) -> tuple[Node, Identity] | None:
        is_ignored = bool(path) and self._ignore.excludes(path)
        if is_ignored and not self._ignore.has_exceptions:
            return None
        found = self._tree.look(path, as_context=True)
        if found is None:
            return None
        node, status = found
        if is_ignored and not (node.is_directory and self._keeps_something(path)):
            return None
        return node, _identity(status)

    def _keeps_something(self, path: str) -> bool:
        """Whether an exception brings something below an ignored directory back."""
        for name in self._tree.names(path):
            child = f"{path}/{name}"
            if not self._ignore.excludes(child):
                return True
            node = self._tree.node(child)
            if node is not None and node.is_directory and self._keeps_something(child):
                return True
        return False

    def names(self, path: str) -> list[str]:
        """Errors: Forbidden for a directory that this process may not read."""
        with self._lock:
            try:
                names = self._tree.names(path)
            except PermissionError:
                raise _closed(path) from None
        if not self._ignore:
            return names
        return [name for name in names if self.node(f"{path}/{name}" if path else name) is not None]

    # -- contents -----------------------------------------------------------------------------------------------------

    def chunks(self, path: str, node: Node) -> Iterator[bytes]:
        """Errors: Conflict when the file is not what it was when the build looked at it; Forbidden."""
        with self._lock:
            known = self._nodes.get(path)
            try:
                descriptor = self._tree.open(path)
            except PermissionError:
                raise _closed(path) from None
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                    raise _changed(path) from None
                raise
        try:
            left = node.size
            while left:
                data = os.read(descriptor, min(CHUNK, left))
                if not data:
                    raise _changed(path)
                left -= len(data)
                yield data
            if known is not None and _identity(os.fstat(descriptor)) != known[1]:
                raise _changed(path)
        finally:
            os.close(descriptor)

    def digest(self, path: str, node: Node) -> bytes:
        known = self._nodes.get(path)
        digest = self._digests.get(known[1]) if known is not None else None
        if digest is None:
            digest = self._hashed(path, node)
            if known is not None:
                self._digests.put(known[1], digest)
        return digest

    def _hashed(self, path: str, node: Node) -> bytes:
        running = hashlib.sha256()
        if node.size < _LARGE:
            for chunk in self.chunks(path, node):
                running.update(chunk)
        else:
            with read_ahead(iterated(self.chunks(path, node))) as source:
                while chunk := source():
                    running.update(chunk)
        return running.digest()


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _changed(path: str) -> Conflict:
    return Conflict(f"{path} was changed while it was built")


def _closed(path: str) -> Forbidden:
    return Forbidden(f"error checking context: no permission to read from '{path}'")


def open_directory(path: str, device: int, inode: int) -> int | None:
    """A directory that a client names; None when this process sees another one there, or none.

    Errors: InvalidParameter for a path that is not absolute.
    """
    if not path.startswith("/") or "\0" in path:
        raise InvalidParameter(f"invalid context directory: {path[:200]!r}")
    try:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if (status.st_dev, status.st_ino) == (device, inode) and stat.S_ISDIR(status.st_mode):
        return descriptor
    os.close(descriptor)
    return None

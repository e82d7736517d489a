"""Tar archives of local files, made and unpacked as a stream.

What comes out of a container is not trusted: unpacking never follows a symbolic link and never leaves its directory,
whatever the names in the archive are.  ``tarfile`` only reads and writes headers here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile

from corten.errors import DataLoss, InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_CHUNK = 256 * 1024
_BLOCK = tarfile.BLOCKSIZE
_CAPABILITY = "security.capability"
_XATTR = "SCHILY.xattr."
# an xattr that cannot be set here is no reason to fail: the file system has none, or only root may
_NO_XATTR = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)


# -- making ---------------------------------------------------------------------------------------------------------


def header_of(path: str, name: str, links: dict[tuple[int, int], str]) -> tuple[tarfile.TarInfo, os.stat_result] | None:
    status = os.lstat(path)
    mode = status.st_mode
    if stat.S_ISSOCK(mode):
        return None  # an archive has no sockets
    header = tarfile.TarInfo(name)
    header.mode = stat.S_IMODE(mode)
    header.uid, header.gid = status.st_uid, status.st_gid
    header.mtime = status.st_mtime_ns // 1_000_000_000
    if stat.S_ISDIR(mode):
        header.type = tarfile.DIRTYPE
        header.name = name.rstrip("/") + "/"
    elif stat.S_ISLNK(mode):
        header.type = tarfile.SYMTYPE
        header.linkname = os.readlink(path)
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        header.type = tarfile.CHRTYPE if stat.S_ISCHR(mode) else tarfile.BLKTYPE
        header.devmajor, header.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif stat.S_ISFIFO(mode):
        header.type = tarfile.FIFOTYPE
    else:
        first = links.setdefault((status.st_dev, status.st_ino), name) if status.st_nlink > 1 else name
        if first != name:
            header.type = tarfile.LNKTYPE
            header.linkname = first
        else:
            header.size = status.st_size
    if header.isreg():
        with contextlib.suppress(OSError):
            value = os.getxattr(path, _CAPABILITY, follow_symlinks=False)
            header.pax_headers = {_XATTR + _CAPABILITY: value.decode("utf-8", "surrogateescape")}
    return header, status


def contents(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        left = size
        while left:
            piece = file.read(min(_CHUNK, left))
            if not piece:
                raise DataLoss(f"{path} became shorter while it was read")
            left -= len(piece)
            yield piece
    if size % _BLOCK:
        yield bytes(_BLOCK - size % _BLOCK)


def _entries(path: str, name: str) -> Iterator[tuple[str, str]]:
    """(path, name in the archive) of a file, or of a directory and all below it."""
    yield path, name
    if os.path.isdir(path) and not os.path.islink(path):
        with os.scandir(path) as entries:
            children = sorted(entry.name for entry in entries)
        for child in children:
            yield from _entries(os.path.join(path, child), f"{name.rstrip('/')}/{child}")


def pack(path: str, name: str) -> Iterator[bytes]:
    """An archive of ``path`` and what is below it, under ``name`` ("." for the contents of a directory).

    Errors: OSError when something cannot be read; DataLoss when a file shrinks meanwhile.
    """
    links: dict[tuple[int, int], str] = {}
    for each, inside in _entries(path, name):
        found = header_of(each, inside, links)
        if found is None:
            continue
        header, _ = found
        yield header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if header.isreg() and header.size:
            yield from contents(each, header.size)
    yield bytes(2 * _BLOCK)


# -- unpacking ------------------------------------------------------------------------------------------------------


class _Stream:
    """The pieces of an answer as the file that ``tarfile`` reads."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""
        self.count = 0

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            if not self._rest:
                self._rest = next(self._pieces, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:size], self._rest[size:]
            size -= len(part)
            parts.append(part)
        data = b"".join(parts)
        self.count += len(data)
        return data


def _parts(name: str) -> list[str]:
    """Errors: DataLoss for a name that would leave the directory."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise DataLoss(f"the archive has an entry outside of its directory: {name!r}")
    return parts


class _Unpacker:
    def __init__(self, root: str, *, keep_owner: bool) -> None:
        self._root = root
        self._keep_owner = keep_owner
        self._times: list[tuple[str, int]] = []

    @contextlib.contextmanager
    def _directory(self, parts: list[str]) -> Iterator[int]:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                try:
                    inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                except FileNotFoundError:
                    os.mkdir(part, 0o755, dir_fd=fd)
                    inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def add(self, member: tarfile.TarInfo, read: Callable[[], Iterator[bytes]]) -> None:
        parts = _parts(member.name)
        if not parts:
            return  # the directory itself is there
        with self._directory(parts[:-1]) as parent:
            name = parts[-1]
            if not self._make_way(member, parent, name):
                self._create(member, parent, name, read)
            self._set_attributes(member, parent, name)

    def _make_way(self, member: tarfile.TarInfo, parent: int, name: str) -> bool:
        """Remove what is in the way; True when a directory is there and one is wanted.

        Errors: InvalidParameter when a directory would take the place of something else, or the other way round.
        """
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(mode) and not member.isdir():
            raise InvalidParameter(f'cannot overwrite directory "{name}" with non-directory "{self._root}"')
        if member.isdir() and not stat.S_ISDIR(mode):
            raise InvalidParameter(f'cannot overwrite non-directory "{name}" with directory "{self._root}"')
        if member.isdir():
            return True
        os.unlink(name, dir_fd=parent)
        return False

    def _create(self, member: tarfile.TarInfo, parent: int, name: str, read: Callable[[], Iterator[bytes]]) -> None:
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=parent)
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            target = _parts(member.linkname)
            with self._directory(target[:-1]) as other:
                os.link(target[-1], name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.isdev():
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
        elif member.isreg():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(name, flags, 0o600, dir_fd=parent), "wb", buffering=0) as file:
                for piece in read():
                    file.write(piece)
                self._set_xattrs(member, file.fileno())
        else:
            raise DataLoss(f"the archive has an entry of an unknown kind: {member.name!r}")

    def _set_xattrs(self, member: tarfile.TarInfo, fd: int) -> None:
        for key, value in member.pax_headers.items():
            if key.startswith(_XATTR):
                try:
                    os.setxattr(fd, key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape"))
                except OSError as error:
                    if error.errno not in _NO_XATTR:
                        raise

    def _set_attributes(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        if member.islnk():
            return
        if self._keep_owner:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        moment = int(member.mtime * 1_000_000_000)
        if not member.issym():
            # an entry that was made a moment ago in a directory of ours is no link: chmod has no way not to follow
            os.chmod(name, member.mode & 0o7777, dir_fd=parent)
        if member.isdir():
            self._times.append((member.name, moment))  # what is put into it would change its time
        else:
            os.utime(name, ns=(moment, moment), dir_fd=parent, follow_symlinks=False)

    def finish(self) -> None:
        """Give directories their times back."""
        for name, moment in reversed(self._times):
            parts = _parts(name)
            with self._directory(parts[:-1]) as parent:
                os.utime(parts[-1], ns=(moment, moment), dir_fd=parent, follow_symlinks=False)


def unpack(
    pieces: Iterable[bytes], root: str, *, rename: Callable[[str], str] | None = None, keep_owner: bool = False
) -> int:
    """Unpack an archive below the directory ``root``; gives the archive's size in bytes.

    rename:     changes names of entries and targets of hard links
    keep_owner: owners as in the archive (needs root) in the place of this user's

    Errors: InvalidParameter when a directory meets a file; DataLoss for an archive that is broken or leaves ``root``;
    OSError as is.
    """
    stream = _Stream(pieces)
    unpacker = _Unpacker(root, keep_owner=keep_owner)
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:  # type: ignore[call-overload]  # reading needs no more of it
            for member in archive:
                if rename is not None:
                    member.name = rename(member.name)
                    if member.islnk():
                        member.linkname = rename(member.linkname)

                def read(member: tarfile.TarInfo = member) -> Iterator[bytes]:
                    file = archive.extractfile(member)
                    assert file is not None
                    while piece := file.read(_CHUNK):
                        yield piece

                unpacker.add(member, read)
    except tarfile.TarError as error:
        raise DataLoss(f"the archive cannot be read: {error}") from error
    while stream.read(_CHUNK):
        pass  # what pads the archive's end
    unpacker.finish()
    return stream.count

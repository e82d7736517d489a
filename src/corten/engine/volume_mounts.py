"""What volumes need mounted on the host: file systems of driver options while somebody uses them, and subpaths.

A volume of driver options (type, o, device) is mounted on its ``_data`` for its first user and unmounted after its
last.  A subpath is resolved inside its volume once and bound to a place of its own, ``volumes/.subpaths/<token>``, so
that no container that shares the volume can redirect it (CVE-2021-30465 and its like).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import re
import secrets
import socket
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as kernel
from corten.linux import paths
from corten.runtime import mount_options

logger = logging.getLogger(__name__)

OPTIONS = ("type", "o", "device", "size")
# an option -> those that it needs
_NEEDED = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSWORD = re.compile(r"password=[^,]*")
SUBPATHS = ".subpaths"


class NameLocks:
    """A lock for each name, there while somebody holds or wants it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, tuple[threading.RLock, int]] = {}

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[None]:
        with self._guard:
            lock, holders = self._locks.get(name, (threading.RLock(), 0))
            self._locks[name] = lock, holders + 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, holders = self._locks.pop(name)
                if holders > 1:
                    self._locks[name] = lock, holders - 1


def check_options(options: dict[str, str]) -> None:
    """The driver options of ``local``.  Errors: InvalidParameter in Docker's words."""
    for name in options:
        if name not in OPTIONS:
            raise InvalidParameter(f'invalid option: "{name}"')
    if "size" in options:
        raise InvalidParameter("quota size requested but no quota support")
    for name, needed in _NEEDED.items():
        for other in needed:
            if name in options and other not in options:
                raise InvalidParameter(f'missing required option: "{other}"')
    if options.get("type") == "cifs" and _port(options.get("device", "")):
        raise InvalidParameter("port not allowed in CIFS device URL, include 'port' in 'o='")


def _port(device: str) -> bool:
    try:
        return urlsplit(device).port is not None
    except ValueError:
        return True


class VolumeMounts:
    """The mounts of one daemon's volumes.  Methods may be called from any thread; users are ids of containers."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._locks = NameLocks()
        self._users: dict[str, set[str]] = {}

    # -- driver options -----------------------------------------------------------------------------------------------

    def hold(self, name: str, options: dict[str, str], user: str) -> None:
        """Mount a volume unless it is, and note who uses it.  Errors: SystemFailure, InvalidParameter."""
        if not options:
            return
        with self._locks.hold(name):
            users = self._users.get(name, set())
            if not users and not self.is_mounted(name):
                self._attach(name, options)
            self._users[name] = users | {user}

    def adopt(self, name: str, options: dict[str, str], user: str) -> None:
        """A container that runs since before this daemon uses the volume."""
        if options:
            with self._locks.hold(name):
                self._users.setdefault(name, set()).add(user)

    def drop(self, name: str, user: str) -> None:
        """Unmount when this was the last user; nothing happens when it is none."""
        with self._locks.hold(name):
            users = self._users.get(name)
            if users is None or user not in users:
                return
            users.discard(user)
            if not users:
                del self._users[name]
                self.detach(name)

    def detach(self, name: str) -> None:
        """Unmount what is mounted on a volume, if anything."""
        if self.is_mounted(name):
            _unmount(self._root / name / "_data")

    def is_mounted(self, name: str) -> bool:
        """Whether something is mounted on the volume, also from the same file system."""
        try:
            directory = os.open(self._root / name, _PLACE | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            os.close(paths.openat2(directory, "_data", _PLACE, resolve=paths.RESOLVE_NO_XDEV | paths.RESOLVE_BENEATH))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.EXDEV:
                return True
            raise
        finally:
            os.close(directory)
        return False

    def _attach(self, name: str, options: dict[str, str]) -> None:
        target = self._root / name / "_data"
        kind, device = options.get("type", ""), options.get("device", "")
        wanted = [item for item in options.get("o", "").split(",") if item]
        try:
            device, wanted = _resolved(kind, device, wanted)
            descriptor, propagation = _new_mount(kind, device, wanted)
            try:
                place = os.open(target, _PLACE | os.O_DIRECTORY)
                try:
                    kernel.move_mount(descriptor, place)
                finally:
                    os.close(place)
                for flag, recursive in propagation:
                    kernel.mount_setattr(descriptor, propagation=flag, recursive=recursive)
            finally:
                os.close(descriptor)
        except OSError as error:
            shown = _PASSWORD.sub("password=********", ",".join(wanted))
            reason = _PASSWORD.sub("password=********", (error.strerror or str(error)).lower())
            raise SystemFailure(
                f"failed to mount local volume: mount {device}:{target}, data: {shown}: {reason}",
                step="mount volume",
                errno=error.errno or 0,
            ) from error

    # -- subpaths -----------------------------------------------------------------------------------------------------

    def place(self) -> Path:
        """Where a subpath will be attached: a path that nobody else has."""
        return self._root / SUBPATHS / secrets.token_hex(16)

    def attach_subpath(self, name: str, subpath: str, place: Path) -> None:
        """Bind a part of a volume to its place.  Errors: InvalidParameter when it is not there, SystemFailure."""
        source = self.open_subpath(name, subpath)
        try:
            place.parent.mkdir(mode=0o700, exist_ok=True)
            self.detach_subpath(place)
            if stat.S_ISDIR(os.stat(source).st_mode):
                place.mkdir(mode=0o700)
            else:
                place.touch(mode=0o600)
            tree = kernel.clone_tree("", directory=source, recursive=True)
            try:
                kernel.mount_setattr(tree, propagation=kernel.MS_PRIVATE, recursive=True)
                target = os.open(place, _PLACE)
                try:
                    kernel.move_mount(tree, target)
                finally:
                    os.close(target)
            finally:
                os.close(tree)
        except OSError as error:
            self.detach_subpath(place)
            raise SystemFailure(
                f"cannot mount {subpath} of volume {name}: {(error.strerror or '').lower()}",
                step="mount subpath",
                errno=error.errno or 0,
            ) from error
        finally:
            os.close(source)

    def open_subpath(self, name: str, subpath: str) -> int:
        """An O_PATH descriptor of a part of a volume ("" is all of it), resolved inside the volume.

        Errors: InvalidParameter when it is not there.
        """
        top = os.open(self._root / name / "_data", _PLACE | os.O_DIRECTORY)
        try:
            return paths.open_in_root(top, subpath, os.O_PATH)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise InvalidParameter(f"cannot access path {subpath} in volume {name}: {reason}") from error
        finally:
            os.close(top)

    def detach_subpath(self, place: Path) -> None:
        """Take a subpath's place away; nothing there is no error."""
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return
        with contextlib.suppress(OSError):  # EINVAL: nothing is mounted there
            kernel.umount2(str(place), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        status = os.lstat(place)
        if stat.S_ISDIR(status.st_mode):
            place.rmdir()
        else:
            place.unlink()

    def sweep_subpaths(self, used: Iterable[str]) -> None:
        """Take away the places that no running container has."""
        kept = set(used)
        directory = self._root / SUBPATHS
        for name in os.listdir(directory) if directory.is_dir() else ():
            if str(directory / name) not in kept:
                self.detach_subpath(directory / name)


def _unmount(target: Path) -> None:
    try:
        kernel.umount2(str(target), kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.EINVAL:
            logger.warning("cannot unmount volume at %s: %s", target, error.strerror)


def _new_mount(kind: str, device: str, wanted: list[str]) -> tuple[int, list[tuple[int, bool]]]:
    """A detached mount, and its propagation for when it is attached."""
    options = mount_options.parse(wanted)
    if options.remount or options.idmap or options.copy_up or options.set_recursive or options.clear_recursive:
        raise InvalidParameter(f"mount option of a volume not understood: {','.join(wanted)}")
    if not options.bind:
        data = options.data + (["ro"] if options.set_ & kernel.MOUNT_ATTR_RDONLY else [])
        return kernel.new_filesystem(kind, device, data, options.set_), options.propagation
    if options.data:
        raise InvalidParameter(f"mount option '{options.data[0]}' cannot be used with a bind of {device}")
    descriptor = kernel.clone_tree(device, recursive=options.recursive)
    try:
        kernel.mount_setattr(descriptor, set_=options.set_, clear=options.clear)
        if not options.propagation:
            kernel.mount_setattr(descriptor, propagation=kernel.MS_PRIVATE, recursive=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, options.propagation


def _resolved(kind: str, device: str, wanted: list[str]) -> tuple[str, list[str]]:
    """Device and options with addresses for names: the kernel resolves none (nfs(5), mount.cifs(8))."""
    if kind not in ("nfs", "nfs4", "cifs"):
        return device, wanted
    for position, item in enumerate(wanted):
        if item.startswith("addr="):
            address = _address(item.removeprefix("addr="))
            return device, [*wanted[:position], f"addr={address}", *wanted[position + 1 :]]
    if kind != "cifs":
        return device, wanted
    host = urlsplit(device).hostname
    return (device.replace(host, _address(host), 1) if host else device), wanted


def _address(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise OSError(errno.EHOSTUNREACH, f"error resolving passed in network volume address: {error}") from error

"""User namespaces of containers: ``userns-remap``, the same ids for all, and ``--userns=auto``, a range for each.

Layers and volumes keep the ids that containers see; who runs with other ids sees them through id-mapped mounts
(mount_setattr(2)).  So nothing is ever changed on disk, a volume has the same owners for all who mount it, and a
container can get another range at each start.  Source: user_namespaces(7); dockerd's words are moby's
``daemon/daemon_unix.go``.
"""

from __future__ import annotations

import grp
import logging
import pwd
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from corten.dockerapi.container import HostConfig
from corten.engine import remap_user
from corten.engine.container import Container, IdMaps
from corten.engine.mount_point import MountPoint
from corten.errors import Conflict, InvalidParameter
from corten.linux import fuse_overlay, subids, user_namespace
from corten.linux.subids import Range

logger = logging.getLogger(__name__)

_DOCKERS_USER = "dockremap"
# whose subordinate ids --userns=auto takes unless a range is configured; the second is the one of other engines
_POOL_USERS = ("corten", "containers")
_SIZE = 65_536
# the storage driver that shows files with other ids by itself; for the others the kernel does, and for root alone
_OWN_MAPS = fuse_overlay.PROGRAM
_MAXIMUM = 2**31


# -- userns-remap -----------------------------------------------------------------------------------------------------


def remapped(text: str) -> IdMaps:
    """The ids of ``--userns-remap``: "default", "user", "user:group", "uid", "uid:gid"; none for root, and for "auto".

    Errors: InvalidParameter.
    """
    if text in ("", "auto"):
        return IdMaps()
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise InvalidParameter(f'invalid user/group specification in --userns-remap: "{text}"')
    if text == "default":
        name = _DOCKERS_USER
        remap_user.ensure(name)
    else:
        name = _user_name(user)
        _check_group(group)
    if name == "root":
        logger.warning("User namespaces: root cannot be remapped with itself; user namespaces are OFF")
        return IdMaps()
    names = subids.names_of_user(name)
    found = [subids.ranges(path, names) for path in (subids.SUBUID, subids.SUBGID)]
    for path, granted in zip((subids.SUBUID, subids.SUBGID), found, strict=True):
        if not granted:
            raise InvalidParameter(
                f"can't create ID mappings: no subordinate ids for user {name} in {path}: "
                f"add a line such as '{name}:100000:65536'"
            )
    return IdMaps(uids=_stacked(found[0]), gids=_stacked(found[1]))


def _user_name(user: str) -> str:
    try:
        return pwd.getpwuid(int(user)).pw_name if user.isdigit() else pwd.getpwnam(user).pw_name
    except (KeyError, OverflowError):
        raise InvalidParameter(f"invalid --userns-remap: user {user} has no entry in /etc/passwd") from None


def _check_group(group: str) -> None:
    try:
        if group:
            _ = grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)
    except (KeyError, OverflowError):
        raise InvalidParameter(f"invalid --userns-remap: group {group} has no entry in /etc/group") from None


def _stacked(granted: list[Range]) -> subids.Mappings:
    mappings, inside = [], 0
    for part in granted:
        mappings.append({"containerID": inside, "hostID": part.first, "size": part.count})
        inside += part.count
    return mappings


def donor(container: Container, find: Callable[[str], Container]) -> Container | None:
    """The container whose namespaces this one joins, and with them the user namespace that they belong to."""
    host = container.host_config
    for mode in (host.network_mode, host.pid_mode, host.ipc_mode):
        if mode.startswith("container:"):
            return find(mode.partition(":")[2])
    return None


# -- modes ------------------------------------------------------------------------------------------------------------


def automatic_size(mode: str) -> int:
    """How many ids ``auto`` or ``auto:size=N`` asks for; 0 for another mode.  Errors: InvalidParameter."""
    if mode == "auto":
        return _SIZE
    if not mode.startswith("auto:"):
        return 0
    key, _, value = mode[len("auto:") :].partition("=")
    if key != "size" or not (value.isascii() and value.isdigit()) or not 0 < int(value) <= _MAXIMUM:
        raise InvalidParameter(f"invalid user namespace mode: {mode}: auto and auto:size=N are supported")
    return int(value)


@dataclass(frozen=True, slots=True)
class Pool:
    """Where ranges are taken from."""

    uids: tuple[Range, ...] = ()
    gids: tuple[Range, ...] = ()

    @classmethod
    def of(cls, configured: str) -> Pool:
        """configured: "first:count", "" for the subordinate ids of the user made for it."""
        if configured:
            first, _, count = configured.partition(":")
            if not (first.isdigit() and count.isdigit() and int(count) and 0 < int(first) < 2**32 - int(count)):
                raise InvalidParameter(f"invalid userns-pool: '{configured}': FIRST:COUNT is needed")
            whole = (Range(int(first), int(count)),)
            return cls(whole, whole)
        for name in _POOL_USERS:
            names = subids.names_of_user(name)
            pool = cls(tuple(subids.ranges(subids.SUBUID, names)), tuple(subids.ranges(subids.SUBGID, names)))
            if pool.uids and pool.gids:
                return pool
        return cls()

    @classmethod
    def of_this_namespace(cls, configured: str) -> Pool:
        """Of a daemon without root: its ids beyond those that ordinary containers have.

        configured: as for ``of``, in numbers of the daemon's user namespace
        """
        if configured:
            return cls.of(configured)
        parts = []
        for kind in ("uid", "gid"):
            end = user_namespace.mapped(kind)
            parts.append((Range(_SIZE, end - _SIZE),) if end > _SIZE else ())
        return cls(parts[0], parts[1]) if all(parts) else cls()


def free_range(pool: Iterable[Range], taken: Iterable[Range], size: int) -> Range | None:
    """The first ``size`` ids of the pool that nobody has."""
    busy = sorted(taken)
    for whole in pool:
        first = whole.first
        for other in busy:
            if other.first < first + size and first < other.end:
                first = other.end
        if first + size <= whole.end:
            return Range(first, size)
    return None


class UserNamespaces:
    """Who runs with which ids.  Methods may be called from any thread.

    remap:     the ids of containers that do not choose, none without ``userns-remap``
    automatic: those get a range of their own each instead
    pool:      as ``Pool.of`` takes it
    rootless:  this daemon's ids are those of its user; the kernel lets it map files of no file system on disk
    driver:    the storage driver
    """

    def __init__(self, remap: IdMaps, pool: str, *, automatic: bool, rootless: bool, driver: str) -> None:
        self.remap = remap
        self._driver = driver
        self._automatic = automatic
        self._configured = pool
        self._rootless = rootless
        self._held: dict[str, IdMaps] = {}
        self._lock = threading.Lock()

    @property
    def are_default(self) -> bool:
        """Whether containers that do not choose have one."""
        return self._automatic or bool(self.remap)

    def _size(self, host: HostConfig) -> int:
        return automatic_size(host.userns_mode or ("auto" if self._automatic else ""))

    def check(self, host: HostConfig, *, own_runtime: bool = True) -> None:
        """What a container with other ids cannot have, and what a daemon without root cannot give.

        own_runtime: it runs under Corten's; others look for its root by a path that is closed to its ids
        Errors: InvalidParameter.
        """
        if self._rootless and not own_runtime:
            raise InvalidParameter(f"runtime {host.runtime} cannot be used without root")
        if self._rootless and host.storage_opt:
            raise InvalidParameter("--storage-opt size= cannot be used without root: it takes loop devices or quotas")
        size = self._size(host)
        if size and self._rootless and self._driver != _OWN_MAPS:
            raise InvalidParameter(
                f"invalid user namespace mode: {host.userns_mode}: without root only the storage driver {_OWN_MAPS} "
                "shows files with other ids"
            )
        if not size and (not self.remap or host.userns_mode == "host"):
            return
        if not own_runtime:
            raise InvalidParameter(
                f"runtime {host.runtime} cannot be used with user namespaces: the container needs --userns=host"
            )
        if host.privileged:
            raise InvalidParameter(
                "privileged mode is incompatible with user namespaces.  "
                "You must run the container in the host namespace when running privileged mode"
            )
        if host.network_mode == "host":
            raise InvalidParameter("cannot share the host's network namespace when user namespaces are enabled")
        if host.pid_mode == "host":
            raise InvalidParameter("cannot share the host PID namespace when user namespaces are enabled")

    def check_mounts(self, host: HostConfig, points: list[MountPoint]) -> None:
        """What a container with a range of its own cannot have without root.  Errors: InvalidParameter."""
        if not self._rootless or not self._size(host):
            return
        for point in points:
            if point.type != "tmpfs" and (point.type != "bind" or point.idmap):
                raise InvalidParameter(
                    f"invalid mount of type {point.type} at {point.destination}: "
                    "without root it cannot be shown with the ids of an automatic user namespace"
                )

    def take(self, container: Container, shared: IdMaps | None) -> IdMaps:
        """The ids of a container that is about to start.

        shared: of a container whose namespaces it joins: those belong to that one's user namespace
        Errors: Conflict when there are not enough.
        """
        mode = container.host_config.userns_mode
        if shared is not None:
            with self._lock:  # the one it joins may end first
                self._held[container.id] = shared
            return shared
        size = self._size(container.host_config)
        if not size:
            return IdMaps() if mode == "host" else self.remap
        pool = Pool.of_this_namespace(self._configured) if self._rootless else Pool.of(self._configured)
        if not pool.uids and not self._rootless:
            raise Conflict(
                "there are no ids for automatic user namespaces: give user corten subordinate ids in /etc/subuid and "
                "/etc/subgid, or this daemon a range with --userns-pool"
            )
        with self._lock:
            uids = free_range(pool.uids, [*self._taken("uids")], size)
            gids = free_range(pool.gids, [*self._taken("gids")], size)
            if uids is None or gids is None:
                where = f": they are this user's subordinate ids beyond the first {_SIZE}" if self._rootless else ""
                raise Conflict(f"there are no {size} ids left for an automatic user namespace{where}")
            maps = self._held[container.id] = IdMaps(uids=_stacked([uids]), gids=_stacked([gids]))
        return maps

    def _taken(self, kind: str) -> Iterable[Range]:
        for maps in (*self._held.values(), self.remap):
            for item in getattr(maps, kind):
                yield Range(item["hostID"], item["size"])

    def hold(self, container: Container) -> None:
        """It runs, or may run, with the ids of its record."""
        if container.id_maps:
            with self._lock:
                self._held[container.id] = container.id_maps

    def release(self, container: Container) -> None:
        with self._lock:
            self._held.pop(container.id, None)

"""All that is mounted into a container as one list, and that list as the runtime and as clients see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from corten.dockerapi.container import HostConfig
from corten.engine.mount_parsing import (
    PROPAGATIONS,
    anonymous_volume,
    check_tmpfs,
    parse_bind,
    parse_mode,
    parse_mount,
)
from corten.engine.mount_point import DEFAULT_PROPAGATION, MountPoint, check_volume_name
from corten.errors import InvalidParameter, NotFound
from corten.linux import paths

__all__ = ["MountPoint", "check_volume_name", "inspect_mounts", "oci_mounts", "resolve_mount_points"]

_TMPFS_DEFAULTS = ("noexec", "nosuid", "nodev", "rprivate")


def _from_others(spec: str, find: Callable[[str], list[MountPoint]]) -> list[MountPoint]:
    """``--volumes-from name[:mode]``: what another container has mounted, but for its tmpfs."""
    if not spec:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    reference, _, mode = spec.partition(":")
    options = parse_mode(mode)
    if options is None or options & (PROPAGATIONS | {"nocopy", "idmap"}):
        raise InvalidParameter(f"invalid mode: {mode}")
    try:
        theirs = find(reference)
    except NotFound as error:
        # a create that answers "not found" makes clients pull the image
        raise InvalidParameter(error.message) from error
    return [
        replace(point, rw=point.rw and "ro" not in options, copy_up=False, anonymous=False, mode="", attached="")
        for point in theirs
        if point.type != "tmpfs"
    ]


def resolve_mount_points(
    host_config: HostConfig,
    volumes: dict[str, Any],
    find: Callable[[str], list[MountPoint]],
    *,
    daemon_root: str = "",
) -> list[MountPoint]:
    """Everything that is mounted, outer directories first.

    volumes:     ``Volumes`` of the container's configuration, an image's ``VOLUME`` among them
    find:        the mount points of another container by reference
    daemon_root: a bind that shows it follows the host's mounts (rslave), so that containers hold no other's root
    Errors: InvalidParameter ("Duplicate mount point: /x" …), NotImplementedYet.
    """
    points: dict[str, MountPoint] = {}
    for spec in host_config.volumes_from:
        points.update((point.destination, point) for point in _from_others(spec, find))
    given: set[str] = set()

    def add(point: MountPoint) -> None:
        if point.destination in given:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        given.add(point.destination)
        points[point.destination] = _following(point, daemon_root)

    for spec in host_config.binds:
        add(parse_bind(spec, host_config.volume_driver))
    for mount in host_config.mounts:
        add(parse_mount(mount))
    for destination, options in host_config.tmpfs.items():
        target = _plain_destination(destination)
        chosen = tuple(check_tmpfs(options))
        add(MountPoint(type="tmpfs", destination=target, rw="ro" not in chosen, tmpfs_options=chosen, listed=False))
    for destination in volumes:
        # relative ones, which images bring, count from the root
        target = _plain_destination(f"/{destination}" if destination else "")
        points.setdefault(target, anonymous_volume(target))
    chosen_points = _with_first_options(points.values())
    return sorted(chosen_points, key=lambda point: (point.destination.count("/"), point.destination))


def _with_first_options(points: Iterable[MountPoint]) -> Iterator[MountPoint]:
    """A volume that is named several times is made as the first one wishes it, in the client's order."""
    first: dict[str, MountPoint] = {}
    for point in points:
        if point.type == "volume" and point.name:
            chosen = first.setdefault(point.name, point)
            yield replace(point, labels=chosen.labels, driver_options=chosen.driver_options)
        else:
            yield point


def _plain_destination(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{path}' mount path must be absolute")
    clean = paths.clean(path)
    if clean == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")
    return clean


def _following(point: MountPoint, daemon_root: str) -> MountPoint:
    if point.type != "bind" or not point.implied_propagation or not daemon_root:
        return point
    source, root = f"{point.source.rstrip('/')}/", f"{daemon_root.rstrip('/')}/"
    if source.startswith(root) or root.startswith(source):
        return replace(point, propagation="rslave")
    return point


def oci_mounts(points: list[MountPoint], *, mapped: bool = False) -> list[dict[str, Any]]:
    """The mounts in the runtime specification's form.

    mapped: the container has ids of its own: in volumes and images, which are this engine's, files belong to who they
    belong to in every container; what is the machine's own stays out of reach unless it is asked for with ``idmap``
    """
    return [_oci_mount(point, mapped=mapped) for point in points]


def _oci_mount(point: MountPoint, *, mapped: bool) -> dict[str, Any]:
    if point.type == "tmpfs":
        options = [*_TMPFS_DEFAULTS, *point.tmpfs_options]
        return {"destination": point.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    options = ["bind" if point.non_recursive else "rbind"]
    if not point.rw:
        options.append("ro" if point.shallow_read_only else "rro")
    options.append(point.propagation or DEFAULT_PROPAGATION)
    if mapped and point.type != "bind":
        options.append("idmap")
    elif mapped and point.idmap:
        options.append("idmap" if point.non_recursive else "ridmap")
    return {"destination": point.destination, "type": "bind", "source": point.host_path, "options": options}


def inspect_mounts(points: list[MountPoint]) -> list[dict[str, Any]]:
    """``Mounts`` of inspect and of lists."""
    return [_described(point) for point in points if point.listed]


def _described(point: MountPoint) -> dict[str, Any]:
    document: dict[str, Any] = {"Type": point.type}
    if point.type == "volume":
        document["Name"] = point.name
    document |= {"Source": point.source, "Destination": point.destination}
    if point.type == "volume":
        document["Driver"] = point.driver
    return document | {"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation}

"""What is mounted into a container: ``-v``, ``--mount``, ``--tmpfs``, ``VOLUME`` and ``--volumes-from`` as one list.

Wording of the errors is Docker's where its tools parse it.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from corten.dockerapi.container import HostConfig, Mount
from corten.errors import InvalidParameter, NotImplementedYet
from corten.linux import paths

_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z")
_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_IGNORED_MODES = ("consistent", "cached", "delegated", "default")
_TMPFS_FLAGS = frozenset(
    "exec noexec suid nosuid dev nodev ro rw sync async dirsync remount mand nomand atime noatime diratime nodiratime "
    "relatime norelatime strictatime nostrictatime".split()
)
_TMPFS_VALUES = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    """One mount.

    type:        bind, volume or tmpfs
    source:      on the host; "" for a tmpfs
    name:        of a volume
    mode:        options as given, as inspect shows them
    copy_up:     fill an empty volume with what the image has there
    anonymous:   made for this container only
    non_recursive, recursive_read_only: of a bind
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    copy_up: bool = False
    anonymous: bool = False
    non_recursive: bool = False
    shallow_read_only: bool = False
    tmpfs_options: tuple[str, ...] = ()
    driver_options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def _destination(path: str, spec: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(f"invalid volume specification: '{spec}': invalid mount config for type \"bind\": invalid mount path: '{path}' mount path must be absolute")
    clean = paths.clean(path)
    if clean == "/":
        raise InvalidParameter(f"invalid volume specification: '{spec}': invalid specification: destination can't be '/'")
    return clean


def parse_bind(spec: str) -> MountPoint:
    """``-v``: "source:destination[:options]" or "destination".  Errors: InvalidParameter."""
    parts = spec.split(":")
    if len(parts) > 3 or not all(parts) or "\0" in spec:
        raise InvalidParameter(f"invalid volume specification: '{spec}'")
    if len(parts) == 1:
        return _anonymous(_destination(parts[0], spec))
    source, destination = parts[0], _destination(parts[1], spec)
    mode = parts[2] if len(parts) == 3 else ""
    rw, propagation, copy = True, "", True
    for option in mode.split(",") if mode else ():
        if option in ("ro", "rw"):
            rw = option == "rw"
        elif option in _PROPAGATIONS:
            propagation = option
        elif option == "nocopy":
            copy = False
        elif option in ("z", "Z"):
            continue  # labels need SELinux; without it there is nothing to relabel
        elif option not in _IGNORED_MODES:
            raise InvalidParameter(f"invalid mode: {mode}")
    if source.startswith("/"):
        if not copy:
            raise InvalidParameter(f"invalid volume specification: '{spec}': nocopy is for volumes only")
        return MountPoint(
            type="bind", source=os.path.normpath(source), destination=destination, mode=mode, rw=rw, propagation=propagation or "rprivate"
        )
    if propagation:
        raise InvalidParameter(f"invalid volume specification: '{spec}': invalid mode: {mode}")
    check_volume_name(source)
    return MountPoint(type="volume", name=source, driver="local", destination=destination, mode=mode or "z", rw=rw, copy_up=copy)


def check_volume_name(name: str) -> None:
    if not _VOLUME_NAME.match(name) or len(name) > 255:
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" '
            "are allowed. If you intended to pass a host directory, use absolute path"
        )


def _anonymous(destination: str) -> MountPoint:
    return MountPoint(
        type="volume", name=secrets.token_hex(32), driver="local", destination=destination, copy_up=True, anonymous=True
    )


def parse_mount(mount: Mount) -> MountPoint:
    """``--mount``.  Errors: InvalidParameter, NotImplementedYet."""
    kind = mount.type
    if not mount.target:
        raise InvalidParameter(f'invalid mount config for type "{kind}": field Target must not be empty')
    if not mount.target.startswith("/"):
        raise InvalidParameter(
            f"invalid mount config for type \"{kind}\": invalid mount path: '{mount.target}' mount path must be absolute"
        )
    target = paths.clean(mount.target)
    if target == "/":
        raise InvalidParameter(f"invalid mount config for type \"{kind}\": invalid specification: destination can't be '/'")
    for name, given in (("bind", mount.bind_options), ("volume", mount.volume_options), ("tmpfs", mount.tmpfs_options)):
        if given is not None and kind != name:
            raise InvalidParameter(f'invalid mount config for type "{kind}": field {name.capitalize()}Options must not be specified')
    if kind == "bind":
        return _bind_mount(mount, target)
    if kind == "volume":
        return _volume_mount(mount, target)
    if kind == "tmpfs":
        return _tmpfs_mount(mount, target)
    if kind in ("image", "cluster", "npipe"):
        raise NotImplementedYet(f"mounts of type {kind} are not supported yet")
    raise InvalidParameter(f"mount type unknown: {kind!r}")


def _bind_mount(mount: Mount, target: str) -> MountPoint:
    if not mount.source:
        raise InvalidParameter('invalid mount config for type "bind": field Source must not be empty')
    if not mount.source.startswith("/"):
        raise InvalidParameter(
            f"invalid mount config for type \"bind\": invalid mount path: '{mount.source}' mount path must be absolute"
        )
    options = mount.bind_options
    if not os.path.exists(mount.source):
        if options is None or not options.create_mountpoint:
            raise InvalidParameter(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')
        os.makedirs(mount.source, exist_ok=True)
    if options is not None and options.propagation and options.propagation not in _PROPAGATIONS:
        raise InvalidParameter(f"invalid propagation mode: {options.propagation}")
    return MountPoint(
        type="bind",
        source=os.path.normpath(mount.source),
        destination=target,
        rw=not mount.read_only,
        propagation=(options.propagation if options else "") or "rprivate",
        non_recursive=bool(options and options.non_recursive),
        shallow_read_only=bool(options and options.read_only_non_recursive),
    )


def _volume_mount(mount: Mount, target: str) -> MountPoint:
    options = mount.volume_options
    driver = options.driver_config if options else None
    if driver is not None and driver.name not in ("", "local"):
        raise InvalidParameter(f'error looking up volume plugin {driver.name}: plugin "{driver.name}" not found')
    if options is not None and options.subpath:
        raise NotImplementedYet("the volume option subpath is not supported yet")
    if mount.source:
        check_volume_name(mount.source)
    return MountPoint(
        type="volume",
        name=mount.source or secrets.token_hex(32),
        anonymous=not mount.source,
        driver="local",
        destination=target,
        mode="z",
        rw=not mount.read_only,
        copy_up=not (options and options.no_copy),
        driver_options=dict(driver.options) if driver else {},
        labels=dict(options.labels) if options else {},
    )


def _tmpfs_mount(mount: Mount, target: str) -> MountPoint:
    if mount.source:
        raise InvalidParameter('invalid mount config for type "tmpfs": field Source must not be specified')
    options = mount.tmpfs_options
    chosen: list[str] = []
    if options is not None:
        if options.size_bytes < 0:
            raise InvalidParameter('invalid mount config for type "tmpfs": size must not be negative')
        if options.size_bytes:
            chosen.append(f"size={options.size_bytes}")
        if options.mode:
            chosen.append(f"mode={options.mode:o}")
        chosen += ["=".join(pair) for pair in options.options]
    if mount.read_only:
        chosen.append("ro")
    return MountPoint(type="tmpfs", destination=target, rw=not mount.read_only, tmpfs_options=tuple(check_tmpfs(",".join(chosen))))


def check_tmpfs(options: str) -> list[str]:
    """The options of ``--tmpfs``.  Errors: InvalidParameter."""
    chosen = [option for option in options.split(",") if option]
    for option in chosen:
        name, equals, value = option.partition("=")
        if (equals and name in _TMPFS_VALUES and value) or (not equals and name in _TMPFS_FLAGS):
            continue
        raise InvalidParameter(f"invalid tmpfs option {json_quote(option)}")
    return chosen


def json_quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _from_others(spec: str, find: Callable[[str], list[MountPoint]]) -> list[MountPoint]:
    """``--volumes-from name[:ro|rw]``."""
    reference, colon, mode = spec.partition(":")
    if not reference:
        raise InvalidParameter(f"malformed volumes-from specification: {spec}")
    if colon and mode not in ("ro", "rw", "z", "Z", "nocopy"):
        raise InvalidParameter(f"invalid mode: {mode}")
    taken = []
    for point in find(reference):
        if point.type != "tmpfs":
            taken.append(_copied(point, rw=point.rw and mode != "ro"))
    return taken


def _copied(point: MountPoint, *, rw: bool) -> MountPoint:
    values = {name: getattr(point, name) for name in MountPoint.__dataclass_fields__}
    return MountPoint(**{**values, "rw": rw, "copy_up": False, "anonymous": False})


def resolve_mount_points(
    host_config: HostConfig, volumes: dict[str, Any], find: Callable[[str], list[MountPoint]]
) -> list[MountPoint]:
    """Everything that is mounted, outer directories first.

    find: the mount points of another container by reference
    Errors: InvalidParameter ("Duplicate mount point: /x" …), NotImplementedYet.
    """
    points: dict[str, MountPoint] = {}
    for spec in host_config.volumes_from:
        for point in _from_others(spec, find):
            points[point.destination] = point
    given: set[str] = set()

    def add(point: MountPoint) -> None:
        if point.destination in given:
            raise InvalidParameter(f"Duplicate mount point: {point.destination}")
        given.add(point.destination)
        points[point.destination] = point

    for spec in host_config.binds:
        add(_prepared_bind(parse_bind(spec)))
    for mount in host_config.mounts:
        add(parse_mount(mount))
    for destination, options in host_config.tmpfs.items():
        chosen = check_tmpfs(options)
        target = _destination(destination, destination)
        add(MountPoint(type="tmpfs", destination=target, rw="ro" not in chosen, tmpfs_options=tuple(chosen)))
    for destination in volumes:
        clean = _destination(destination, destination)
        if clean not in points:
            points[clean] = _anonymous(clean)
    return sorted(points.values(), key=lambda point: (point.destination.count("/"), point.destination))


def _prepared_bind(point: MountPoint) -> MountPoint:
    """``-v`` makes an absent host directory, as Docker does."""
    if point.type == "bind" and not os.path.exists(point.source):
        try:
            os.makedirs(point.source, exist_ok=True)
        except OSError as error:
            raise InvalidParameter(f"error while creating mount source path '{point.source}': {(error.strerror or '').lower()}") from error
    return point


def oci_mounts(points: list[MountPoint]) -> list[dict[str, Any]]:
    """The mounts in the runtime specification's form; a volume's source is filled in by its name before."""
    return [_oci_mount(point) for point in points]


def _oci_mount(point: MountPoint) -> dict[str, Any]:
    if point.type == "tmpfs":
        options = ["noexec", "nosuid", "nodev", "rprivate", *point.tmpfs_options]
        return {"destination": point.destination, "type": "tmpfs", "source": "tmpfs", "options": options}
    options = ["bind" if point.non_recursive else "rbind"]
    if not point.rw:
        options += ["ro"] if point.shallow_read_only or point.non_recursive else ["ro", "rro"]
    options.append(point.propagation or "rprivate")
    return {"destination": point.destination, "type": "bind", "source": point.source, "options": options}


def inspect_mounts(points: list[MountPoint]) -> list[dict[str, Any]]:
    """``Mounts`` of inspect."""
    documents = []
    for point in points:
        document: dict[str, Any] = {"Type": point.type}
        if point.type == "volume":
            document["Name"] = point.name
        document["Source"] = point.source
        document["Destination"] = point.destination
        if point.type == "volume":
            document["Driver"] = point.driver
        document.update(Mode=point.mode, RW=point.rw, Propagation=point.propagation)
        documents.append(document)
    return documents

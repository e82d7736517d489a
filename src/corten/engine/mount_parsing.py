"""One mount as clients write it: ``-v``, ``--mount`` and the options of ``--tmpfs``.

Rules and the wording of the errors are dockerd's, since its tools parse them.  Nothing is made or changed here; only
``--mount`` looks whether its source exists.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import replace

from corten.dockerapi.container import BindOptions, DriverConfig, Mount, TmpfsOptions, VolumeOptions
from corten.engine.mount_point import DEFAULT_PROPAGATION, MountPoint, check_volume_name
from corten.errors import InvalidParameter, NotImplementedYet
from corten.linux import paths

PROPAGATIONS = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave"))
# of each kind of mode there may be one
_MODE_KINDS = (
    frozenset(("ro", "rw")),
    frozenset(("z", "Z")),
    PROPAGATIONS,
    frozenset(("nocopy",)),
    frozenset(("idmap",)),
    frozenset(("consistent", "cached", "delegated")),
)
_TMPFS_FLAGS = frozenset(
    (
        *("defaults", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "ro", "rw", "sync", "async", "dirsync"),
        *("mand", "nomand", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "private", "rprivate", "shared", "rshared", "slave", "rslave"),
        *("unbindable", "runbindable"),
    )
)
_TMPFS_VALUES = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
_SIZE_UNITS = ((1 << 30, "g"), (1 << 20, "m"), (1 << 10, "k"))


def parse_mode(mode: str) -> frozenset[str] | None:
    """The options of a mode; None when they are no valid mode."""
    options = mode.split(",") if mode else []
    for option in options:
        if not any(option in kind for kind in _MODE_KINDS):
            return None
    if any(sum(option in kind for option in options) > 1 for kind in _MODE_KINDS):
        return None
    return frozenset(options)


def parse_bind(spec: str, volume_driver: str = "") -> MountPoint:
    """``-v``: "source:destination[:options]" or "destination".  Errors: InvalidParameter."""
    invalid = f"invalid volume specification: '{spec}'"
    parts = spec.split(":")
    if len(parts) > 3 or not parts[0] or (len(parts) == 2 and parse_mode(parts[1]) is not None):
        raise InvalidParameter(invalid)
    source, destination = ("", parts[0]) if len(parts) == 1 else (parts[0], parts[1])
    mode = parts[2] if len(parts) == 3 else ""
    options = parse_mode(mode)
    if options is None:
        raise InvalidParameter(f"invalid mode: {mode}")
    mount = Mount(
        type="bind" if source.startswith("/") else "volume",
        source=source,
        target=destination,
        read_only="ro" in options,
    )
    if "nocopy" in options:
        mount.volume_options = VolumeOptions(no_copy=True)
    if volume_driver and mount.type == "volume":
        mount.volume_options = mount.volume_options or VolumeOptions()
        mount.volume_options.driver_config = DriverConfig(name=volume_driver)
    propagation = options & PROPAGATIONS
    mapped = "idmap" in options and mount.type == "bind"  # volumes are anyway
    if propagation or mapped:
        mount.bind_options = BindOptions(propagation="".join(propagation), id_map=mapped)
    try:
        point = _parsed(mount, look_for_source=False)
    except InvalidParameter as error:
        raise InvalidParameter(f"{invalid}: {error.message}") from error
    _check_volume(mount)
    if point.type == "bind":
        return replace(point, mode=mode, create_source=True)
    return replace(point, mode=mode or point.mode)


def parse_mount(mount: Mount) -> MountPoint:
    """``--mount``.  Errors: InvalidParameter, NotImplementedYet."""
    point = _parsed(mount, look_for_source=True)
    _check_volume(mount)
    return point


def _check_volume(mount: Mount) -> None:
    """What dockerd finds out only when it makes the volume.

    An unknown driver is a bad request here: a create that answers "not found" makes clients pull the image.
    """
    if mount.type != "volume":
        return
    options = mount.volume_options
    driver = options.driver_config.name if options is not None and options.driver_config is not None else ""
    if driver not in ("", "local"):
        raise InvalidParameter(
            f'create {mount.source}: error looking up volume plugin {driver}: plugin "{driver}" not found'
        )
    if mount.source:
        check_volume_name(mount.source)


def _refused(mount: Mount, reason: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{mount.type}": {reason}')


def _check_path(mount: Mount, path: str) -> None:
    if not path.startswith("/"):
        raise _refused(mount, f"invalid mount path: '{path}' mount path must be absolute")


def _parsed(mount: Mount, *, look_for_source: bool) -> MountPoint:
    for kind, given in (
        ("bind", mount.bind_options),
        ("volume", mount.volume_options),
        ("image", mount.image_options),
        ("tmpfs", mount.tmpfs_options),
    ):
        if given is not None and mount.type != kind:
            raise _refused(mount, f"field {kind.capitalize()}Options must not be specified")
    if not mount.target:
        raise _refused(mount, "field Target must not be empty")
    if os.path.normpath(mount.target.replace("\\", "/")) in ("/", "//"):
        raise _refused(mount, "invalid specification: destination can't be '/'")
    _check_path(mount, mount.target)
    target = paths.clean(mount.target)
    if target == "/":
        raise _refused(mount, "invalid specification: destination can't be '/'")
    match mount.type:
        case "bind":
            return _bind(mount, target, look_for_source)
        case "volume":
            return _volume(mount, target)
        case "tmpfs":
            return _tmpfs(mount, target)
        case "image":
            return _image(mount, target)
        case "cluster" | "npipe":
            raise NotImplementedYet(f'invalid mount config for type "{mount.type}": it is not supported yet')
    raise _refused(mount, "mount type unknown")


def _bind(mount: Mount, target: str, look_for_source: bool) -> MountPoint:
    options = mount.bind_options or BindOptions()
    if not mount.source:
        raise _refused(mount, "field Source must not be empty")
    if options.propagation and options.propagation not in PROPAGATIONS:
        raise _refused(mount, f"invalid propagation mode: {options.propagation}")
    _check_path(mount, mount.source)
    if look_for_source and not options.create_mountpoint and not os.path.exists(mount.source):
        raise _refused(mount, f"bind source path does not exist: {mount.source}")
    if not mount.read_only and options.read_only_non_recursive:
        raise InvalidParameter("mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive")
    if not mount.read_only and options.read_only_force_recursive:
        raise InvalidParameter("mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive")
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise InvalidParameter("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    return MountPoint(
        type="bind",
        source=paths.clean(mount.source),
        destination=target,
        rw=not mount.read_only,
        propagation=options.propagation or DEFAULT_PROPAGATION,
        implied_propagation=not options.propagation,
        create_source=options.create_mountpoint,
        non_recursive=options.non_recursive,
        shallow_read_only=options.read_only_non_recursive,
        idmap=options.id_map,
    )


def _volume(mount: Mount, target: str) -> MountPoint:
    options = mount.volume_options or VolumeOptions()
    driver = options.driver_config or DriverConfig()
    if options.subpath:
        if not mount.source:
            raise _refused(mount, "must not set Subpath when using anonymous volumes")
        if not _is_local(options.subpath):
            raise _refused(mount, "subpath must be a relative path within the volume")
    return MountPoint(
        type="volume",
        name=mount.source or secrets.token_hex(32),
        anonymous=not mount.source,
        driver="local",
        destination=target,
        mode="z",
        rw=not mount.read_only,
        copy_up=not options.no_copy,
        subpath=os.path.normpath(options.subpath) if options.subpath else "",
        driver_options=dict(driver.options),
        labels=dict(options.labels),
    )


def _image(mount: Mount, target: str) -> MountPoint:
    """Always read-only, asked for or not: an image's files are everybody's."""
    if not mount.source:
        raise _refused(mount, "field Source must not be empty")
    subpath = mount.image_options.subpath if mount.image_options is not None else ""
    if subpath and not _is_local(subpath):
        raise _refused(mount, "subpath must be a relative path within the image")
    return MountPoint(type="image", source=mount.source, destination=target, rw=False, subpath=subpath)


def _is_local(path: str) -> bool:
    """Whether a relative path stays below where it begins, read without looking at any link."""
    clean = os.path.normpath(path)
    return not clean.startswith("/") and clean != ".." and not clean.startswith("../")


def anonymous_volume(destination: str) -> MountPoint:
    """What ``VOLUME`` asks for."""
    name = secrets.token_hex(32)
    return MountPoint(type="volume", name=name, driver="local", destination=destination, copy_up=True, anonymous=True)


def _tmpfs(mount: Mount, target: str) -> MountPoint:
    if mount.source:
        raise _refused(mount, "field Source must not be specified")
    options = mount.tmpfs_options or TmpfsOptions()
    chosen = ["ro"] if mount.read_only else []
    if options.mode:
        chosen.append(f"mode={options.mode:o}")
    if options.size_bytes < 0:
        raise _refused(mount, "size must not be negative")
    if options.size_bytes:
        chosen.append(f"size={_size(options.size_bytes)}")
    for option in options.options:
        if not 1 <= len(option) <= 2:
            raise _refused(mount, "invalid option array length")
        if option[0] not in ("exec", "noexec") or len(option) == 2:
            raise _refused(mount, f"invalid option: {'='.join(option)}")
        chosen.append(option[0])
    return MountPoint(type="tmpfs", destination=target, rw=not mount.read_only, tmpfs_options=tuple(chosen))


def _size(size_bytes: int) -> str:
    for factor, unit in _SIZE_UNITS:
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(size_bytes)


def check_tmpfs(options: str) -> list[str]:
    """The options of ``--tmpfs``, the last of each name.  Errors: InvalidParameter."""
    chosen: dict[str, str] = {}
    for option in filter(None, options.split(",")):
        name, equals, value = option.partition("=")
        if not (name in _TMPFS_VALUES and value if equals else name in _TMPFS_FLAGS):
            raise InvalidParameter(f'invalid tmpfs option ["{option}"]')
        if option != "defaults":
            chosen.pop(name, None)
            chosen[name] = option
    return list(chosen.values())

"""What the host lends to a container, taken hold of before it is cloned: the root and the sources of bind mounts.

Each path on the host is resolved once, into a detached copy of the mount (open_tree(2)) that already has its
attributes, its propagation and its id map; from then on only the descriptor counts.  Taken before the mount namespace
is cut off the host's, a copy keeps its peers, so that "shared" and "slave" mean what they say; and taken by the parent,
neither the ids of a user namespace nor a pid namespace stand in the way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import mount as kernel
from corten.runtime import idmap
from corten.runtime.mount_options import MountOptions, parse


class Sources:
    """Detached mounts: the root's, and those of bind mounts by their index in ``mounts``."""

    def __init__(self, root: int = -1, binds: dict[int, int] | None = None) -> None:
        self.root = root
        self.binds: dict[int, int] = binds or {}

    def close(self) -> None:
        for descriptor in (self.root, *self.binds.values()):
            if descriptor >= 0:
                os.close(descriptor)
        self.root = -1
        self.binds.clear()


def root_path(spec: dict[str, Any], bundle: str) -> str:
    return os.path.join(bundle, spec["root"]["path"])


def is_bind(mount: dict[str, Any], options: MountOptions) -> bool:
    return not options.remount and (options.bind or mount.get("type") == "bind")


def take(spec: dict[str, Any], bundle: str, user_namespace: Callable[[], int]) -> Sources:
    """Open all of them.

    user_namespace: a descriptor of the container's user namespace, for mounts that are to be mapped as it is
    Errors: InvalidParameter for a source that is not there, OSError.
    """
    sources = Sources()
    try:
        sources.root = _take_root(root_path(spec, bundle))
        for index, mount in enumerate(spec.get("mounts") or ()):
            options = parse(mount.get("options") or [])
            if is_bind(mount, options):
                sources.binds[index] = _take_bind(mount, options, bundle, user_namespace)
    except BaseException:
        sources.close()
        raise
    return sources


def _take_root(path: str) -> int:
    try:
        copy = kernel.clone_tree(path, recursive=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidParameter(f"root.path: {path} does not exist") from error
    try:
        # what is mounted in the container must not reach the host
        kernel.mount_setattr(copy, propagation=kernel.MS_SLAVE, recursive=True)
        kernel.mount_setattr(copy, propagation=kernel.MS_PRIVATE)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _take_bind(mount: dict[str, Any], options: MountOptions, bundle: str, user_namespace: Callable[[], int]) -> int:
    source = os.path.join(bundle, mount.get("source") or "")
    if options.data:
        raise InvalidParameter(f"mount option '{options.data[0]}' cannot be used with the bind of {source}")
    try:
        copy = kernel.clone_tree(source, recursive=options.recursive)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InvalidParameter(f"bind source path does not exist: {source}") from error
    try:
        _map_ids(copy, mount, options, user_namespace)
        apply_attributes(copy, options)
        if not options.propagation:
            # without a wish the copy must not stay in the host's peer group
            kernel.mount_setattr(copy, propagation=kernel.MS_PRIVATE, recursive=True)
        apply_propagation(copy, options)
    except BaseException:
        os.close(copy)
        raise
    return copy


def _map_ids(copy: int, mount: dict[str, Any], options: MountOptions, user_namespace: Callable[[], int]) -> None:
    """Mappings of the mount's own, or else those of the container (config.md, "uidMappings", "idmap")."""
    uid_mappings, gid_mappings = mount.get("uidMappings") or [], mount.get("gidMappings") or []
    if uid_mappings or gid_mappings:
        idmap.apply(copy, uid_mappings, gid_mappings, recursive=options.idmap_recursive)
        return
    if not options.idmap:
        return
    namespace = user_namespace()
    if namespace < 0:
        raise InvalidParameter(f"the id-mapped mount at {mount['destination']} needs uidMappings and gidMappings")
    source = mount.get("source") or mount["destination"]
    kernel.map_ids(copy, namespace, source, recursive=options.idmap_recursive)


def apply_attributes(descriptor: int, options: MountOptions) -> None:
    if options.set_recursive or options.clear_recursive:
        kernel.mount_setattr(descriptor, set_=options.set_recursive, clear=options.clear_recursive, recursive=True)
    if options.set_ or options.clear:
        kernel.mount_setattr(descriptor, set_=options.set_, clear=options.clear)


def apply_propagation(descriptor: int, options: MountOptions) -> None:
    for propagation, recursive in options.propagation:
        kernel.mount_setattr(descriptor, propagation=propagation, recursive=recursive)

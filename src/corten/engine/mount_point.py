"""One mount of a container, as the engine remembers it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from corten.errors import InvalidParameter

DEFAULT_PROPAGATION = "rprivate"
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPoint:
    """One mount.

    type:        bind, volume, tmpfs or image
    source:      on the host, of a volume its directory, of an image its name; "" for a tmpfs
    name:        of a volume
    mode:        options as given, as inspect shows them
    propagation: "" for a volume and a tmpfs;  implied_propagation: nobody asked for it
    create_source: make the absent source of a bind, as ``-v`` does
    copy_up:     fill an empty volume with what the image has there
    anonymous:   made for this container only
    subpath:     the part of the volume or image that is mounted;  attached: where on the host that part can be found
    image_id:    of an image
    non_recursive, shallow_read_only: of a bind: without what is mounted below; only its top is read-only
    idmap:       of a bind: files belong in the container to the numbers that they belong to outside
    listed:      shown among the mounts of inspect (``--tmpfs`` is not)
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    implied_propagation: bool = False
    create_source: bool = False
    copy_up: bool = False
    anonymous: bool = False
    subpath: str = ""
    attached: str = ""
    image_id: str = ""
    non_recursive: bool = False
    shallow_read_only: bool = False
    idmap: bool = False
    listed: bool = True
    tmpfs_options: tuple[str, ...] = ()
    driver_options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def host_path(self) -> str:
        """What is bound into the container."""
        return self.attached or self.source


def check_volume_name(name: str) -> None:
    """Errors: InvalidParameter in Docker's words."""
    if len(name) == 1:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _VOLUME_NAME.match(name) or len(name) > 255:
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )

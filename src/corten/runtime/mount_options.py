"""Mount options as attributes and file system options.  Source: runtime-spec config.md, "Linux mount options"."""

from __future__ import annotations

from corten.linux import mount as kernel

# option -> (attributes to set, attributes to clear)
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (kernel.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, kernel.MOUNT_ATTR_RDONLY),
    "nosuid": (kernel.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, kernel.MOUNT_ATTR_NOSUID),
    "nodev": (kernel.MOUNT_ATTR_NODEV, 0),
    "dev": (0, kernel.MOUNT_ATTR_NODEV),
    "noexec": (kernel.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, kernel.MOUNT_ATTR_NOEXEC),
    "nosymfollow": (kernel.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, kernel.MOUNT_ATTR_NOSYMFOLLOW),
    "nodiratime": (kernel.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, kernel.MOUNT_ATTR_NODIRATIME),
    "noatime": (kernel.MOUNT_ATTR_NOATIME, kernel.MOUNT_ATTR__ATIME),
    "atime": (kernel.MOUNT_ATTR_RELATIME, kernel.MOUNT_ATTR__ATIME),
    "relatime": (kernel.MOUNT_ATTR_RELATIME, kernel.MOUNT_ATTR__ATIME),
    "norelatime": (kernel.MOUNT_ATTR_STRICTATIME, kernel.MOUNT_ATTR__ATIME),
    "strictatime": (kernel.MOUNT_ATTR_STRICTATIME, kernel.MOUNT_ATTR__ATIME),
    "nostrictatime": (kernel.MOUNT_ATTR_RELATIME, kernel.MOUNT_ATTR__ATIME),
}
_PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (kernel.MS_PRIVATE, False),
    "rprivate": (kernel.MS_PRIVATE, True),
    "shared": (kernel.MS_SHARED, False),
    "rshared": (kernel.MS_SHARED, True),
    "slave": (kernel.MS_SLAVE, False),
    "rslave": (kernel.MS_SLAVE, True),
    "unbindable": (kernel.MS_UNBINDABLE, False),
    "runbindable": (kernel.MS_UNBINDABLE, True),
}
# flags of the superblock, which fsconfig takes by name; None: the default, nothing to say
_SUPERBLOCK: dict[str, str | None] = {
    "sync": "sync", "async": None, "dirsync": "dirsync", "mand": "mand", "nomand": None, "lazytime": "lazytime",
    "nolazytime": None, "iversion": "iversion", "noiversion": None, "silent": "silent", "loud": None, "defaults": None,
}  # fmt: skip


class MountOptions:
    """The options of one mount, sorted by what they act on."""

    def __init__(self) -> None:
        self.bind = False
        self.recursive = False
        self.remount = False
        self.set_ = 0
        self.clear = 0
        self.set_recursive = 0
        self.clear_recursive = 0
        self.propagation: list[tuple[int, bool]] = []
        self.copy_up = False
        self.idmap = False
        self.idmap_recursive = False
        self.data: list[str] = []


def parse(options: list[str]) -> MountOptions:
    """Sort the options; what is none of the specification's is the file system's own."""
    parsed = MountOptions()
    for option in options:
        if option in ("bind", "rbind"):
            parsed.bind, parsed.recursive = True, option == "rbind"
        elif option == "remount":
            parsed.remount = True
        elif option == "tmpcopyup":
            parsed.copy_up = True
        elif option in ("idmap", "ridmap"):
            parsed.idmap, parsed.idmap_recursive = True, option == "ridmap"
        elif option in _PROPAGATION:
            parsed.propagation.append(_PROPAGATION[option])
        elif option in _SUPERBLOCK:
            name = _SUPERBLOCK[option]
            if name:
                parsed.data.append(name)
        elif option in _ATTRIBUTES:
            set_, clear = _ATTRIBUTES[option]
            parsed.set_, parsed.clear = (parsed.set_ & ~clear) | set_, (parsed.clear & ~set_) | clear
        elif option.startswith("r") and option[1:] in _ATTRIBUTES:
            set_, clear = _ATTRIBUTES[option[1:]]
            parsed.set_recursive = (parsed.set_recursive & ~clear) | set_
            parsed.clear_recursive = (parsed.clear_recursive & ~set_) | clear
        else:
            parsed.data.append(option)
    return parsed


def names() -> list[str]:
    """All options of the specification that are understood, sorted."""
    recursive = (f"r{name}" for name in _ATTRIBUTES)
    special = ("bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap")
    return sorted({*_ATTRIBUTES, *recursive, *_PROPAGATION, *_SUPERBLOCK, *special})

"""What the ``host`` image hides of the machine, as an overlay layer: opaque directories and whiteouts, no content.

A hidden directory stays as an empty one with its owner and mode, a hidden file is gone.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from corten.image.extract import OVERLAY_XATTRS
from corten.image.layer_apply import opaque_attribute
from corten.linux import user_namespace
from corten.linux.user_namespace import Rights

# private to the machine's users and services; patterns as in glob(7)
HIDDEN = (
    "/root",
    "/home",
    "/run",
    "/tmp",
    "/var/tmp",
    "/var/mail",
    "/var/spool/mail",
    "/var/spool/cron",
    "/etc/shadow*",
    "/etc/gshadow*",
    "/etc/security/opasswd*",
    "/etc/ssh/ssh_host_*",
    "/etc/ssl/private",
    "/etc/krb5.keytab",
    "/etc/wireguard",
    "/etc/NetworkManager/system-connections",
    "/etc/docker",
    "/etc/containers",
    "/etc/kubernetes",
    "/etc/rancher",
    "/var/lib/corten",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/lib/etcd",
    "/var/lib/sss",
    "/var/lib/private",
)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A path that is there and will be hidden; owner and mode are those of a directory that stays, else 0."""

    path: str
    directory: bool
    mode: int
    uid: int
    gid: int


def find(private: Iterable[str], root: str = "/") -> list[Hidden]:
    """What there is to hide on this machine: ``HIDDEN`` and the places in ``private`` (data root, exec root).

    root: only for tests
    """
    found: dict[str, Hidden] = {}
    base = root.rstrip("/")
    patterns = list(HIDDEN) + [os.path.realpath(path).removeprefix(base) for path in private]
    for pattern in patterns:
        for place in sorted(glob.glob(base + pattern, include_hidden=True)) if "*" in pattern else [base + pattern]:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                # the place itself, wherever links above it lead: /var/mail may stand for /var/spool/mail
                real = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))
                status = os.lstat(real)
                directory = stat.S_ISDIR(status.st_mode)
                if stat.S_ISLNK(status.st_mode):
                    continue  # a link shows nothing by itself
                path = real.removeprefix(base)
                owner = (stat.S_IMODE(status.st_mode), *user_namespace.owner(status)) if directory else (0, 0, 0)
                found[path] = Hidden(path, directory, *owner)
    # what lies below a hidden directory is hidden with it
    return [item for path, item in sorted(found.items()) if not any(_inside(path, other) for other in found)]


def _inside(path: str, directory: str) -> bool:
    return path.startswith(directory + "/")


def fingerprint(hidden: list[Hidden]) -> str:
    """A name for this mask: the same list on the same machine gives the same."""
    text = "\n".join(f"{item.path}\0{item.directory}\0{item.mode:o}\0{item.uid}\0{item.gid}" for item in hidden)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def write(target: Path, hidden: list[Hidden], root: str, rights: Rights) -> None:
    """Fill ``target``, an empty layer directory.  Errors: OSError."""
    base = root.rstrip("/")
    opaque = opaque_attribute(rights)
    _copy_owner(base or "/", str(target), rights)
    for item in hidden:
        place = str(target)
        for part in item.path.strip("/").split("/")[:-1]:
            place = f"{place}/{part}"
            if not os.path.lexists(place):
                os.mkdir(place, 0o700)
                _copy_owner(base + place.removeprefix(str(target)), place, rights)
        place = str(target) + item.path
        if not item.directory:
            os.mknod(place, stat.S_IFCHR | 0o600, 0)
            continue
        os.mkdir(place, 0o700)
        if rights.owners:
            os.chown(place, item.uid, item.gid)
        os.chmod(place, item.mode)
        os.setxattr(place, opaque, b"y")


def _copy_owner(source: str, target: str, rights: Rights) -> None:
    """Owner, mode, attributes and times of a directory that stays visible."""
    status = os.stat(source)
    if rights.owners:
        os.chown(target, *user_namespace.owner(status))
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not os.fsencode(name).startswith(OVERLAY_XATTRS):
            with contextlib.suppress(OSError):
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

"""What single runtimes take amiss about a machine: hidden from them, in a mount namespace of their own."""

from __future__ import annotations

import contextlib
import os

from corten.linux import mount as mounting
from corten.linux import process as kernel

_UNIFIED = "/sys/fs/cgroup/unified"
_NETWORK_SETTINGS = "/proc/sys/net/core"


def hide_from(program: str, verb: str, network: str) -> None:
    """Called in the process that becomes a runtime.

    network: path of the network namespace in the container's spec, "" when it has none or the runtime makes it
    Errors:  OSError.
    """
    hidden = _has_both_cgroups()
    if hidden:
        _own_mounts()
        mounting.umount2(_UNIFIED, mounting.MNT_DETACH)
    if network and verb == "start" and os.path.basename(program).startswith("runsc"):
        if not hidden:
            _own_mounts()
        with contextlib.suppress(OSError):
            _hide_network_settings(network)


def _own_mounts() -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    mounting.mount("", "/", "", mounting.MS_REC | mounting.MS_PRIVATE)


def _has_both_cgroups() -> bool:
    """Where both versions of cgroups have controllers, crun does nothing at all: it sees the first version only.  The
    unified hierarchy has no limits of containers there.
    """
    try:
        with open(f"{_UNIFIED}/cgroup.controllers") as file:
            return bool(file.read().strip()) and not os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    except OSError:
        return False


def _hide_network_settings(network: str) -> None:
    """runsc up to August 2024 refuses a network namespace with net.core.rmem_default, which it takes for the machine's
    own; since Linux 6.11 each has it.  /proc/sys/net shows the namespace of who looks: it is hidden from within.
    Source: github.com/google/gvisor issue 10704.
    """
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    wanted = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
    kernel.setns(wanted, kernel.CLONE_NEWNET)
    try:
        mounting.mount("tmpfs", _NETWORK_SETTINGS, "tmpfs", mounting.MS_RDONLY)
    finally:
        kernel.setns(own, kernel.CLONE_NEWNET)
        os.close(own)
        os.close(wanted)

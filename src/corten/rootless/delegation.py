"""Control groups of an ordinary user: a version 2 group that is delegated to it, from which containers get theirs.

A daemon that was started in such a group by itself (``systemd-run --user --scope -p Delegate=yes``, a service with
``Delegate=yes``) uses it; any other asks the user's systemd for a scope.  Sources: cgroup-v2.rst, "Delegation";
systemd.resource-control(5), ``Delegate=``; org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from corten.linux import mount as mounting
from corten.linux import mounts
from corten.linux.dbus import CallFailed, Connection

logger = logging.getLogger(__name__)

# processes may not live in a group that passes controllers on ("No Internal Process Constraint")
LEAF = "daemon"
_PLACE = "/sys/fs/cgroup"
_NAME, _OBJECT, _MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
# a manager that has just started has other things to do first
_WAIT_S = 30.0


def obtain() -> str:
    """The directory of a delegated group in which this process is alone; "" when there is none to be had."""
    try:
        group = _own_group()
        if group and not _is_ours(group) and _ask_systemd():
            group = _own_group()
        return group if group and _is_ours(group) else ""
    except (OSError, CallFailed) as error:
        logger.warning("no control groups are delegated: containers have no limits: %s", error)
        return ""


def _own_group() -> str:
    """The directory of the version 2 group that this process is in."""
    with open("/proc/self/cgroup") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), "")
    place = next((entry.target for entry in mounts.read() if entry.kind == "cgroup2" and entry.root == "/"), "")
    return place + path.rstrip("/") if place and path not in ("", "/") else ""


def _is_ours(group: str) -> bool:
    files = ("", "/cgroup.procs", "/cgroup.subtree_control")
    if not all(os.access(group + name, os.W_OK) for name in files):
        return False
    # what else lives there is not ours to move away
    return Path(group, "cgroup.procs").read_text().split() == [str(os.getpid())]


def _ask_systemd() -> bool:
    """A scope of this process's own; whether there is a user's systemd that gives it.  Errors: OSError, CallFailed."""
    private = f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/systemd/private"
    if not os.path.exists(private):
        return False
    settings = [
        ("Description", ("s", "Corten containers")),
        ("PIDs", ("au", [os.getpid()])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    unit = f"corten-{os.getpid()}.scope"
    with Connection(private, timeout_s=_WAIT_S) as connection:
        connection.call(_NAME, _OBJECT, _MANAGER, "Subscribe")
        (job,) = connection.call(
            _NAME, _OBJECT, _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", settings, []
        )
        ended = connection.wait_for_signal(_MANAGER, "JobRemoved", lambda values: values[1] == job)
    return bool(ended[3] == "done")


def settle(group: str) -> None:
    """In new user, mount and cgroup namespaces whose root the group is: show it, and leave it for a leaf of its own.

    Errors: OSError.
    """
    leaf = Path(group, LEAF)
    leaf.mkdir(exist_ok=True)
    for pid in Path(group, "cgroup.procs").read_text().split():
        (leaf / "cgroup.procs").write_text(pid)
    view = mounting.new_filesystem("cgroup2", "cgroup", [])
    try:
        place = os.open(_PLACE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mounting.move_mount(view, place)
        finally:
            os.close(place)
    finally:
        os.close(view)


def join(group: str) -> None:
    """A daemon that comes later moves where the one before was: from elsewhere it could not fill containers' groups."""
    try:
        Path(group, LEAF, "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        logger.warning("containers cannot be started with control groups by this daemon: %s", error)

"""Checkpoints by criu: which command lines, and what of a container lies outside of it.

What criu cannot find inside is named to it by keys: mounts of the host's files, the control groups, the network
namespace, the standard streams.  Keys are numbers of ours, and what they stand for at a restore is found in the
specification, never by a path inside the container (CVE-2026-119101).

Sources: criu(8); criu.org, "External bind mounts", "Inheriting FDs on restore"; runc-checkpoint(8), runc-restore(8).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import stat
import subprocess
from dataclasses import asdict, dataclass
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as mounting
from corten.linux import mounts
from corten.linux import process as kernel
from corten.runtime import resctrl
from corten.runtime.oci import restored

NOTE = "corten.json"  # beside criu's images
_NETWORK = "extRootNetNS"
_NULL = os.makedev(1, 3)
_PROGRAM = "criu"
_LAST_LINES = 5
_MOST = 10_000  # of each kind that a note may name
_LONGEST_NOTE = 1 << 20


@dataclass(slots=True)
class Outside:
    """What a checkpoint has left outside, in the order of the keys.

    binds:   index in ``mounts`` of config.json, for each key "bind<n>"
    nulls:   how many paths are masked by the null device: keys "null<n>"
    groups:  name below /sys/fs/cgroup, for each key "group<n>"
    streams: criu's name of what each standard stream was, "" for what is inside
    network: whether the network namespace was made by others
    """

    binds: list[int]
    nulls: int
    groups: list[str]
    streams: list[str]
    network: bool

    def save(self, directory: str) -> None:
        with open(f"{directory}/{NOTE}", "w") as file:
            json.dump(asdict(self), file)

    @classmethod
    def load(cls, directory: str) -> Outside:
        """Errors: InvalidParameter for what is no checkpoint of ours."""
        try:
            made = cls(**json.loads(_regular(f"{directory}/{NOTE}")))
            made.check()
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InvalidParameter(f"{directory} holds no checkpoint of corten-oci: {error}") from error
        return made

    def check(self) -> None:
        """Errors: ValueError."""
        if not _all(self.binds, int) or any(index < 0 for index in self.binds):
            raise ValueError("its mounts are none")
        if type(self.nulls) is not int or not 0 <= self.nulls <= _MOST:
            raise ValueError("its masks are none")
        if not _all(self.groups, str) or any("/" in name or name in (".", "..") for name in self.groups):
            raise ValueError("its names of control groups are none")
        if not _all(self.streams, str) or len(self.streams) != 3 or type(self.network) is not bool:
            raise ValueError("its streams are none")


def _all(values: Any, kind: type) -> bool:
    return type(values) is list and len(values) <= _MOST and all(type(value) is kind for value in values)


def _regular(path: str) -> bytes:
    """A short regular file, and nothing that would block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("its note is no file")
        return os.read(descriptor, _LONGEST_NOTE)
    finally:
        os.close(descriptor)


def arguments(command: argparse.ArgumentParser) -> None:
    """Those of checkpoint and restore."""
    command.add_argument("--image-path", default="checkpoint", metavar="DIR", help="of the checkpoint")
    command.add_argument("--work-path", default="", metavar="DIR", help="of criu's logs (default: the image path)")
    command.add_argument("--tcp-established", action="store_true", help="with open TCP connections")
    command.add_argument("--ext-unix-sk", action="store_true", help="with unix sockets whose other end is outside")
    command.add_argument("--file-locks", action="store_true", help="with locks of files")


def program() -> str:
    """Errors: SystemFailure when criu is not installed."""
    found = shutil.which(_PROGRAM)
    if found is None:
        raise SystemFailure("checkpoints need the program criu, which is not installed", step="criu")
    return found


def check(spec: dict[str, Any]) -> None:
    """Errors: InvalidParameter for a container that cannot be checkpointed."""
    if (spec.get("process") or {}).get("terminal"):
        raise InvalidParameter("a container with a terminal cannot be checkpointed: its other end is somebody else's")
    for entry in (spec.get("linux") or {}).get("namespaces") or ():
        if entry["type"] == "user":
            raise InvalidParameter("a container with a user namespace cannot be checkpointed")
        if entry.get("path") and entry["type"] != "network":
            raise InvalidParameter(f"a container that joins a {entry['type']} namespace cannot be checkpointed")


# -- dump -------------------------------------------------------------------------------------------------------------


def dump(options: argparse.Namespace, pid: int, spec: dict[str, Any]) -> None:
    """Write a checkpoint of the tree below ``pid``, which is gone afterwards unless it is to run on.

    Errors: InvalidParameter, SystemFailure with criu's last words.
    """
    check(spec)
    os.makedirs(options.image_path, mode=0o700, exist_ok=True)
    outside, words = _survey(pid, spec)
    command = [program(), "dump", "--tree", str(pid), *common(options, "dump.log"), *words]
    if options.leave_running:
        command.append("--leave-running")
    if options.tcp_skip_in_flight:
        command.append("--skip-in-flight")
    if options.link_remap:
        command.append("--link-remap")
    outside.save(options.image_path)
    run(command, f"{_work(options)}/dump.log", ())


def common(options: argparse.Namespace, log: str) -> list[str]:
    words = ["--images-dir", options.image_path, "--work-dir", _work(options), "--log-file", log, "-v2"]
    words += ["--manage-cgroups=ignore"]  # the group is made and joined by us
    for name in ("tcp_established", "ext_unix_sk", "file_locks"):
        if getattr(options, name):
            words.append(f"--{name.replace('_', '-')}")
    return words


def _work(options: argparse.Namespace) -> str:
    directory: str = options.work_path or options.image_path
    os.makedirs(directory, mode=0o700, exist_ok=True)
    return directory


def _survey(pid: int, spec: dict[str, Any]) -> tuple[Outside, list[str]]:
    """What is outside, and the options that name it."""
    outside = Outside([], 0, [], [], network=_joined_network(spec) != "")
    words: list[str] = []
    sources = {_identity(mount["source"]): index for index, mount in _binds(spec)}
    for entry in mounts.read(str(pid))[1:]:
        found = _inside(pid, entry.target)
        key = ""
        if found is not None and stat.S_ISCHR(found.st_mode) and found.st_rdev == _NULL and entry.kind != "tmpfs":
            key = f"null{outside.nulls}"
            outside.nulls += 1
        elif entry.kind in ("cgroup", "cgroup2"):
            key = f"group{len(outside.groups)}"
            outside.groups.append(os.path.basename(entry.target) if entry.kind == "cgroup" else "")
        elif found is not None and (found.st_dev, found.st_ino) in sources:
            key = f"bind{len(outside.binds)}"
            outside.binds.append(sources[found.st_dev, found.st_ino])
        if key:
            words += ["--external", f"mnt[{entry.target}]:{key}"]
    for number in range(3):
        name = _stream(pid, number)
        outside.streams.append(name)
        if name.startswith("file["):
            words += ["--external", name]
    if outside.network:
        inode = os.stat(f"/proc/{pid}/ns/net").st_ino
        words += ["--external", f"net[{inode}]:{_NETWORK}"]
    return outside, words


def _binds(spec: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for index, mount in enumerate(spec.get("mounts") or ()):
        options = mount.get("options") or ()
        if mount.get("type") == "bind" or "bind" in options or "rbind" in options:
            found.append((index, mount))
    return found


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _inside(pid: int, target: str) -> os.stat_result | None:
    """What is mounted there, as the container sees it."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}/root{target}", follow_symlinks=False)
    return None


def _stream(pid: int, number: int) -> str:
    """criu's name of a standard stream whose other end, or whose file, is outside."""
    try:
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        found = os.stat(f"/proc/{pid}/fd/{number}")
        with open(f"/proc/{pid}/fdinfo/{number}") as file:
            fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
    except OSError:
        return ""
    if target.startswith("pipe:"):
        return target
    mount_id = int(fields["mnt_id"])
    if any(entry.mount_id == mount_id for entry in mounts.read(str(pid))):
        return ""
    return f"file[{mount_id:x}:{found.st_ino:x}]"


def _joined_network(spec: dict[str, Any]) -> str:
    entries = (spec.get("linux") or {}).get("namespaces") or ()
    return next((entry.get("path") or "" for entry in entries if entry["type"] == "network"), "")


# -- restore ----------------------------------------------------------------------------------------------------------


def restore(
    options: argparse.Namespace,
    spec: dict[str, Any],
    root: str,
    cgroup: Cgroup,
    directory: str,
    share: resctrl.Group | None,
) -> int:
    """Let the tree of a checkpoint live again; the pid of its first process, which is our child.

    root:      the container's root file system
    directory: of the container's state, where its root is attached for criu
    share:     the class of cache and memory bandwidth to live in
    Errors:    InvalidParameter, SystemFailure; the control group holds what has come to life then.
    """
    check(spec)
    outside = Outside.load(options.image_path)
    pid_file = f"{directory}/restored.pid"
    point = f"{directory}/root"
    command = [program(), "restore", *common(options, "restore.log"), "--root", point, "--pidfile", pid_file]
    command += ["--restore-detached", "--restore-sibling", "--leave-stopped"]
    kept: list[int] = []
    try:
        command += _externals(outside, spec, cgroup, kept)
        os.mkdir(point, 0o700)
        run(command, f"{_work(options)}/restore.log", tuple(kept), lambda: _attach(root, point, cgroup, spec, share))
        pids = cgroup.pids()
        restored.check(pids, spec, root, [mount["source"] for _, mount in _binds(spec)])
        restored.go_on(pids)
        with open(pid_file) as file:
            return int(file.read())
    finally:
        for descriptor in kept:
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.rmdir(point)
        with contextlib.suppress(OSError):
            os.unlink(pid_file)


def _externals(outside: Outside, spec: dict[str, Any], cgroup: Cgroup, kept: list[int]) -> list[str]:
    """The options that say what the keys stand for now; descriptors that criu inherits go to ``kept``."""
    binds = dict(_binds(spec))
    words: list[str] = []
    for number, index in enumerate(outside.binds):
        if index not in binds:
            raise InvalidParameter(f"the checkpoint has a mount that config.json does not have: mounts[{index}]")
        words += ["--external", f"mnt[bind{number}]:{binds[index]['source']}"]
    for number in range(outside.nulls):
        words += ["--external", f"mnt[null{number}]:/dev/null"]
    for number, name in enumerate(outside.groups):
        words += ["--external", f"mnt[group{number}]:{_group_directory(cgroup, name)}"]
    for number, name in enumerate(outside.streams):
        if name:
            words += ["--inherit-fd", f"fd[{number}]:{name}"]
    if outside.network:
        path = _joined_network(spec)
        if not path:
            raise InvalidParameter("the checkpoint's network namespace was another's: config.json names none")
        descriptor = os.open(path, os.O_RDONLY)
        kept.append(descriptor)
        words += ["--inherit-fd", f"fd[{descriptor}]:{_NETWORK}"]
    return words


def _group_directory(cgroup: Cgroup, name: str) -> str:
    """The container's group in the hierarchy whose mount point has this name; "" is version 2's."""
    for place in cgroup.hierarchies.directories(""):
        if not name or os.path.basename(place) == name:
            return place + cgroup.path
    raise InvalidParameter(f"the checkpoint has a control group hierarchy that this host lacks: {name}")


def _attach(root: str, point: str, cgroup: Cgroup, spec: dict[str, Any], share: resctrl.Group | None) -> None:
    """In criu's process: the root as a mount of a namespace of its own, the control group and the class."""
    if share is not None:
        share.join()
    kernel.unshare(kernel.CLONE_NEWNS)
    mounting.mount("", "/", "", mounting.MS_REC | mounting.MS_PRIVATE)
    mounting.mount(root, point, "", mounting.MS_BIND | mounting.MS_REC)
    cgroup.join_self()
    if any(entry["type"] == "cgroup" for entry in (spec.get("linux") or {}).get("namespaces") or ()):
        # criu leaves control groups to us: what it restores inherits the namespace, whose root is the group
        kernel.unshare(kernel.CLONE_NEWCGROUP)


# -- criu -------------------------------------------------------------------------------------------------------------


def run(command: list[str], log: str, kept: tuple[int, ...], before: Any = None) -> None:
    """Errors: SystemFailure with the errors of criu's log."""
    try:
        done = subprocess.run(command, check=False, pass_fds=kept, preexec_fn=before)
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemFailure(f"criu cannot be run: {error}", step="criu") from error
    if done.returncode:
        raise SystemFailure(f"criu {command[1]} failed: {_errors(log) or f'exit code {done.returncode}'}", step="criu")


def _errors(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            lines = [line.partition("Error")[2].strip() for line in file if " Error " in line]
    except OSError:
        return ""
    return "; ".join(lines[-_LAST_LINES:])

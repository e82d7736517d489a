"""SELinux: each container has a type that the policy confines, and two categories that no other container has.

As dockerd with ``--selinux-enabled``: the contexts come from the policy's ``lxc_contexts``, ``--security-opt label=``
changes them, and the files of a container (its root, tmpfs, what ``:z`` and ``:Z`` name) have the label that its
program may use.  Sources: selinux(8), container_selinux(8), docker-run(1), "Security Opt".
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from corten.dockerapi.container import HostConfig
from corten.engine.container import Container
from corten.engine.mount_point import MountPoint
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import selinux as kernel

FIELDS = ("user", "role", "type", "level", "filetype")
_CATEGORIES = 1024
# directories of the machine itself: with another label it would not work any more
_PROTECTED = frozenset(
    (
        *("/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64"),
        *("/media", "/opt", "/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/system", "/tmp", "/usr", "/usr/bin"),
        *("/usr/lib", "/usr/lib64", "/usr/sbin", "/usr/share", "/var", "/var/lib", "/var/log", "/var/tmp"),
    )
)


def check_field(value: str) -> None:
    """One ``label=`` of a command line.  Errors: InvalidParameter."""
    name, colon, text = value.partition(":")
    if value != "disable" and (not colon or name not in FIELDS or not text):
        raise InvalidParameter(
            f"invalid --security-opt: label={value}: 'disable', or one of {', '.join(FIELDS)}, a colon and a value"
        )


class SELinux:
    """The labels of one daemon's containers.

    enabled: containers are labelled (``--selinux-enabled``)
    etc:     where the policy's configuration is
    Errors:  SystemFailure when they cannot be.
    """

    def __init__(self, *, enabled: bool, etc: Path = Path("/etc/selinux")) -> None:
        self.enabled = enabled
        self._process = self._file = self._layers = ""
        if not enabled:
            return
        if not kernel.is_enabled():
            raise SystemFailure("--selinux-enabled: this kernel has no SELinux, or it is switched off", step="selinux")
        contexts = _contexts(etc)
        self._process, self._file, self._layers = contexts["process"], contexts["file"], contexts.get("ro_file", "")

    def label_layers(self, directory: Path) -> None:
        """Layers have the type that all containers may read and nobody may write: new ones inherit it.

        Errors: SystemFailure.
        """
        if not self._layers:
            return
        try:
            opened = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if kernel.label_of(opened) != self._layers:
                    kernel.relabel(opened, self._layers, str(directory))
            finally:
                os.close(opened)
        except OSError as error:
            raise SystemFailure(str(error.strerror or error), step="relabel", errno=error.errno or 0) from error

    def labels(
        self, host: HostConfig, wanted: Sequence[str], find: Callable[[str], Container], taken: Iterable[str]
    ) -> tuple[str, str]:
        """(label of the program, label of its files) of a new container; "" for none.

        wanted: the values of ``label=``
        find:   another container by its name
        taken:  the labels of all other programs
        Errors: InvalidParameter for a label that the policy does not know.
        """
        if not self.enabled or "disable" in wanted:
            return "", ""
        if not wanted:
            if host.privileged or "host" in (host.ipc_mode, host.pid_mode):
                return "", ""
            joined = _joined(host, find)
            if joined is not None:
                return joined.process_label, joined.mount_label
        process, file = self._process.split(":", 3), self._file.split(":", 3)
        level = _unused_level(taken)
        process[3:] = file[3:] = [level]
        for option in wanted:
            name, _, value = option.partition(":")
            if name == "filetype":
                file[2] = value
                continue
            process[FIELDS.index(name)] = value
            if name in ("user", "level"):
                file[FIELDS.index(name)] = value
        for label in (":".join(process), ":".join(file)):
            if not kernel.is_valid(label):
                raise InvalidParameter(f"invalid --security-opt: the policy does not know the label {label}")
        return ":".join(process), ":".join(file)

    def relabel_files(self, container: Container, files: Iterable[str]) -> None:
        """Before a start: the container's program may use what the engine has written for it alone.

        Errors: SystemFailure.
        """
        if container.mount_label:
            with _told_as_failure():
                for path in files:
                    _relabel(path, container.mount_label)

    def relabel_mounts(self, container: Container) -> None:
        """Before a start: the same for what is bound into it.  Trees may be large: not for the event loop.

        Errors: InvalidParameter for a directory of the machine itself, SystemFailure.
        """
        with _told_as_failure():
            for point in container.mount_points:
                self._relabel_point(point, container.mount_label)

    @staticmethod
    def _relabel_point(point: MountPoint, label: str) -> None:
        modes = point.mode.split(",")
        # volumes are the engine's own: without a label of containers nobody could use them
        shared = "z" in modes or (point.type == "volume" and "Z" not in modes)
        if point.type not in ("bind", "volume") or not (shared or "Z" in modes):
            return
        _relabel(point.host_path, _shared(label) if shared else label, of_the_machine=point.type == "bind")


@contextlib.contextmanager
def _told_as_failure() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SystemFailure(str(error.strerror or error), step="relabel", errno=error.errno or 0) from error


def _relabel(path: str, label: str, *, of_the_machine: bool = False) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        real = os.readlink(f"/proc/self/fd/{opened}")
        if of_the_machine and (real in _PROTECTED or real == os.path.realpath(Path.home())):
            raise InvalidParameter(f"SELinux relabeling of {path} is not allowed")
        kernel.relabel(opened, label, path)
    finally:
        os.close(opened)


def _contexts(etc: Path) -> dict[str, str]:
    """What the policy has for containers: process, file and others.  Errors: SystemFailure."""
    try:
        settings = _assignments(etc / "config")
        contexts = _assignments(etc / settings.get("SELINUXTYPE", "targeted") / "contexts/lxc_contexts")
        found = (contexts["process"], contexts["file"])
    except (OSError, KeyError) as error:
        raise SystemFailure(f"--selinux-enabled: the policy has no contexts for containers: {error}") from error
    for context in found:
        if context.count(":") < 3:
            raise SystemFailure(f"--selinux-enabled: the policy has no levels: {context}", step="selinux")
    return contexts


def _assignments(path: Path) -> dict[str, str]:
    found = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith("#"):
            found[name.strip()] = value.strip().strip('"')
    return found


def _joined(host: HostConfig, find: Callable[[str], Container]) -> Container | None:
    """Whose namespaces a container joins: it shares the labels too.  Errors: InvalidParameter."""
    modes = (host.ipc_mode, host.pid_mode)
    found = [find(mode.partition(":")[2]) for mode in modes if mode.startswith("container:")]
    if len({other.process_label for other in found}) > 1:
        raise InvalidParameter("--ipc and --pid containers SELinux labels aren't the same")
    return found[0] if found else None


def _unused_level(labels: Iterable[str]) -> str:
    """Two categories that nobody has together."""
    taken = {label.split(":", 3)[3] for label in labels if label.count(":") > 2}
    for _ in range(_CATEGORIES * _CATEGORIES):
        one, other = sorted((secrets.randbelow(_CATEGORIES), secrets.randbelow(_CATEGORIES)))
        level = f"s0:c{one},c{other}"
        if one != other and level not in taken:
            return level
    raise SystemFailure("all pairs of SELinux categories are taken", step="selinux")


def _shared(label: str) -> str:
    """Without categories: for every container."""
    return ":".join([*label.split(":", 3)[:3], "s0"])

"""One cgroup of a container, on version 1, version 2 or both.

``Cgroup.create`` makes the directories and sets limits; ``apply`` moves a process in; ``delete`` takes all away.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from corten.cgroup import devices
from corten.cgroup.hierarchy import Hierarchies
from corten.cgroup.knobs import KNOBS, value_at, writes
from corten.errors import InvalidParameter, SystemFailure

logger = logging.getLogger(__name__)

_DELETE_TRIES = 60
_FREEZE_TRIES = 200
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc")


class Cgroup:
    """The control group ``path`` in every hierarchy of this host."""

    def __init__(self, path: str, hierarchies: Hierarchies | None = None) -> None:
        """Errors: InvalidParameter for a path that would leave the hierarchy."""
        if ".." in path.split("/") or "\0" in path:
            raise InvalidParameter(f"invalid cgroup path '{path}': it must not contain '..'")
        self.path = os.path.normpath("/" + path.lstrip("/"))
        if self.path == "/":
            raise InvalidParameter("invalid cgroup path '/': a container needs a cgroup of its own")
        self.hierarchies = hierarchies or Hierarchies.read()
        self.warnings: list[str] = []
        self._device_program = -1

    # -- life ---------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str, resources: dict[str, Any], hierarchies: Hierarchies | None = None) -> Cgroup:
        """Make the directories and set the limits; nothing stays when a limit is refused.

        Errors: SystemFailure naming the file that refused.
        """
        cgroup = cls(path, hierarchies)
        try:
            cgroup._make()
            cgroup._set(resources, fresh=True)
        except OSError as error:
            cgroup.delete()
            raise SystemFailure(
                f"cannot set up cgroup {cgroup.path}: {error}", step="cgroup", errno=error.errno or 0
            ) from error
        except BaseException:
            cgroup.delete()
            raise
        return cgroup

    def directory(self, controller: str) -> Path | None:
        """Where a controller's files of this group are; None when the host lacks the controller."""
        if self.hierarchies.is_v2:
            return Path(self.hierarchies.unified + self.path)
        root = self.hierarchies.v1.get(controller)
        return Path(root + self.path) if root else None

    def _make(self) -> None:
        if self.hierarchies.is_v2:
            self._make_v2()
            return
        for directory in self.hierarchies.directories(self.path):
            directory.mkdir(parents=True, exist_ok=True)
        cpuset = self.directory("cpuset")
        if cpuset is not None:
            self._inherit_cpuset(cpuset)

    def _inherit_cpuset(self, directory: Path) -> None:
        """A version 1 cpuset starts empty and takes no process: copy the parent's, from the top down."""
        root = Path(self.hierarchies.v1["cpuset"])
        for level in [*reversed(directory.relative_to(root).parents), directory.relative_to(root)]:
            place = root / level
            if place == root:
                continue
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not (place / name).read_text().strip():
                    (place / name).write_text((place.parent / name).read_text())

    def _make_v2(self) -> None:
        root = Path(self.hierarchies.unified)
        place = root
        for part in self.path.strip("/").split("/"):
            self._enable_controllers(place)
            place = place / part
            place.mkdir(exist_ok=True)

    def _enable_controllers(self, place: Path) -> None:
        available = set((place / "cgroup.controllers").read_text().split())
        control = place / "cgroup.subtree_control"
        missing = [name for name in _V2_CONTROLLERS if name in available - set(control.read_text().split())]
        for name in missing:
            try:
                control.write_text(f"+{name}")
            except OSError as error:
                # EBUSY: processes live in this group itself (cgroup-v2.rst, "No Internal Process Constraint")
                self.warnings.append(
                    f"cgroup controller {name} cannot be enabled in {place}: {(error.strerror or '').lower()}"
                )

    def apply(self, pid: int) -> None:
        """Move a process in.  Errors: OSError naming the file."""
        for directory in self.hierarchies.directories(self.path):
            (directory / "cgroup.procs").write_text(str(pid))

    def join_self(self) -> None:
        """Move the calling, single-threaded process in.

        Writing 0 moves the writer without the kernel's lock over all thread groups where the kernel has that path.
        """
        for directory in self.hierarchies.directories(self.path):
            name = "cgroup.procs" if self.hierarchies.is_v2 else "tasks"
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"0")
            finally:
                os.close(descriptor)

    def open_fd(self) -> int:
        """A descriptor for clone3's CLONE_INTO_CGROUP; version 2 only, -1 otherwise."""
        if not self.hierarchies.is_v2:
            return -1
        return os.open(self.hierarchies.unified + self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def exists(self) -> bool:
        return any(directory.is_dir() for directory in self.hierarchies.directories(self.path))

    def delete(self) -> None:
        """Remove the group and the groups below it.

        The kernel frees a dead process's place a moment after its exit: bounded retries on EBUSY.
        Errors: SystemFailure when processes remain.
        """
        for directory in self.hierarchies.directories(self.path):
            for below, _, _ in os.walk(directory, topdown=False):
                _remove_directory(Path(below))

    # -- limits --------------------------------------------------------------------------------------------------------

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits of the living group.  Errors: SystemFailure naming the file that refused."""
        try:
            self._set(resources, fresh=False)
        except OSError as error:
            raise SystemFailure(
                f"cannot update cgroup {self.path}: {error}", step="cgroup", errno=error.errno or 0
            ) from error

    def _set(self, resources: dict[str, Any], *, fresh: bool) -> None:
        if self.hierarchies.is_v2:
            self._set_memory_v2(resources.get("memory") or {})
            self._set_quota_v2(resources.get("cpu") or {})
        else:
            self._set_memory_v1(resources.get("memory") or {})
            self._set_quota_v1(resources.get("cpu") or {})
        for knob in KNOBS:
            value = value_at(resources, knob.field)
            if value is not None and value != []:
                self._turn(knob.field, knob.v1, knob.v2, value, optional=knob.optional)
        rules = resources.get("devices")
        if rules is not None:
            self._set_devices(rules, fresh=fresh)

    def _turn(self, field: str, v1: Any, v2: Any, value: Any, *, optional: bool) -> None:
        if self.hierarchies.is_v2:
            directory, target = self.directory(""), v2
        else:
            controller, target = v1 if v1 is not None else ("", None)
            directory = self.directory(controller) if controller else None
        if target is None or directory is None:
            if optional:
                self.warnings.append(f"{field} is not supported by this host's cgroups: discarded")
                return
            raise InvalidParameter(f"{field} is not supported by this host's cgroups")
        for name, text in writes(target, value):
            if "/" in name or name.startswith("."):
                raise InvalidParameter(f"invalid cgroup file name '{name}'")
            try:
                _write(directory / name, text)
            except OSError as error:
                if not optional or error.errno not in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self.warnings.append(f"{field} is not supported by this kernel: discarded")

    def _set_memory_v1(self, memory: dict[str, Any]) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        if limit is None and swap is None:
            return
        directory = self.directory("memory")
        if directory is None:
            raise InvalidParameter("memory limits are not supported by this host: the memory controller is missing")
        limit_file, swap_file = directory / "memory.limit_in_bytes", directory / "memory.memsw.limit_in_bytes"
        if swap is not None and not swap_file.exists():
            if swap > 0 and limit is not None and swap != limit * 2:
                self.warnings.append("swap limits are not supported by this kernel: memory is limited without swap")
            swap = None
        # the kernel keeps limit <= limit with swap: raise the outer one first, lower it last
        present = int(limit_file.read_text())
        order = [(swap_file, swap), (limit_file, limit)]
        if limit is None or (limit != -1 and limit <= present):
            order.reverse()
        for file, value in order:
            if value is not None:
                try:
                    _write(file, str(value))
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        used = (directory / "memory.usage_in_bytes").read_text().strip()
                        raise InvalidParameter(
                            f"cannot set memory limit to {value} bytes: {used} bytes are in use"
                        ) from error
                    raise

    def _set_memory_v2(self, memory: dict[str, Any]) -> None:
        limit, swap = memory.get("limit"), memory.get("swap")
        directory = Path(self.hierarchies.unified + self.path)
        if swap is not None and swap != 0:
            if swap > 0 and limit is None:
                raise InvalidParameter("a swap limit needs a memory limit")
            text = "max" if swap < 0 else str(swap - (limit or 0))
            if (directory / "memory.swap.max").exists():
                _write(directory / "memory.swap.max", text)
            elif swap > 0 and limit is not None and swap != limit * 2:
                self.warnings.append("swap limits are not supported by this kernel: memory is limited without swap")
        if limit is not None:
            _write(directory / "memory.max", "max" if limit < 0 else str(limit))

    def _set_quota_v1(self, cpu: dict[str, Any]) -> None:
        directory = self.directory("cpu")
        if directory is None or (cpu.get("quota") is None and cpu.get("period") is None):
            return
        if cpu.get("period"):
            try:
                _write(directory / "cpu.cfs_period_us", str(cpu["period"]))
            except OSError as error:
                # a longer period with the old quota can break the parent's bound: quota first then
                if error.errno != errno.EINVAL or not cpu.get("quota"):
                    raise
                _write(directory / "cpu.cfs_quota_us", str(cpu["quota"]))
                _write(directory / "cpu.cfs_period_us", str(cpu["period"]))
        if cpu.get("quota"):
            _write(directory / "cpu.cfs_quota_us", str(cpu["quota"]))

    def _set_quota_v2(self, cpu: dict[str, Any]) -> None:
        quota, period = cpu.get("quota"), cpu.get("period")
        if quota is None and period is None:
            return
        file = Path(self.hierarchies.unified + self.path) / "cpu.max"
        present_quota, _, present_period = file.read_text().strip().partition(" ")
        quota_text = present_quota if quota is None else ("max" if quota <= 0 else str(quota))
        _write(file, f"{quota_text} {period or present_period}")

    def _set_devices(self, rules: list[dict[str, Any]], *, fresh: bool) -> None:
        if self.hierarchies.is_v2:
            devices.attach_program(self.hierarchies.unified + self.path, rules)
            return
        directory = self.directory("devices")
        if directory is None:
            self.warnings.append("the devices controller is missing: device rules are not enforced")
            return
        for name, text in devices.v1_writes(rules):
            _write(directory / name, text)

    # -- processes -----------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """All processes in this group and below."""
        directory = self._reference_directory()
        if directory is None:
            return []
        found: list[int] = []
        for below, _, _ in os.walk(directory):
            with contextlib.suppress(FileNotFoundError, OSError):
                found += [int(line) for line in Path(below, "cgroup.procs").read_text().split()]
        return sorted(set(found))

    def _reference_directory(self) -> Path | None:
        for controller in ("pids", "memory", "freezer", "cpu", "devices"):
            directory = self.directory(controller)
            if directory is not None:
                return directory
        return None

    def freeze(self) -> None:
        """Stop every process of the group.  Errors: SystemFailure when the kernel does not get there."""
        if self.hierarchies.is_v2:
            self._set_frozen_v2(True)
            return
        directory = self._freezer()
        for _ in range(_FREEZE_TRIES):
            _write(directory / "freezer.state", "FROZEN")
            if (directory / "freezer.state").read_text().strip() == "FROZEN":
                return
            time.sleep(0.002)  # v1 has no notification; a fork in flight delays it
        _write(directory / "freezer.state", "THAWED")
        raise SystemFailure(f"cannot freeze cgroup {self.path}: it does not come to rest", step="freeze")

    def thaw(self) -> None:
        if self.hierarchies.is_v2:
            self._set_frozen_v2(False)
        else:
            _write(self._freezer() / "freezer.state", "THAWED")

    def _freezer(self) -> Path:
        directory = self.directory("freezer")
        if directory is None:
            raise SystemFailure("cannot pause: the freezer controller is missing on this host", step="freeze")
        return directory

    def _set_frozen_v2(self, frozen: bool) -> None:
        directory = Path(self.hierarchies.unified + self.path)
        _write(directory / "cgroup.freeze", "1" if frozen else "0")
        wanted = f"frozen {int(frozen)}"
        for _ in range(_FREEZE_TRIES):
            if wanted in (directory / "cgroup.events").read_text():
                return
            time.sleep(0.002)
        raise SystemFailure(f"cannot {'freeze' if frozen else 'thaw'} cgroup {self.path}", step="freeze")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to every process; with SIGKILL nothing escapes by forking."""
        if self.hierarchies.is_v2 and number == signal.SIGKILL:
            file = Path(self.hierarchies.unified + self.path) / "cgroup.kill"
            if file.exists():
                file.write_text("1")
                return
        for _ in range(50):
            pids = self.pids()
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number != signal.SIGKILL:
                return
            time.sleep(0.002)

    def oom_kills(self) -> int:
        """How many processes of the group the kernel has killed for want of memory."""
        if self.hierarchies.is_v2:
            return _keyed(Path(self.hierarchies.unified + self.path) / "memory.events").get("oom_kill", 0)
        directory = self.directory("memory")
        return _keyed(directory / "memory.oom_control").get("oom_kill", 0) if directory else 0


def _keyed(file: Path) -> dict[str, int]:
    try:
        return {
            key: int(value)
            for key, _, value in (line.partition(" ") for line in file.read_text().splitlines())
            if value
        }
    except (OSError, ValueError):
        return {}


def _write(file: Path, text: str) -> None:
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, f"write {text!r}: {(error.strerror or '').lower()}", str(file)) from error


def _remove_directory(directory: Path) -> None:
    for attempt in range(_DELETE_TRIES):
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == _DELETE_TRIES - 1:
                raise SystemFailure(
                    f"cannot remove cgroup {directory}: {(error.strerror or '').lower()}",
                    step="cgroup",
                    errno=error.errno or 0,
                ) from error
            time.sleep(min(0.001 * (attempt + 1), 0.05))

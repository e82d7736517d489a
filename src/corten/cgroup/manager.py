"""One cgroup of a container, on version 1, version 2 or both.

``Cgroup.create`` makes the directories and sets limits; ``apply`` moves a process in; ``delete`` takes all away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time

from corten.cgroup.hierarchy import Hierarchies
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import user_namespace
from corten.linux.files import read_text, write_knob, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cgroup.systemd import Placeholder

_DELETE_TRIES = 60
_FREEZE_TRIES = 200
_FREEZE_S = 10
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
        self.hierarchies = hierarchies or Hierarchies.here()
        self.warnings: list[str] = []
        self.placeholder: Placeholder | None = None  # of a new scope of systemd's
        self._refused: dict[str, str] = {}  # controller -> why it is not passed down to this group

    # -- life ---------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str, resources: dict[str, Any], hierarchies: Hierarchies | None = None) -> Cgroup:
        """Make the directories and set the limits; nothing stays when a limit is refused.

        Errors: SystemFailure naming the file that refused.
        """
        from corten.cgroup.limits import set_limits  # whoever only looks needs no table of knobs

        cgroup = cls(path, hierarchies)
        try:
            cgroup._make()
            set_limits(cgroup, resources)
        except OSError as error:
            cgroup.delete()
            raise cgroup._failure("set up", error) from error
        except BaseException:
            cgroup.delete()
            raise
        return cgroup

    def directory(self, controller: str) -> str | None:
        """Where a controller's files of this group are; None when the host lacks the controller."""
        if self.hierarchies.is_v2:
            return self.hierarchies.unified + self.path
        root = self.hierarchies.v1.get(controller)
        return root + self.path if root else None

    def _make(self) -> None:
        if self.hierarchies.is_v2:
            self._make_v2()
            return
        for place in self.hierarchies.directories(self.path):
            try:
                os.mkdir(place)
            except FileExistsError:
                pass
            except FileNotFoundError:
                os.makedirs(place, exist_ok=True)
        cpuset = self.hierarchies.v1.get("cpuset")
        if cpuset:
            for name in ("cpuset.cpus", "cpuset.mems"):
                _inherit(cpuset, self.path, name)

    def _make_v2(self) -> None:
        place = self.hierarchies.unified
        for part in self.path.strip("/").split("/"):
            self._enable_controllers(place)
            place = f"{place}/{part}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(place)
        self._pass_nothing_down(place)

    def _pass_nothing_down(self, place: str) -> None:
        """A group that was somebody's parent takes processes again when the groups below it are gone."""
        control = f"{place}/cgroup.subtree_control"
        enabled = read_text(control).split()
        if enabled:
            with contextlib.suppress(OSError):
                write_text(control, " ".join(f"-{name}" for name in enabled))

    def _enable_controllers(self, place: str) -> None:
        """Pass the controllers of a group down to the groups below it; one that cannot is remembered."""
        available = set(read_text(f"{place}/cgroup.controllers").split())
        control = f"{place}/cgroup.subtree_control"
        missing = [name for name in _V2_CONTROLLERS if name in available - set(read_text(control).split())]
        if not missing:
            return
        try:
            write_text(control, " ".join(f"+{name}" for name in missing))
            return
        except OSError as error:
            if error.errno == errno.EBUSY and read_text(f"{place}/cgroup.procs"):
                # cgroup-v2.rst, "No Internal Process Constraint".  Some controllers could be enabled by themselves, but
                # then the group is a threaded domain, and those below it take no process at all
                why = f"processes live in {place} itself: move them into a group below it"
                self._refused.update(dict.fromkeys(missing, why))
                return
        # all or nothing is the kernel's rule for one write: find out which it is
        for name in missing:
            try:
                write_text(control, f"+{name}")
            except OSError as error:
                self._refused[name] = f"{control}: {(error.strerror or '').lower()}"

    def apply(self, pid: int) -> None:
        """Move a process in.  Errors: OSError naming the file."""
        for directory in self.hierarchies.directories(self.path):
            write_text(f"{directory}/cgroup.procs", str(pid))

    def join_self(self) -> None:
        """Move the calling, single-threaded process in.

        Writing 0 moves the writer without the kernel's lock over all thread groups where the kernel has that path.
        """
        name = "cgroup.procs" if self.hierarchies.is_v2 else "tasks"
        for place in self.hierarchies.directories(self.path):
            descriptor = os.open(f"{place}/{name}", os.O_WRONLY | os.O_CLOEXEC)
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
        return any(map(os.path.isdir, self.hierarchies.directories(self.path)))

    def delete(self) -> None:
        """Remove the group and the groups below it.

        The kernel frees a dead process's place a moment after its exit: bounded retries on EBUSY.
        Errors: SystemFailure when processes remain.
        """
        for place in self.hierarchies.directories(self.path):
            try:
                os.rmdir(place)
            except FileNotFoundError:
                continue
            except OSError:
                # in use, or not without groups below
                for below, _, _ in os.walk(place, topdown=False):
                    _remove_directory(below)

    # -- limits --------------------------------------------------------------------------------------------------------

    def update(self, resources: dict[str, Any]) -> None:
        """Change limits of the living group.  Errors: SystemFailure naming the file that refused."""
        from corten.cgroup.limits import set_limits

        try:
            set_limits(self, resources)
        except OSError as error:
            raise self._failure("update", error) from error

    def _failure(self, what: str, error: OSError) -> SystemFailure:
        text = f"cannot {what} cgroup {self.path}: {error}"
        if error.errno == errno.ENOENT:
            controller = os.path.basename(str(error.filename or "")).partition(".")[0]
            if controller in self._refused:
                text += f" (the controller {controller} is not enabled: {self._refused[controller]})"
        return SystemFailure(text, step="cgroup", errno=error.errno or 0)

    # -- processes -----------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """All processes in this group and below."""
        directory = self._reference_directory()
        if directory is None:
            return []
        found: list[int] = []
        for below, _, _ in os.walk(directory):
            with contextlib.suppress(FileNotFoundError, OSError):
                found += [int(line) for line in read_text(f"{below}/cgroup.procs").split()]
        return sorted(set(found))

    def _reference_directory(self) -> str | None:
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
        state = f"{self._freezer()}/freezer.state"
        for _ in range(_FREEZE_TRIES):
            write_knob(state, "FROZEN")
            if read_text(state).strip() == "FROZEN":
                return
            time.sleep(0.002)  # v1 has no notification; a fork in flight delays it
        write_knob(state, "THAWED")
        raise SystemFailure(f"cannot freeze cgroup {self.path}: it does not come to rest", step="freeze")

    def thaw(self) -> None:
        if self.hierarchies.is_v2:
            self._set_frozen_v2(False)
        else:
            write_knob(f"{self._freezer()}/freezer.state", "THAWED")

    def is_frozen(self) -> bool:
        """False as well where there is no such group, or no freezer."""
        directory = self.directory("freezer")
        if directory is None:
            return False
        try:
            if self.hierarchies.is_v2:
                return read_text(f"{directory}/cgroup.freeze").strip() == "1"
            return read_text(f"{directory}/freezer.state").strip() != "THAWED"
        except OSError:
            return False

    def _freezer(self) -> str:
        directory = self.directory("freezer")
        if directory is None:
            why = "" if user_namespace.is_initial() else ": no control groups are delegated to this user"
            raise SystemFailure(f"cannot pause: the freezer controller is missing on this host{why}", step="freeze")
        return directory

    def _set_frozen_v2(self, frozen: bool) -> None:
        directory = self.hierarchies.unified + self.path
        wanted = f"frozen {int(frozen)}".encode()
        events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write_knob(f"{directory}/cgroup.freeze", str(int(frozen)))
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            deadline = time.monotonic() + _FREEZE_S
            # the kernel wakes who polls the file whenever its content changes after it was read
            while wanted not in os.pread(events, 4096, 0):
                if not poller.poll(max(deadline - time.monotonic(), 0) * 1000) and time.monotonic() >= deadline:
                    break
            else:
                return
        finally:
            os.close(events)
        if frozen:
            write_knob(f"{directory}/cgroup.freeze", "0")
        raise SystemFailure(
            f"cannot {'freeze' if frozen else 'thaw'} cgroup {self.path}: it does not come to rest", step="freeze"
        )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to every process; with SIGKILL nothing escapes by forking."""
        if self.hierarchies.is_v2 and number == signal.SIGKILL:
            file = f"{self.hierarchies.unified}{self.path}/cgroup.kill"
            if os.path.exists(file):
                write_text(file, "1")
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
            return _keyed(f"{self.hierarchies.unified}{self.path}/memory.events").get("oom_kill", 0)
        directory = self.directory("memory")
        return _keyed(f"{directory}/memory.oom_control").get("oom_kill", 0) if directory else 0


def _keyed(file: str) -> dict[str, int]:
    try:
        return {
            key: int(value) for key, _, value in (line.partition(" ") for line in read_text(file).splitlines()) if value
        }
    except (OSError, ValueError):
        return {}


def _inherit(root: str, path: str, name: str) -> str:
    """A version 1 cpuset starts empty and takes no process: one that is empty gets its parent's ``name``.  Its text."""
    file = f"{root}{path}/{name}"
    text = read_text(file)
    if not text.strip() and path != "/":
        text = _inherit(root, os.path.dirname(path), name)
        write_knob(file, text)
    return text


def _remove_directory(directory: str) -> None:
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

"""From root of the host to the program's own rights: limits, ids, capabilities, seccomp.

The order matters and is runc's: without no-new-privileges the filter needs CAP_SYS_ADMIN and is loaded before the
capabilities go; with it the filter is the last thing.  Sources: capabilities(7), prctl(2), seccomp(2), getrlimit(2).
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import process as kernel
from corten.runtime import labels, scheduling, seccomp, seccomp_listener
from corten.runtime.hostproc import HostProc
from corten.runtime.seccomp_listener import SeccompListener
from corten.runtime.users import Identity

RLIMITS: dict[str, int] = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
RLIMITS.setdefault("RLIMIT_LOCKS", 10)
# values from here on stand for "unlimited": RLIM_INFINITY of the kernel, and what a signed type makes of it
_UNLIMITED = (1 << 63) - 1


_LAST = kernel.last_capability()
_NUMBERS = {name: number for number, name in enumerate(kernel.CAPABILITIES) if number <= _LAST}
_NUMBERS_MASK = (1 << len(_NUMBERS)) - 1
# what this host lets us give away: asked once, since a fork for each container would have to ask again
_AVAILABLE = sum(1 << _NUMBERS[name] for name in kernel.known_capabilities())


def check_rlimits(limits: list[dict[str, Any]]) -> None:
    """Errors: InvalidParameter naming the field."""
    seen = set()
    for index, limit in enumerate(limits):
        name = limit.get("type")
        if name not in RLIMITS:
            raise InvalidParameter(f"process.rlimits[{index}].type: unknown limit '{name}'")
        if name in seen:
            raise InvalidParameter(f"process.rlimits[{index}].type: '{name}' is listed twice")
        seen.add(name)
        soft, hard = limit.get("soft"), limit.get("hard")
        if not isinstance(soft, int) or not isinstance(hard, int) or not 0 <= soft <= hard < 1 << 64:
            raise InvalidParameter(f"process.rlimits[{index}]: {name}: soft limit {soft} is above hard limit {hard}")


def set_rlimits(limits: list[dict[str, Any]]) -> list[str]:
    """Set the limits; a hard limit that this machine does not let us raise is clamped.  Returns warnings."""
    warnings = []
    for limit in limits:
        name = limit["type"]
        soft, hard = (resource.RLIM_INFINITY if limit[key] >= _UNLIMITED else limit[key] for key in ("soft", "hard"))
        try:
            resource.setrlimit(RLIMITS[name], (soft, hard))
        except (ValueError, PermissionError):
            # raising needs CAP_SYS_RESOURCE; RLIMIT_NOFILE also ends at fs.nr_open
            present = resource.getrlimit(RLIMITS[name])[1]
            clamped = present if soft == resource.RLIM_INFINITY or soft > present >= 0 else soft
            resource.setrlimit(RLIMITS[name], (clamped, present))
            warnings.append(f"{name} is clamped to {present}: this host does not let it be raised")
    return warnings


class Capabilities:
    """The five sets of ``process.capabilities`` as bit masks; absent stands for none at all.

    warnings: what the kernel does not know or this host cannot give (config.md: no reason to fail)
    """

    def __init__(self, sets: dict[str, list[str]] | None, *, in_user_namespace: bool = False) -> None:
        sets = sets or {}
        self.warnings: list[str] = []
        # a new user namespace has all of them
        self._available = _NUMBERS_MASK if in_user_namespace else _AVAILABLE
        self.bounding = self._mask(sets.get("bounding"))
        self.permitted = self._mask(sets.get("permitted"))
        self.effective = self._mask(sets.get("effective"))
        self.inheritable = self._mask(sets.get("inheritable"))
        wanted = self._mask(sets.get("ambient"))
        # the kernel gives no others (capabilities(7)); "runc spec" names some all the same
        self.ambient = wanted & self.permitted & self.inheritable
        if wanted != self.ambient:
            lost = [name for name, number in _NUMBERS.items() if (wanted & ~self.ambient) >> number & 1]
            self.warnings.append(
                f"capabilities that are not permitted and inheritable cannot be ambient: {', '.join(lost)}"
            )

    def _mask(self, names: list[str] | None) -> int:
        mask = 0
        for name in names or ():
            number = _NUMBERS.get(name)
            if number is not None and self._available >> number & 1:
                mask |= 1 << number
                continue
            warning = f"capability {name} is {'unknown' if number is None else 'not available on this host'}: left out"
            if warning not in self.warnings:
                self.warnings.append(warning)
        return mask

    def limit_bounding(self) -> None:
        for number in range(_LAST + 1):
            if not self.bounding >> number & 1:
                kernel.prctl(kernel.PR_CAPBSET_DROP, number)

    def apply(self) -> None:
        """Errors: OSError, of an effective one that is not permitted."""
        kernel.capset(self.effective, self.permitted, self.inheritable)
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(len(kernel.CAPABILITIES)):
            if self.ambient >> number & 1:
                kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, number)


def set_ids(identity: Identity, *, may_set_groups: bool) -> None:
    """Groups first, then ids; capabilities are kept for the moment.

    Errors: InvalidParameter for ids that a user namespace does not have.
    """
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    try:
        if may_set_groups:
            os.setgroups(list(identity.groups))
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        wanted = f"user {identity.uid}, group {identity.gid}, groups {', '.join(map(str, identity.groups))}"
        raise InvalidParameter(f"not all of these ids are mapped in the container's user namespace: {wanted}") from None
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 0)


def may_set_groups(proc: HostProc) -> bool:
    """A user namespace can forbid it (user_namespaces(7))."""
    try:
        return proc.read("self/setgroups").strip() == "allow"
    except OSError:
        return True


class Confinement:
    """Giving up everything that the program is not to have.

    ``enter`` changes to the working directory: after the ids, so that it is the program's user who must be able to.
    """

    def __init__(
        self,
        process: dict[str, Any],
        linux: dict[str, Any],
        program: bytes,
        identity: Identity,
        enter: Callable[[], None],
        *,
        in_user_namespace: bool,
        listener: SeccompListener | None = None,
    ) -> None:
        self._process = process
        self._linux = linux
        self._program = program
        self._listener = listener
        self._identity = identity
        self._enter = enter
        self._capabilities = Capabilities(process.get("capabilities"), in_user_namespace=in_user_namespace)
        self._may_set_groups = True
        self._no_new_privileges = bool(process.get("noNewPrivileges"))
        self._flags = seccomp.filter_flags(linux.get("seccomp") or {})

    def prepare(self, proc: HostProc) -> list[str]:
        """What needs the host's procfs, and what needs rights that are about to go; warnings."""
        labels.apply(self._process, proc)
        scheduling.apply(self._process, self._linux)
        self._may_set_groups = may_set_groups(proc)
        if self._listener is not None:
            self._listener.remember_self(proc)
        # late: they bind us as well
        return self._capabilities.warnings + set_rlimits(self._process.get("rlimits") or [])

    def apply(self) -> None:
        """All but a filter that has to wait."""
        if self._no_new_privileges:
            kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._capabilities.limit_bounding()
        if self._program and not self._no_new_privileges:
            seccomp_listener.install(self._program, self._flags, self._listener)
        set_ids(self._identity, may_set_groups=self._may_set_groups)
        self._enter()
        umask = (self._process.get("user") or {}).get("umask")
        os.umask(0o022 if umask is None else umask)
        self._capabilities.apply()
        # a change of ids or capabilities resets it to fs.suid_dumpable
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)

    def seal(self) -> None:
        """Right before execve: the filter that may block even what we still do."""
        if self._program and self._no_new_privileges:
            seccomp_listener.install(self._program, self._flags, self._listener)

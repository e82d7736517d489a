"""From root of the host to the program's own rights: limits, ids, capabilities, seccomp.

The order matters and is runc's: without no-new-privileges the filter needs CAP_SYS_ADMIN and is loaded before the
capabilities go; with it the filter is the last thing.  Sources: capabilities(7), prctl(2), seccomp(2).
"""

from __future__ import annotations

import os
import resource
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import process as kernel
from corten.runtime import seccomp
from corten.runtime.users import MAXIMUM_ID, Identity

_RLIMITS = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
_RLIMITS.setdefault("RLIMIT_LOCKS", 10)
_UNLIMITED = (1 << 64) - 1


def set_rlimits(limits: list[dict[str, Any]]) -> list[str]:
    """Set the limits; a hard limit that this machine does not let us raise is clamped.  Returns warnings."""
    warnings = []
    for limit in limits:
        name = limit["type"]
        if name not in _RLIMITS:
            raise InvalidParameter(f"process.rlimits: unknown limit '{name}'")
        soft = resource.RLIM_INFINITY if limit["soft"] >= _UNLIMITED >> 1 else limit["soft"]
        hard = resource.RLIM_INFINITY if limit["hard"] >= _UNLIMITED >> 1 else limit["hard"]
        try:
            resource.setrlimit(_RLIMITS[name], (soft, hard))
        except (ValueError, PermissionError):
            present = resource.getrlimit(_RLIMITS[name])[1]
            if hard != resource.RLIM_INFINITY and (present == resource.RLIM_INFINITY or hard <= present):
                raise InvalidParameter(f"process.rlimits: {name}: soft limit {soft} is above hard limit {hard}") from None
            clamped = present if soft == resource.RLIM_INFINITY or soft > present >= 0 else soft
            resource.setrlimit(_RLIMITS[name], (clamped, present))
            warnings.append(f"{name} is clamped to {present}: this host does not let it be raised")
    return warnings


def _mask(names: list[str]) -> int:
    mask = 0
    for name in names:
        try:
            mask |= 1 << kernel.CAPABILITIES.index(name)
        except ValueError:
            raise InvalidParameter(f"process.capabilities: unknown capability '{name}'") from None
    return mask


class Capabilities:
    """The five sets of ``process.capabilities``; absent stands for none at all."""

    def __init__(self, sets: dict[str, list[str]] | None) -> None:
        sets = sets or {}
        available = _mask(list(kernel.known_capabilities()))
        self.bounding = _mask(sets.get("bounding") or []) & available
        self.effective = _mask(sets.get("effective") or []) & available
        self.permitted = _mask(sets.get("permitted") or []) & available
        self.inheritable = _mask(sets.get("inheritable") or []) & available
        self.ambient = _mask(sets.get("ambient") or []) & available

    def limit_bounding(self) -> None:
        for number in range(kernel.last_capability() + 1):
            if not self.bounding >> number & 1 and kernel.prctl(kernel.PR_CAPBSET_READ, number) == 1:
                kernel.prctl(kernel.PR_CAPBSET_DROP, number)

    def apply(self) -> None:
        kernel.capset(self.effective, self.permitted, self.inheritable)
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
        for number in range(len(kernel.CAPABILITIES)):
            if self.ambient >> number & 1:
                kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_RAISE, number)


def set_ids(identity: Identity, *, may_set_groups: bool) -> None:
    """Groups first, then ids; capabilities are kept for the moment."""
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
    if may_set_groups:
        os.setgroups(list(identity.groups))
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    kernel.prctl(kernel.PR_SET_KEEPCAPS, 0)


def confine(
    process: dict[str, Any],
    filter_spec: dict[str, Any] | None,
    program: bytes,
    identity: Identity,
    *,
    may_set_groups: bool,
    enter: Any,
) -> None:
    """Give up everything that the program is not to have; ``enter()`` changes to the working directory in between."""
    capabilities = Capabilities(process.get("capabilities"))
    no_new_privileges = bool(process.get("noNewPrivileges"))
    flags = seccomp.filter_flags(filter_spec) if filter_spec else 0
    if no_new_privileges:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    capabilities.limit_bounding()
    if program and not no_new_privileges:
        seccomp.install(program, flags)
    set_ids(identity, may_set_groups=may_set_groups)
    enter()
    capabilities.apply()
    if program and no_new_privileges:
        seccomp.install(program, flags)


def check_ids(user: dict[str, Any]) -> None:
    """Errors: InvalidParameter for ids that the kernel would wrap (CVE-2024-40635)."""
    numbers = [user.get("uid", 0), user.get("gid", 0), *(user.get("additionalGids") or [])]
    for number in numbers:
        if not isinstance(number, int) or not 0 <= number <= MAXIMUM_ID:
            raise InvalidParameter(f"process.user: {number} should be in range 0-{MAXIMUM_ID}")

"""Docker's security defaults and ``--security-opt``, ``--cap-add``, ``--privileged`` turned into values.

The default lists are those of dockerd (moby ``daemon/pkg/oci/defaults.go`` and ``caps/defaults.go``).
"""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from typing import Any

from corten.dockerapi.container import HostConfig
from corten.engine import selinux
from corten.errors import InvalidParameter
from corten.runtime import seccomp_profile

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def default_masked_paths() -> list[str]:
    """Docker's list and the thermal counters of every CPU (a side channel, GHSA-6fw5-f8r9-fgfm)."""
    return [*MASKED_PATHS, *sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"))]


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """What ``--security-opt`` has asked for.

    seccomp: "" for the default, "unconfined", or the JSON of a profile in Docker's format
    labels:  the values of ``label=``
    """

    seccomp: str = ""
    apparmor: str = ""
    no_new_privileges: bool = False
    unmasked: bool = False
    writable_cgroups: bool = False
    labels: tuple[str, ...] = ()


def parse_security_options(
    options: list[str], *, no_new_privileges: bool, apparmor_enabled: bool, selinux_enabled: bool, selinux_here: bool
) -> SecurityOptions:
    """Errors: InvalidParameter for what is unknown or what this host cannot enforce.

    selinux_enabled: this daemon labels its containers;  selinux_here: this host could
    """
    found: dict[str, Any] = {"no_new_privileges": no_new_privileges}
    for option in options:
        if option in ("no-new-privileges", "writable-cgroups"):
            found[option.replace("-", "_")] = True
            continue
        equals = option.find("=")
        separator = "=" if equals >= 0 else ":"
        key, given, value = option.partition(separator)
        if not given:
            raise InvalidParameter(f"invalid --security-opt 1: {json.dumps(option)}")
        if key in ("no-new-privileges", "writable-cgroups"):
            if value.lower() not in ("true", "false", "1", "0"):
                raise InvalidParameter(f"invalid --security-opt 2: {json.dumps(option)}")
            found[key.replace("-", "_")] = value.lower() in ("true", "1")
        elif key == "seccomp":
            found["seccomp"] = "" if value == "builtin" else value
            if value not in ("builtin", "unconfined"):
                _check_profile(value)
        elif key == "apparmor":
            if value != "unconfined" and not apparmor_enabled:
                raise InvalidParameter(
                    f"invalid --security-opt: apparmor={value}: AppArmor is not enabled on this host"
                )
            found["apparmor"] = value
        elif key == "label":
            selinux.check_field(value)
            if value != "disable" and not selinux_enabled:
                reason = (
                    "the daemon runs without --selinux-enabled"
                    if selinux_here
                    else "SELinux is not enabled on this host"
                )
                raise InvalidParameter(f"invalid --security-opt: label={value}: {reason}")
            found["labels"] = (*found.get("labels", ()), value)
        elif key == "systempaths" and value == "unconfined":
            found["unmasked"] = True
        else:
            raise InvalidParameter(f"invalid --security-opt 2: {json.dumps(option)}")
    return SecurityOptions(**found)


def _check_profile(text: str) -> None:
    try:
        profile = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    seccomp_profile.check(profile)


def capabilities(host_config: HostConfig, known: tuple[str, ...]) -> list[str]:
    """The capabilities that the container gets, in the kernel's order.

    ``ALL`` in add or drop stands for everything the kernel knows; drop wins over the default, add over drop of ALL.
    """

    def full(name: str) -> str:
        upper = name.upper()
        return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"

    add, drop = {full(name) for name in host_config.cap_add}, {full(name) for name in host_config.cap_drop}
    if host_config.privileged:
        return list(known)
    if "ALL" in add:
        chosen = set(known) - drop
    elif "ALL" in drop:
        chosen = set(add)
    else:
        chosen = (set(DEFAULT_CAPABILITIES) - drop) | add
    return [name for name in known if name in chosen]

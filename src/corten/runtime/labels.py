"""Labels of mandatory access control for the program: AppArmor and SELinux.

Sources: Documentation/admin-guide/LSM/apparmor.rst, proc_pid_attr(5).
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from corten.errors import InvalidParameter
from corten.linux import selinux
from corten.runtime.hostproc import HostProc

_APPARMOR = "/sys/module/apparmor/parameters/enabled"


def has_apparmor() -> bool:
    try:
        with open(_APPARMOR) as file:
            return file.read().strip() == "Y"
    except OSError:
        return False


def check(process: dict[str, Any], mount_label: str = "") -> None:
    """Errors: InvalidParameter for a label that this host cannot give."""
    profile = process.get("apparmorProfile")
    if profile and profile != "unconfined" and not has_apparmor():
        raise InvalidParameter(f"process.apparmorProfile '{profile}': AppArmor is not enabled on this host")
    label = process.get("selinuxLabel")
    if label and not selinux.is_enabled():
        raise InvalidParameter(f"process.selinuxLabel '{label}': SELinux is not enabled on this host")
    if mount_label and not selinux.is_enabled():
        raise InvalidParameter(f"linux.mountLabel '{mount_label}': SELinux is not enabled on this host")


def apply(process: dict[str, Any], proc: HostProc) -> None:
    """Have the labels take effect at the next execve.  Errors: InvalidParameter for a profile that is not loaded."""
    profile, label = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile and (profile != "unconfined" or os.path.exists(_APPARMOR)):
        try:
            try:
                proc.write("self/attr/apparmor/exec", f"exec {profile}")
            except FileNotFoundError:
                proc.write("self/attr/exec", f"exec {profile}")  # before Linux 5.1
        except FileNotFoundError:
            raise InvalidParameter(f"process.apparmorProfile '{profile}': the profile is not loaded") from None
    if label:
        try:
            proc.write("self/attr/exec", label)
        except OSError as error:
            text = (error.strerror or "").lower()
            raise InvalidParameter(f"process.selinuxLabel '{label}' is not accepted: {text}") from error


def for_keys(process: dict[str, Any], proc: HostProc) -> None:
    """The session keyring that is made next belongs to the program, which runs with its own label."""
    label = process.get("selinuxLabel")
    if label:
        with contextlib.suppress(FileNotFoundError):  # a kernel without keys
            proc.write("self/attr/keycreate", label)

"""Seccomp profiles in Docker's format, which depend on capabilities and the machine, in the OCI form.

Source: moby profiles (format with includes and excludes).
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from corten.errors import InvalidParameter
from corten.linux.files import read_text
from corten.runtime import seccomp
from corten.runtime.shapes import check_shape

_PROFILES = f"{os.path.dirname(__file__)}/profiles"
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_GO_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}

_CONDITIONS = {"caps": [str], "arches": [str], "minKernel": str}
_SHAPE: dict[str, Any] = {
    "defaultAction!": str,
    "defaultErrnoRet": int,
    "architectures": [str],
    "archMap": [{"architecture!": str, "subArchitectures": [str]}],
    "flags": [str],
    "listenerPath": str,
    "listenerMetadata": str,
    "syscalls": [
        {
            "name": str,
            "names": [str],
            "action!": str,
            "errnoRet": int,
            "args": [{"index!": int, "value!": int, "valueTwo": int, "op!": str}],
            "includes": _CONDITIONS,
            "excludes": _CONDITIONS,
        }
    ],
}


def check(profile: Any) -> None:
    """A profile in Docker's format, with the rules for other capabilities, kernels and machines.

    Errors: InvalidParameter naming what is wrong.
    """
    check_shape(profile, _SHAPE, document="seccomp profile")
    if profile.get("architectures") and profile.get("archMap"):
        raise InvalidParameter("seccomp profile: both 'architectures' and 'archMap' are specified")
    rules = profile.get("syscalls") or []
    for rule in rules:
        if rule.get("name") and rule.get("names"):
            raise InvalidParameter("seccomp profile: both 'name' and 'names' are specified")
        for conditions in (rule.get("includes"), rule.get("excludes")):
            if conditions and conditions.get("minKernel"):
                _kernel_at_least(conditions["minKernel"])
    pairs = profile.get("archMap") or ()
    every = [name for pair in pairs for name in (pair["architecture"], *(pair.get("subArchitectures") or ()))]
    seccomp.check(
        {
            **profile,
            "architectures": profile.get("architectures") or every,
            "syscalls": [{**rule, "names": _names(rule)} for rule in rules],
        },
        "seccomp profile: ",
    )


def _names(rule: dict[str, Any]) -> list[str]:
    return rule.get("names") or ([rule["name"]] if rule.get("name") else [])


def default_profile() -> dict[str, Any]:
    """Docker's default profile in Docker's format."""
    profile: dict[str, Any] = json.loads(read_text(f"{_PROFILES}/default_seccomp.json"))
    return profile


def _kernel_at_least(text: str) -> bool:
    try:
        wanted = tuple(int(part) for part in text.split("."))
    except ValueError:
        raise InvalidParameter(f"seccomp profile: invalid minKernel '{text}'") from None
    release = re.match(r"[\d.]+", os.uname().release)
    present = tuple(int(part) for part in release[0].split(".") if part) if release else ()
    return present[: len(wanted)] >= wanted


def _applies(rule: dict[str, Any], capabilities: set[str], architecture: str) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if includes.get("caps") and not set(includes["caps"]) <= capabilities:
        return False
    if includes.get("minKernel") and not _kernel_at_least(includes["minKernel"]):
        return False
    if architecture in (excludes.get("arches") or ()):
        return False
    if set(excludes.get("caps") or ()) & capabilities:
        return False
    return not (excludes.get("minKernel") and _kernel_at_least(excludes["minKernel"]))


def resolve_profile(profile: dict[str, Any], capabilities: list[str]) -> dict[str, Any]:
    """Docker's format, checked -> ``linux.seccomp`` for these capabilities on this machine."""
    machine = os.uname().machine
    architecture = _GO_ARCHITECTURE.get(machine, machine)
    held = set(capabilities)
    resolved: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    if profile.get("defaultErrnoRet") is not None:
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"]
    for name in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(name):
            resolved[name] = profile[name]
    resolved["architectures"] = list(profile.get("architectures") or ())
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == _NATIVE.get(machine):
            resolved["architectures"] = [entry["architecture"], *(entry.get("subArchitectures") or ())]
    resolved["syscalls"] = []
    for rule in profile.get("syscalls") or ():
        if _applies(rule, held, architecture):
            kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
            resolved["syscalls"].append({"names": _names(rule), **kept})
    return resolved

"""Seccomp profiles in Docker's format, which depend on capabilities and the machine, in the OCI form.

Source: moby profiles (format with includes and excludes).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from corten.errors import InvalidParameter

_PROFILES = Path(__file__).parent / "profiles"
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_GO_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def default_profile() -> dict[str, Any]:
    """Docker's default profile in Docker's format."""
    profile: dict[str, Any] = json.loads((_PROFILES / "default_seccomp.json").read_text())
    return profile


def _kernel_at_least(text: str) -> bool:
    try:
        wanted = tuple(int(part) for part in text.split("."))
    except ValueError:
        raise InvalidParameter(f"Loading seccomp profile failed: invalid minKernel '{text}'") from None
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
    """Docker's format -> ``linux.seccomp`` for these capabilities on this machine; {} for a profile that says nothing.

    Errors: InvalidParameter for a malformed profile.
    """
    if not profile.get("defaultAction") and not profile.get("syscalls"):
        return {}
    machine = os.uname().machine
    architecture = _GO_ARCHITECTURE.get(machine, machine)
    held = set(capabilities)
    resolved: dict[str, Any] = {"defaultAction": profile.get("defaultAction") or ""}
    if profile.get("defaultErrnoRet") is not None:
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"]
    for name in ("flags", "listenerPath", "listenerMetadata"):
        if profile.get(name):
            resolved[name] = profile[name]
    architectures = list(profile.get("architectures") or ())
    if profile.get("archMap"):
        if architectures:
            raise InvalidParameter("Loading seccomp profile failed: both 'architectures' and 'archMap' are specified")
        for entry in profile["archMap"]:
            if entry["architecture"] == _NATIVE.get(machine):
                architectures = [entry["architecture"], *(entry.get("subArchitectures") or ())]
    resolved["architectures"] = architectures
    resolved["syscalls"] = []
    for rule in profile.get("syscalls") or ():
        if rule.get("name") and rule.get("names"):
            raise InvalidParameter("Loading seccomp profile failed: both 'name' and 'names' are specified")
        if _applies(rule, held, architecture):
            names = rule.get("names") or ([rule["name"]] if rule.get("name") else [])
            kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key) is not None}
            resolved["syscalls"].append({"names": names, **kept})
    return resolved

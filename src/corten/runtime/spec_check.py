"""Checks of a ``config.json`` before anything is made.

What is malformed, or what the runtime cannot honour, is refused by the path of its field.  Fields that the
specification does not know are ignored, as it demands ("Extensibility").

Source: runtime-spec config.md and config-linux.md.
"""

from __future__ import annotations

from typing import Any

from corten.errors import InvalidParameter
from corten.linux import paths
from corten.runtime import hooks, idmap, labels, namespaces, resctrl, scheduling, seccomp
from corten.runtime.devices import KINDS
from corten.runtime.mount_options import parse
from corten.runtime.privileges import check_rlimits
from corten.runtime.rootfs import PROPAGATION, sysctl_path
from corten.runtime.shapes import PROCESS, RESOURCES, SPEC, check_shape
from corten.runtime.users import check_ids

NAMESPACES = tuple(namespaces.FLAGS)

# sysctls that belong to a namespace, besides all of net.* and fs.mqueue.*; the kernel does not tell, the list is runc's
_IPC_SYSCTLS = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
_UTS_SYSCTLS = ("domainname", "hostname")
_UNSUPPORTED = {
    "linux.netDevices": "moving network devices is not supported",
    "vm": "virtual machines are not supported",
    "windows": "this is a Linux runtime",
    "solaris": "this is a Linux runtime",
    "zos": "this is a Linux runtime",
}


def _fail(path: str, text: str) -> InvalidParameter:
    return InvalidParameter(f"config.json: {path}: {text}")


def check(spec: dict[str, Any]) -> None:
    """Errors: InvalidParameter naming the field."""
    check_shape(spec, SPEC)
    version = spec["ociVersion"]
    if version.partition(".")[0] != "1":
        raise _fail("ociVersion", f"{version} is not supported, 1.x is")
    if not spec["root"]["path"]:
        raise _fail("root.path", "must not be empty")
    for path, reason in _UNSUPPORTED.items():
        value: Any = spec
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value:
            raise _fail(path, reason)
    linux = spec.get("linux") or {}
    if spec.get("process"):
        _check_process(spec["process"], linux)
    _check_mounts(spec.get("mounts") or [])
    hooks.check(spec.get("hooks") or {})
    _check_namespaces(spec, linux)
    _check_devices(linux.get("devices") or [])
    for kind in ("uid", "gid"):
        idmap.check(linux.get(f"{kind}Mappings") or [], f"linux.{kind}Mappings")
    for field in ("maskedPaths", "readonlyPaths"):
        for index, path in enumerate(linux.get(field) or ()):
            if not path.startswith("/"):
                raise _fail(f"linux.{field}[{index}]", f"'{path}' is not an absolute path")
    propagation = linux.get("rootfsPropagation") or ""
    if propagation not in PROPAGATION:
        raise _fail("linux.rootfsPropagation", f"'{propagation}' is not a propagation")
    if linux.get("seccomp"):
        seccomp.check(linux["seccomp"])
    resctrl.check(linux.get("intelRdt") or {})


def check_process(process: dict[str, Any]) -> None:
    """The ``process`` of an exec.  Errors: InvalidParameter naming the field."""
    check_shape(process, PROCESS, "process")
    _check_process(process, {})


def check_resources(resources: Any) -> None:
    """``linux.resources`` of an update.  Errors: InvalidParameter naming the field."""
    check_shape(resources, RESOURCES, "linux.resources")


def _check_process(process: dict[str, Any], linux: dict[str, Any]) -> None:
    if not process["args"] or any("\0" in item for item in process["args"]):
        raise _fail("process.args", "must be a list of strings that is not empty")
    for index, item in enumerate(process.get("env") or ()):
        if item.find("=") < 1 or "\0" in item:
            raise _fail(f"process.env[{index}]", f"invalid environment variable {item!r}")
    if not process["cwd"].startswith("/") or "\0" in process["cwd"]:
        raise _fail("process.cwd", f"'{process['cwd']}' is not an absolute path")
    user = process.get("user") or {}
    check_ids(user)
    umask = user.get("umask")
    if umask is not None and not 0 <= umask <= 0o777:
        raise _fail("process.user.umask", f"{umask} is out of range")
    score = process.get("oomScoreAdj")
    if score is not None and not -1000 <= score <= 1000:
        raise _fail("process.oomScoreAdj", "must lie between -1000 and 1000")
    check_rlimits(process.get("rlimits") or [])
    labels.check(process, linux.get("mountLabel") or "")
    scheduling.check(process, linux)


def _check_mounts(entries: list[dict[str, Any]]) -> None:
    for index, mount in enumerate(entries):
        path = f"mounts[{index}]"
        options = parse(mount.get("options") or [])
        bind = options.bind or mount.get("type") == "bind"
        if bind and not mount.get("source") and not options.remount:
            raise _fail(f"{path}.source", "a bind mount needs one")
        if not bind and not mount.get("type") and not options.remount:
            raise _fail(f"{path}.type", "is missing")
        if any("\0" in (mount.get(key) or "") for key in ("destination", "source", "type")):
            raise _fail(path, "embedded NUL byte")
        for kind in ("uid", "gid"):
            idmap.check(mount.get(f"{kind}Mappings") or [], f"{path}.{kind}Mappings")
        if bool(mount.get("uidMappings")) != bool(mount.get("gidMappings")):
            raise _fail(path, "uidMappings and gidMappings go together")
        if mount.get("uidMappings") and not bind:
            raise _fail(path, "only bind mounts can be id-mapped")


def _check_devices(entries: list[dict[str, Any]]) -> None:
    for index, device in enumerate(entries):
        path = f"linux.devices[{index}]"
        if device["type"] not in KINDS:
            raise _fail(f"{path}.type", f"unknown type '{device['type']}'")
        if not device["path"].startswith("/") or paths.clean(device["path"]) == "/":
            raise _fail(f"{path}.path", f"'{device['path']}' is not an absolute path of a file")
        if device["type"] != "p" and (device.get("major") is None or device.get("minor") is None):
            raise _fail(path, "major and minor are needed")


def _check_namespaces(spec: dict[str, Any], linux: dict[str, Any]) -> None:
    entries = linux.get("namespaces") or []
    seen = [entry["type"] for entry in entries]
    for index, kind in enumerate(seen):
        if kind not in NAMESPACES:
            raise _fail(f"linux.namespaces[{index}].type", f"'{kind}' is not a namespace")
        if seen.count(kind) > 1:
            raise _fail(f"linux.namespaces[{index}].type", f"'{kind}' is listed twice")
        path = entries[index].get("path")
        if path and not path.startswith("/"):
            raise _fail(f"linux.namespaces[{index}].path", f"'{path}' is not an absolute path")
    own = {entry["type"] for entry in entries if not entry.get("path")}
    # a path may lead back to the namespace that we are in ourselves
    apart = own | {
        entry["type"] for entry in entries if entry.get("path") and not namespaces.is_ours(entry["path"], entry["type"])
    }
    _check_mount_namespace(spec, linux, seen, apart, own)
    if (linux.get("uidMappings") or linux.get("gidMappings")) and "user" not in seen:
        raise _fail("linux.uidMappings", "mappings need a user namespace")
    for name in ("hostname", "domainname"):
        if spec.get(name) and "uts" not in apart:
            raise _fail(name, "needs a uts namespace of the container's own")
        if len(spec.get(name) or "") > 64:
            raise _fail(name, "is longer than 64 characters")
    if linux.get("timeOffsets"):
        if "time" not in own:
            raise _fail("linux.timeOffsets", "needs a new time namespace")
        for clock in linux["timeOffsets"]:
            if clock not in ("monotonic", "boottime"):
                raise _fail("linux.timeOffsets", f"'{clock}' is not a clock of a time namespace")
    for name, value in (linux.get("sysctl") or {}).items():
        _check_sysctl(name, value, apart)


def _check_mount_namespace(
    spec: dict[str, Any], linux: dict[str, Any], seen: list[str], apart: set[str], own: set[str]
) -> None:
    if "mount" not in seen:
        raise _fail("linux.namespaces", "a container needs a mount namespace")
    if "mount" in own:
        return
    if "mount" not in apart:
        raise _fail("linux.namespaces", "the runtime's own mount namespace cannot be a container's")
    fields = {
        "mounts": spec.get("mounts"),
        "root.readonly": spec["root"].get("readonly"),
        "linux.devices": linux.get("devices"),
        "linux.maskedPaths": linux.get("maskedPaths"),
        "linux.readonlyPaths": linux.get("readonlyPaths"),
        "linux.rootfsPropagation": linux.get("rootfsPropagation"),
    }
    for field, value in fields.items():
        if value:
            raise _fail(field, "cannot be had in a mount namespace that is joined: its mounts are its owner's")


def _check_sysctl(name: str, value: str, apart: set[str]) -> None:
    """It must belong to a namespace of the container's own: all others are the host's (CVE-2022-0811)."""
    field = f"linux.sysctl: '{name}'"
    parts = sysctl_path(name).split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or "\n" in value or "\0" in value:
        raise _fail(field, "is malformed")
    if parts[0] == "net" and len(parts) > 1:
        needed = "network"
    elif parts[:2] == ["fs", "mqueue"] or (parts[0] == "kernel" and len(parts) == 2 and parts[1] in _IPC_SYSCTLS):
        needed = "ipc"
    elif parts[0] == "kernel" and len(parts) == 2 and parts[1] in _UTS_SYSCTLS:
        needed = "uts"
    else:
        raise _fail(field, "is not in a separate kernel namespace")
    if needed not in apart:
        raise _fail(field, f"is not allowed in the host's {needed} namespace")

"""Checks of a ``config.json``: what the runtime cannot honour is refused by the name of its field before anything is made."""

from __future__ import annotations

from typing import Any

from corten.errors import InvalidParameter
from corten.runtime import hooks
from corten.runtime.privileges import check_ids

NAMESPACES = ("mount", "pid", "uts", "ipc", "network", "cgroup", "user", "time")


def _kind(document: dict[str, Any], path: str, kind: type, *, required: bool = False) -> Any:
    value: Any = document
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        if required:
            raise InvalidParameter(f"config.json: {path} is missing")
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidParameter(f"config.json: {path} must be of type {kind.__name__}")
    return value


def check(spec: dict[str, Any]) -> None:
    """Errors: InvalidParameter naming the field."""
    if not isinstance(spec, dict):
        raise InvalidParameter("config.json: an object is needed")
    version = _kind(spec, "ociVersion", str, required=True)
    if not version.startswith("1."):
        raise InvalidParameter(f"config.json: ociVersion {version} is not supported, 1.x is")
    _kind(spec, "root.path", str, required=True)
    _kind(spec, "linux", dict)
    if spec.get("process") is not None:
        check_process(spec["process"])
    for index, mount in enumerate(_kind(spec, "mounts", list) or ()):
        if not isinstance(mount, dict) or not isinstance(mount.get("destination"), str):
            raise InvalidParameter(f"config.json: mounts[{index}].destination is missing")
    _check_namespaces(spec)
    hooks.check(_kind(spec, "hooks", dict) or {})
    for field in ("linux.intelRdt", "linux.personality.flags", "linux.mountLabel", "vm", "solaris", "windows"):
        if _kind(spec, field, object):
            raise InvalidParameter(f"config.json: {field} is not supported")
    for name in ("hostname", "domainname"):
        value = _kind(spec, name, str)
        if value and "uts" not in _namespace_types(spec):
            raise InvalidParameter(f"config.json: {name} needs a uts namespace of the container's own")


def check_process(process: dict[str, Any]) -> None:
    """Also the ``process`` of an exec."""
    document = {"process": process}
    arguments = _kind(document, "process.args", list, required=True)
    if not arguments or not all(isinstance(item, str) and "\0" not in item for item in arguments):
        raise InvalidParameter("config.json: process.args must be a list of strings that is not empty")
    cwd = _kind(document, "process.cwd", str, required=True)
    if not cwd.startswith("/"):
        raise InvalidParameter(f"config.json: process.cwd '{cwd}' must be an absolute path")
    check_ids(process.get("user") or {})
    score = _kind(document, "process.oomScoreAdj", int)
    if score is not None and not -1000 <= score <= 1000:
        raise InvalidParameter("config.json: process.oomScoreAdj must lie between -1000 and 1000")
    for field in ("process.selinuxLabel", "process.scheduler", "process.execCPUAffinity"):
        if _kind(document, field, object):
            raise InvalidParameter(f"config.json: {field} is not supported")


def _namespace_types(spec: dict[str, Any]) -> list[str]:
    return [entry.get("type", "") for entry in (spec.get("linux") or {}).get("namespaces") or ()]


def _check_namespaces(spec: dict[str, Any]) -> None:
    seen = _namespace_types(spec)
    for kind in seen:
        if kind not in NAMESPACES:
            raise InvalidParameter(f"config.json: linux.namespaces: '{kind}' is not a namespace")
        if seen.count(kind) > 1:
            raise InvalidParameter(f"config.json: linux.namespaces: '{kind}' is listed twice")
    linux = spec.get("linux") or {}
    if "mount" not in seen:
        raise InvalidParameter("config.json: linux.namespaces: a container needs a mount namespace")
    if linux.get("uidMappings") and "user" not in seen:
        raise InvalidParameter("config.json: linux.uidMappings needs a user namespace")
    own = {entry["type"] for entry in linux.get("namespaces") or () if not entry.get("path")}
    for name in linux.get("sysctl") or {}:
        if name.startswith("net.") and "network" not in seen:
            raise InvalidParameter(f"config.json: linux.sysctl: '{name}' cannot be set in the host's network namespace")
        if name.startswith(("kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.")) and "ipc" not in seen:
            raise InvalidParameter(f"config.json: linux.sysctl: '{name}' cannot be set in the host's ipc namespace")
        if not name.startswith(("net.", "kernel.", "fs.mqueue.")):
            raise InvalidParameter(f"config.json: linux.sysctl: '{name}' does not belong to a namespace")
    if linux.get("timeOffsets") and "time" not in own:
        raise InvalidParameter("config.json: linux.timeOffsets needs a new time namespace")

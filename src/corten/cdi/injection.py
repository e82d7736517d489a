"""What devices add to a container's OCI configuration.

Source: SPEC.md of the Container Device Interface, "OCI Edits"; defaults and order are as its library has them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from corten.cdi.catalogue import Found
from corten.cdi.documents import DeviceNode, Edits, Hook, IntelRdt, Mount
from corten.errors import InvalidParameter

FAILED = "CDI device injection failed"
_TYPES = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}


@dataclass(slots=True)
class Injection:
    """In the form of ``config.json``.

    environment: NAME=VALUE; nodes, rules: of ``linux.devices`` and the device cgroup; hooks: by their kind
    groups: of the process, by number; interfaces: ``linux.netDevices``
    """

    environment: list[str] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    hooks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)
    rdt: dict[str, Any] = field(default_factory=dict)
    interfaces: dict[str, dict[str, Any]] = field(default_factory=dict)


def inject(found: Found, names: Sequence[str], owner: Callable[[], tuple[int, int]], *, mapped: bool) -> Injection:
    """The edits of these devices, and once those of their files.

    owner: (uid, gid) of the container's user, who gets nodes that say nothing else; asked only when there are some
    mapped: the container has ids of its own
    Errors: InvalidParameter for devices that are not there, here or on this machine.
    """
    unknown = [name for name in names if name not in found.devices]
    if unknown:
        raise InvalidParameter(f"{FAILED}: unresolvable CDI devices {', '.join(unknown)}{_hint(found)}")
    made = Injection()
    files: set[str] = set()
    for name in dict.fromkeys(names):
        device = found.devices[name]
        if device.path not in files:
            files.add(device.path)
            _add(made, device.common, owner, mapped=mapped)
        _add(made, device.edits, owner, mapped=mapped)
    return made


def _hint(found: Found) -> str:
    """The first file that could not be read: the device may be there."""
    for path, problems in found.problems.items():
        return f" ({path}: {problems[0]})"
    return ""


def _add(made: Injection, edits: Edits, owner: Callable[[], tuple[int, int]], *, mapped: bool) -> None:
    made.environment += edits.env
    for given in edits.device_nodes:
        node = _node(given, owner)
        made.nodes = [other for other in made.nodes if other["path"] != node["path"]] + [node]
        access = "" if given.permissions == "none" else given.permissions or "rwm"
        if node["type"] != "p" and access:
            kind = "b" if node["type"] == "b" else "c"
            rule = {"allow": True, "type": kind, "major": node["major"], "minor": node["minor"], "access": access}
            made.rules.append(rule)
    for mount in edits.mounts:
        point = _mount(mount, mapped=mapped)
        made.mounts = [other for other in made.mounts if other["destination"] != point["destination"]] + [point]
    for hook in edits.hooks:
        made.hooks.setdefault(hook.hook_name, []).append(_hook(hook))
    made.groups = list(dict.fromkeys([*made.groups, *filter(None, edits.additional_gids)]))
    if edits.intel_rdt is not None:
        made.rdt = _rdt(edits.intel_rdt)
    for interface in edits.net_devices:
        made.interfaces[interface.host_interface_name] = {"name": interface.name}


def _node(given: DeviceNode, owner: Callable[[], tuple[int, int]]) -> dict[str, Any]:
    """Errors: InvalidParameter when what the file leaves open cannot be read off the host's node."""
    kind, major, minor, mode = given.type, given.major, given.minor, given.file_mode
    path = given.host_path or given.path
    is_complete = bool(kind) and (major != 0 or kind == "p")
    try:
        status = os.lstat(path)
    except OSError as error:
        if not is_complete:
            reason = (error.strerror or "").lower()
            raise InvalidParameter(f'{FAILED}: failed to stat CDI host device "{path}": {reason}') from None
    else:
        mode = stat.S_IMODE(status.st_mode) if mode is None else mode
        if not is_complete:
            actual = _TYPES.get(stat.S_IFMT(status.st_mode), "")
            if not actual:
                raise InvalidParameter(f'{FAILED}: CDI host device "{path}": not a device node')
            if (kind or actual).replace("u", "c") != actual:
                raise InvalidParameter(
                    f'{FAILED}: CDI device ("{given.path}", "{path}"), host type mismatch ({kind}, {actual})'
                )
            kind = actual
            if major == 0 and kind != "p":
                major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    node: dict[str, Any] = {"path": given.path, "type": kind}
    if kind != "p":
        node |= {"major": major, "minor": minor}
    if mode is not None:
        node["fileMode"] = mode
    uid, gid = given.uid, given.gid
    if uid is None or gid is None:
        user, group = owner()
        uid, gid = user if uid is None else uid, group if gid is None else gid
    return {**node, "uid": uid, "gid": gid}


def _mount(given: Mount, *, mapped: bool) -> dict[str, Any]:
    options = list(given.options)
    is_bound = given.type == "bind" or "bind" in options or "rbind" in options
    if not is_bound and given.type in ("", "none"):
        options.append("bind")  # a path of the host that says nothing else
        is_bound = True
    if mapped and is_bound and "idmap" not in options and "ridmap" not in options:
        options.append("ridmap" if "rbind" in options else "idmap")
    return {
        "destination": given.container_path,
        "source": given.host_path,
        "type": given.type or "bind",
        "options": options,
    }


def _hook(given: Hook) -> dict[str, Any]:
    made: dict[str, Any] = {"path": given.path}
    if given.args:
        made["args"] = given.args
    if given.env:
        made["env"] = given.env
    if given.timeout is not None:
        made["timeout"] = given.timeout
    return made


def _rdt(given: IntelRdt) -> dict[str, Any]:
    made = {
        "closID": given.clos_id,
        "l3CacheSchema": given.l3_cache_schema,
        "memBwSchema": given.mem_bw_schema,
        "schemata": given.schemata,
        "enableMonitoring": given.enable_monitoring,
    }
    return {name: value for name, value in made.items() if value}

"""Which device nodes and rules a container gets: those that all have, the machine's own, and those that a client names.

Source: moby ``daemon/oci_linux.go``.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from corten.dockerapi.container import DeviceMapping, HostConfig
from corten.dockerapi.device_names import is_qualified
from corten.errors import InvalidParameter

# dockerd's list; the runtime adds what every container has
_DEFAULT_DEVICE_RULES: tuple[tuple[str, int, int, str], ...] = (
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 1, 8, "rwm"),  # random
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 1, "rwm"),  # console
)


def _device_node(path_on_host: str, path_in_container: str) -> tuple[dict[str, Any], os.stat_result] | None:
    status = os.stat(path_on_host)
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    node = {
        "path": path_in_container,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
    return node, status


def _allow(node: dict[str, Any], access: str) -> dict[str, Any]:
    return {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}


def _mapped_devices(mapping: DeviceMapping) -> list[dict[str, Any]]:
    """The device nodes of one ``--device``: one, or all below a directory."""
    source = os.path.realpath(mapping.path_on_host)
    target = mapping.path_in_container or mapping.path_on_host
    try:
        if os.path.isdir(source):
            return devices_below(source, target)
        found = _device_node(source, target)
    except OSError as error:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{mapping.path_on_host}": '
            f"{(error.strerror or '').lower()}"
        ) from error
    if found is None:
        raise InvalidParameter(
            f'error gathering device information while adding custom device "{mapping.path_on_host}": not a device node'
        )
    return [found[0]]


def devices_below(source: str, target: str) -> list[dict[str, Any]]:
    """The devices in a directory, whatever lies above them; os.walk would recurse as deep as the tree is."""
    nodes = []
    pending = [""]
    while pending:
        relative = pending.pop()
        for entry in _listed(f"{source}{relative}"):
            inside = f"{relative}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if inside not in ("/pts", "/shm", "/mqueue", "/fd"):
                    pending.append(inside)
                continue
            place = os.path.normpath(f"{target}{inside}")
            if place == "/dev/console" or entry.is_symlink():
                continue
            try:
                found = _device_node(entry.path, place)
            except OSError:
                continue  # the node went away between listing and looking
            if found:
                nodes.append(found[0])
    return nodes


def _listed(directory: str) -> list[os.DirEntry[str]]:
    """Nothing for one that has gone, or whose path is too long."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def device_nodes(host: HostConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(nodes to make, rules of the device cgroup)."""
    nodes: list[dict[str, Any]] = []
    if host.privileged:
        nodes.extend(devices_below("/dev", "/dev"))
        rules: list[dict[str, Any]] = [{"allow": True, "access": "rwm"}]
    else:
        rules = [{"allow": False, "access": "rwm"}]
        for kind, major, minor, access in _DEFAULT_DEVICE_RULES:
            rules.append({"allow": True, "type": kind, "major": major, "minor": minor, "access": access})
    for mapping in host.devices:
        if is_qualified(mapping.path_on_host):
            continue  # a CDI device in the words of older clients
        mapped = _mapped_devices(mapping)
        taken = {node["path"] for node in mapped}
        nodes = [node for node in nodes if node["path"] not in taken] + mapped
        rules.extend(_allow(node, mapping.cgroup_permissions or "rwm") for node in mapped)
    for text in host.device_cgroup_rules:
        kind, numbers, access = text.split(" ")
        major_text, minor_text = numbers.split(":")
        rule: dict[str, Any] = {"allow": True, "type": kind, "access": access}
        if major_text != "*":
            rule["major"] = int(major_text)
        if minor_text != "*":
            rule["minor"] = int(minor_text)
        rules.append(rule)
    return nodes, rules

"""The whole of one container."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corten.engine.container import Container
from corten.engine.xray import groups, layers, networks, processes
from corten.image.store import ImageStore
from corten.linux import mounts
from corten.snapshot.api import Snapshotter

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where what is not in the container's record comes from.

    cgroup_path: "" when it has no control group
    table:       the name of the firewall's table
    """

    images: ImageStore
    snapshotter: Snapshotter
    cgroup_path: str
    table: str
    pids: list[int]


def xray(container: Container, sources: Sources) -> Document:
    """What is only there while it runs is empty for one that does not."""
    pid = container.state.pid if container.is_running else 0
    document: Document = {
        "Id": container.id,
        "Name": container.name,
        "Image": container.config.image,
        "State": str(container.status),
        "Pid": pid,
        "Runtime": container.host_config.runtime,
        "Processes": [],
        "Namespaces": [],
        "Privileges": None,
        "Groups": None,
        "Layers": layers.layers(container, sources.images, sources.snapshotter),
        "Mounts": [],
        "Network": networks.network(container, sources.table),
    }
    if pid:
        try:
            document |= {
                "Processes": processes.processes(sources.pids),
                "Namespaces": processes.namespaces(pid),
                "Privileges": processes.privileges(pid),
                "Groups": groups.groups(sources.cgroup_path) if sources.cgroup_path else None,
                "Mounts": _mounts(pid),
            }
        except (FileNotFoundError, ProcessLookupError):
            document["State"] = "ending"  # it has, since its record was read
    return document


def _mounts(pid: int) -> list[Document]:
    return [
        {
            "Target": entry.target,
            "Type": entry.kind,
            "Source": entry.source,
            "Root": entry.root,
            "Options": entry.options,
            "SuperOptions": entry.super_options,
        }
        for entry in mounts.read(str(pid))
    ]

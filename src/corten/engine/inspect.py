"""A container's documents: the row of ``GET /containers/json`` and the whole of ``GET /containers/{id}/json``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from corten.dockerapi.codec import to_builtins
from corten.dockerapi.human import human_duration
from corten.dockerapi.timestamps import format_ns
from corten.engine.container import ZERO_TIME_NS, Container, Status, as_list
from corten.engine.endpoint import Endpoint, port_map, shown_addresses
from corten.engine.mount_points import inspect_mounts
from corten.engine.published import exposed_ports
from corten.engine.security import READONLY_PATHS, default_masked_paths

_SECOND_NS = 10**9


def state_text(container: Container, now_ns: int, health: str = "") -> str:
    """ "Up 3 seconds (healthy)", "Exited (0) 2 hours ago", "Created" …"""
    state = container.state
    up = human_duration(max(0, now_ns - state.started_ns) / _SECOND_NS)
    ago = human_duration(max(0, now_ns - state.finished_ns) / _SECOND_NS)
    if state.status is Status.PAUSED:
        return f"Up {up} (Paused)"
    if state.status is Status.RUNNING:
        shown = {"starting": "health: starting"}.get(health, health)
        return f"Up {up} ({shown})" if health and health != "none" else f"Up {up}"
    if state.status is Status.RESTARTING:
        return f"Restarting ({state.exit_code}) {ago} ago"
    if state.status is Status.REMOVING:
        return "Removal In Progress"
    if state.status is Status.DEAD:
        return "Dead"
    if state.started_ns == ZERO_TIME_NS:
        return "Created"
    return f"Exited ({state.exit_code}) {ago} ago"


def shown_command(container: Container) -> str:
    """The command as ``ps`` prints it: arguments with blanks in single quotes."""
    parts = container.command
    if not parts:
        return ""
    return " ".join([parts[0], *(f"'{part}'" if " " in part else part for part in parts[1:])])


def summary(container: Container, now_ns: int, *, health: str = "", failures: int = 0) -> dict[str, Any]:
    """One row of the list.  failures: of the health check, one after the other"""
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.config.image or container.image_id,
        "ImageID": container.image_id,
        "Command": shown_command(container),
        "Created": container.created_ns // _SECOND_NS,
        "Ports": _ports(container),
        "Labels": container.config.labels,
        "State": str(container.status),
        "Status": state_text(container, now_ns, health),
        "Health": {"Status": health or "none", "FailingStreak": failures},
        "HostConfig": _host_summary(container),
        "NetworkSettings": {"Networks": _networks(container)},
        "Mounts": inspect_mounts(container.mount_points),
    }


def _host_summary(container: Container) -> dict[str, Any]:
    host = container.host_config
    if not host.annotations:
        return {"NetworkMode": host.network_mode}
    return {"NetworkMode": host.network_mode, "Annotations": host.annotations}


def _networks(container: Container) -> dict[str, Any]:
    return {name: endpoint.document() for name, endpoint in container.networks.items()}


def _ports(container: Container) -> list[dict[str, Any]]:
    """Rows of the list: a published port has one for each family of addresses."""
    rows: list[dict[str, Any]] = []
    published = set()
    for endpoint in container.networks.values():
        # others are reached at the container's own address
        for item in filter(lambda item: item.host_port, endpoint.published):
            published.add(f"{item.port}/{item.protocol}")
            rows += [
                {"IP": address, "PrivatePort": item.port, "PublicPort": item.host_port, "Type": item.protocol}
                for address in shown_addresses(item)
            ]
    if container.is_running and "host" not in container.networks:
        for text in exposed_ports(container):
            if text not in published:
                port, _, protocol = text.partition("/")
                rows.append({"PrivatePort": int(port), "Type": protocol})
    return rows


def _network_settings(container: Container) -> dict[str, Any]:
    default = container.networks.get("bridge")
    own = default.document() if default is not None else Endpoint().document()
    running = container.is_running
    exposed = exposed_ports(container) if running and "host" not in container.networks else []
    return {
        "Bridge": "",
        "SandboxID": hashlib.sha256(f"{container.id} {container.state.pid}".encode()).hexdigest() if running else "",
        "SandboxKey": f"/proc/{container.state.pid}/ns/net" if running else "",
        "Ports": port_map(list(container.networks.values()), exposed),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": own["EndpointID"],
        "Gateway": own["Gateway"],
        "GlobalIPv6Address": own["GlobalIPv6Address"],
        "GlobalIPv6PrefixLen": own["GlobalIPv6PrefixLen"],
        "IPAddress": own["IPAddress"],
        "IPPrefixLen": own["IPPrefixLen"],
        "IPv6Gateway": own["IPv6Gateway"],
        "MacAddress": own["MacAddress"],
        "Networks": _networks(container),
    }


def state_document(container: Container, health: dict[str, Any] | None) -> dict[str, Any]:
    state = container.state
    status = state.status
    document: dict[str, Any] = {
        "Status": str(status),
        "Running": status in (Status.RUNNING, Status.PAUSED, Status.RESTARTING),
        "Paused": status is Status.PAUSED,
        "Restarting": status is Status.RESTARTING,
        "OOMKilled": state.oom_killed,
        "Dead": status is Status.DEAD,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": format_ns(state.started_ns),
        "FinishedAt": format_ns(state.finished_ns),
    }
    if health:
        document["Health"] = health
    return document


def document(
    container: Container,
    *,
    directory: Path,
    graph: dict[str, str],
    health: dict[str, Any] | None,
    exec_ids: list[str],
    apparmor_profile: str = "",
) -> dict[str, Any]:
    """What ``docker inspect`` prints."""
    command = container.command
    config = to_builtins(container.config)
    config["Cmd"] = as_list(container.config.cmd) or None
    config["Entrypoint"] = as_list(container.config.entrypoint) or None
    for name in ("Volumes", "ExposedPorts", "OnBuild"):
        config[name] = config[name] or None
    for name in (
        "StopTimeout",
        "StopSignal",
        "Healthcheck",
        "Shell",
        "ExposedPorts",
        "MacAddress",
        "NetworkDisabled",
        "ArgsEscaped",
    ):
        if not config[name]:
            del config[name]
    return {
        "Id": container.id,
        "Created": format_ns(container.created_ns),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": state_document(container, health),
        "Image": container.image_id,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": container.log_path,
        "Name": f"/{container.name}",
        "RestartCount": container.state.restart_count,
        "Driver": container.driver,
        "Platform": container.platform,
        "MountLabel": container.mount_label,
        "ProcessLabel": container.process_label,
        "AppArmorProfile": apparmor_profile,
        "ExecIDs": list(exec_ids) or None,
        "HostConfig": host_config_document(container),
        "GraphDriver": {"Name": container.driver, "Data": graph},
        "Mounts": inspect_mounts(container.mount_points),
        "Config": config,
        "NetworkSettings": _network_settings(container),
    }


_NULL_WHEN_EMPTY = (
    "Binds VolumesFrom CapAdd CapDrop DnsOptions GroupAdd Links SecurityOpt ExtraHosts Devices DeviceCgroupRules "
    "DeviceRequests BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps Ulimits"
).split()
_ABSENT_WHEN_EMPTY = (
    "Mounts",
    "Tmpfs",
    "Sysctls",
    "StorageOpt",
    "Annotations",
    "Init",
    "KernelMemory",
    "KernelMemoryTCP",
    "NetworkRate",
)


def host_config_document(container: Container) -> dict[str, Any]:
    """HostConfig with null and absent values where dockerd has them."""
    host = to_builtins(container.host_config)
    for name in _NULL_WHEN_EMPTY:
        host[name] = host[name] or None
    for name in _ABSENT_WHEN_EMPTY:
        if not host[name]:
            del host[name]
    if not container.host_config.privileged and "systempaths=unconfined" not in container.host_config.security_opt:
        # what is in force, not only what was asked for
        host["MaskedPaths"] = default_masked_paths() if host["MaskedPaths"] is None else host["MaskedPaths"]
        host["ReadonlyPaths"] = list(READONLY_PATHS) if host["ReadonlyPaths"] is None else host["ReadonlyPaths"]
    return dict(host)

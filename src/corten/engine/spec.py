"""From a container's record to the OCI runtime specification's ``config.json``: pure but for reading device numbers.

Sources: runtime-spec config.md and config-linux.md; the values are dockerd's (moby ``daemon/oci_linux.go``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from corten.cdi.injection import Injection
from corten.dockerapi.container import ExecCreate, HostConfig, Ulimit
from corten.engine.apparmor import UNCONFINED
from corten.engine.container import Container, IdMaps, as_list
from corten.engine.device_nodes import device_nodes
from corten.engine.limits import oci_resources
from corten.engine.security import READONLY_PATHS, SecurityOptions, default_masked_paths
from corten.errors import InvalidParameter
from corten.linux import user_namespace

OCI_VERSION = "1.2.0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_PATH = "/sbin/docker-init"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecInput:
    """What the record alone does not say.

    joined:        namespace type -> path under /proc to join
    files:         destination -> source of hostname, hosts and resolv.conf
    mounts:        the user's mounts, already in OCI form and ordered
    seccomp:       (capabilities) -> ``linux.seccomp`` or None for unconfined
    shm_source:    directory on the host that is the container's /dev/shm, "" for a tmpfs of its own
    default_pids_limit: of containers that ask for none, 0 for no limit
    id_maps:       of the container's user namespace
    maps_files:    ``files`` are to be shown with them; else they belong to its root as they are
    init_source:   the init program on the host, "" without --init
    devices:       what the devices of CDI files add
    """

    cgroup_path: str
    rootfs: str
    capabilities: list[str]
    security: SecurityOptions
    seccomp: Callable[[list[str]], dict[str, Any] | None]
    joined: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    shm_source: str = ""
    init_source: str = ""
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    default_pids_limit: int = 0
    cgroup_v2: bool = False
    id_maps: IdMaps = field(default_factory=IdMaps)
    maps_files: bool = True
    devices: Injection = field(default_factory=Injection)


def build_spec(container: Container, given: SpecInput) -> dict[str, Any]:
    """The container's ``config.json``.

    Errors: InvalidParameter when a device does not exist on this host.
    """
    host = container.host_config
    spec: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(container, given),
        "root": {"path": given.rootfs, "readonly": host.readonly_rootfs},
        "mounts": _mounts(container, given),
        "annotations": dict(host.annotations),
        "linux": _linux(container, given),
    }
    if given.devices.hooks:
        spec["hooks"] = given.devices.hooks
    if host.uts_mode != "host":
        spec["hostname"] = container.config.hostname
        if container.config.domainname:
            spec["domainname"] = container.config.domainname
    return spec


def environment(container: Container) -> list[str]:
    """PATH, HOSTNAME and TERM under the container's own variables; a bare NAME is dropped as dockerd drops it."""
    config = container.config
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": config.hostname}
    if config.tty:
        merged["TERM"] = "xterm"
    for item in config.env:
        name, equals, value = item.partition("=")
        if equals:
            merged[name] = value
        else:
            merged.pop(name, None)
    return [f"{name}={value}" for name, value in merged.items()]


def _with_variables(variables: list[str], more: list[str]) -> list[str]:
    """Those of devices stand in the place of the container's own."""
    merged = {item.partition("=")[0]: item for item in variables}
    merged.update({item.partition("=")[0]: item for item in more})
    return list(merged.values())


def _user(name: str, groups: list[str]) -> dict[str, Any]:
    user: dict[str, Any] = {"uid": 0, "gid": 0, "username": name or "0"}
    if groups:
        user["additionalGroups"] = list(groups)
    return user


def _capability_sets(names: list[str]) -> dict[str, list[str]]:
    # inheritable and ambient stay empty: CVE-2022-24769
    return {"bounding": names, "effective": names, "permitted": names, "inheritable": [], "ambient": []}


def _rlimits(ulimits: list[Ulimit], defaults: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    merged = {**defaults, **{limit.name: (limit.soft, limit.hard) for limit in ulimits}}
    unlimited = (1 << 64) - 1
    return [
        {
            "type": f"RLIMIT_{name.upper()}",
            "soft": unlimited if soft == -1 else soft,
            "hard": unlimited if hard == -1 else hard,
        }
        for name, (soft, hard) in merged.items()
    ]


def _process(container: Container, given: SpecInput) -> dict[str, Any]:
    config, host = container.config, container.host_config
    command = container.command
    if given.init_source:
        command = [INIT_PATH, "--", *command]
    process: dict[str, Any] = {
        "terminal": config.tty,
        "user": _user(config.user, [*host.group_add, *map(str, given.devices.groups)]),
        "args": command,
        "env": _with_variables(environment(container), given.devices.environment),
        "cwd": config.working_dir or "/",
        "capabilities": _capability_sets(given.capabilities),
        "noNewPrivileges": given.security.no_new_privileges,
        "oomScoreAdj": host.oom_score_adj,
        "rlimits": _rlimits(host.ulimits, given.default_ulimits),
    }
    if config.tty and host.console_size and any(host.console_size):
        process["consoleSize"] = {"height": host.console_size[0], "width": host.console_size[1]}
    if given.security.apparmor and given.security.apparmor != UNCONFINED:
        process["apparmorProfile"] = given.security.apparmor
    if container.process_label:
        process["selinuxLabel"] = container.process_label
    return process


def exec_process(
    container: Container,
    request: ExecCreate,
    capabilities: list[str],
    *,
    no_new_privileges: bool,
    apparmor_profile: str = "",
) -> dict[str, Any]:
    """The ``process`` of an exec: the container's environment and user unless the request says otherwise."""
    merged = {name: value for name, _, value in (item.partition("=") for item in environment(container))}
    if request.tty:
        merged.setdefault("TERM", "xterm")
    for item in request.env:
        name, equals, value = item.partition("=")
        if not name:
            raise InvalidParameter(f"invalid environment variable: {item}")
        if equals:
            merged[name] = value
        else:
            merged.pop(name, None)
    process: dict[str, Any] = {
        "terminal": request.tty,
        "user": _user(request.user or container.config.user, container.host_config.group_add),
        "args": as_list(request.cmd),
        "env": [f"{name}={value}" for name, value in merged.items()],
        "cwd": request.working_dir or container.config.working_dir or "/",
        "capabilities": _capability_sets(capabilities),
        "noNewPrivileges": no_new_privileges,
        "oomScoreAdj": container.host_config.oom_score_adj,
    }
    if apparmor_profile and apparmor_profile != UNCONFINED:
        process["apparmorProfile"] = apparmor_profile
    if request.console_size and any(request.console_size):
        process["consoleSize"] = {"height": request.console_size[0], "width": request.console_size[1]}
    return process


def _mounts(container: Container, given: SpecInput) -> list[dict[str, Any]]:
    host = container.host_config
    writable = host.privileged
    cgroup_options = ["nosuid", "noexec", "nodev", "relatime"]
    if not (writable or given.security.writable_cgroups):
        cgroup_options.append("ro")
    # tty, where it is one of the groups that there are
    groups = sum(item["size"] for item in given.id_maps.gids) if given.id_maps else user_namespace.mapped("gid")
    terminal_group = ["gid=5"] if groups > 5 else []
    system: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *terminal_group],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", *([] if writable else ["ro"])],
        },
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": cgroup_options},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    ]
    if host.ipc_mode != "none":
        system.append(_shm(container, given))
    if given.init_source:
        system.append(
            {
                "destination": INIT_PATH,
                "type": "bind",
                "source": given.init_source,
                "options": ["bind", "ro", "rprivate"],
            }
        )
    mapped = ["idmap"] if given.id_maps and given.maps_files else []
    kept = ["ro"] if host.readonly_rootfs else []
    # last, so that they are seen in a volume at /etc as well
    files = [
        {"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", *kept, *mapped]}
        for destination, source in given.files.items()
    ]
    taken = {mount["destination"].rstrip("/") or "/" for mount in given.mounts}

    def ours(mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [mount for mount in mounts if mount["destination"] not in taken]

    # a device's own mounts stand in the place of ours, the user's above both
    covered = {mount["destination"].rstrip("/") or "/" for mount in given.devices.mounts}
    below = [mount for mount in system if mount["destination"] not in covered]
    below = sorted([*below, *given.devices.mounts], key=_depth) if covered else below
    return [*ours(below), *given.mounts, *ours(files)]


def _depth(mount: dict[str, Any]) -> int:
    return str(mount["destination"]).strip("/").count("/")


def _shm(container: Container, given: SpecInput) -> dict[str, Any]:
    if given.shm_source:
        return {
            "destination": "/dev/shm",
            "type": "bind",
            "source": given.shm_source,
            "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", *(["idmap"] if given.id_maps else [])],
        }
    size = container.host_config.shm_size
    return {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", f"size={size}"],
    }


def _namespaces(container: Container, given: SpecInput) -> list[dict[str, str]]:
    host = container.host_config
    spaces = [{"type": "mount"}]
    modes = (("network", host.network_mode), ("uts", host.uts_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode))
    for kind, mode in modes:
        if kind in given.joined:
            spaces.append({"type": kind, "path": given.joined[kind]})
        elif mode != "host":
            spaces.append({"type": kind})
    if given.id_maps:
        spaces.append({"type": "user", "path": given.joined["user"]} if "user" in given.joined else {"type": "user"})
    if host.cgroupns_mode == "private":
        spaces.append({"type": "cgroup"})
    if os.path.exists("/proc/self/ns/time"):
        spaces.append({"type": "time"})
    return spaces


def _linux(container: Container, given: SpecInput) -> dict[str, Any]:
    host = container.host_config
    nodes, rules = device_nodes(host)
    taken = {node["path"] for node in given.devices.nodes}
    nodes = [node for node in nodes if node["path"] not in taken] + given.devices.nodes
    rules += given.devices.rules
    linux: dict[str, Any] = {
        "cgroupsPath": given.cgroup_path,
        "namespaces": _namespaces(container, given),
        "devices": nodes,
        "resources": {**oci_resources(host, default_pids_limit=given.default_pids_limit), "devices": rules},
        "sysctl": _sysctls(host, own_ids=bool(given.id_maps)),
        "rootfsPropagation": "rprivate",
    }
    if given.devices.rdt:
        linux["intelRdt"] = given.devices.rdt
    if given.devices.interfaces:
        linux["netDevices"] = given.devices.interfaces
    if container.mount_label:
        linux["mountLabel"] = container.mount_label
    if given.id_maps:
        linux["uidMappings"], linux["gidMappings"] = given.id_maps.uids, given.id_maps.gids
    if not host.privileged and not given.security.unmasked:
        linux["maskedPaths"] = default_masked_paths() if host.masked_paths is None else host.masked_paths
        linux["readonlyPaths"] = list(READONLY_PATHS) if host.readonly_paths is None else host.readonly_paths
    seccomp = given.seccomp(given.capabilities)
    if seccomp is not None:
        linux["seccomp"] = seccomp
    propagations = {option for mount in given.mounts for option in mount.get("options", ())}
    if propagations & {"shared", "rshared"}:
        linux["rootfsPropagation"] = "shared"
    elif propagations & {"slave", "rslave"}:
        linux["rootfsPropagation"] = "rslave"
    return linux


def _sysctls(host: HostConfig, *, own_ids: bool) -> dict[str, str]:
    values = {}
    own_network = host.network_mode != "host" and not host.network_mode.startswith("container:")
    if own_network:
        # Docker's defaults: low ports and ping need no privilege in a network of one's own
        values["net.ipv4.ip_unprivileged_port_start"] = "0"
        if user_namespace.is_initial() and not own_ids:
            # a user namespace has no such groups
            values["net.ipv4.ping_group_range"] = "0 2147483647"
    values.update(host.sysctls)
    return values

"""From a container's record to the OCI runtime specification's ``config.json``: pure but for reading device numbers.

Sources: runtime-spec config.md and config-linux.md; the values are dockerd's (moby ``daemon/oci_linux.go``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from corten.dockerapi.container import DeviceMapping, ExecCreate, HostConfig, Ulimit
from corten.engine.apparmor import UNCONFINED
from corten.engine.container import Container, IdMaps, as_list
from corten.engine.limits import oci_resources
from corten.engine.security import READONLY_PATHS, SecurityOptions, default_masked_paths
from corten.errors import InvalidParameter
from corten.linux import user_namespace

OCI_VERSION = "1.2.0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INIT_PATH = "/sbin/docker-init"

# dockerd's list; the runtime adds what every container has
_DEFAULT_DEVICE_RULES: tuple[tuple[str, int, int, str], ...] = (
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 1, 8, "rwm"),  # random
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 1, "rwm"),  # console
)


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
    init_source:   the init program on the host, "" without --init
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
        "user": _user(config.user, host.group_add),
        "args": command,
        "env": environment(container),
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
    mapped = ["idmap"] if given.id_maps else []
    kept = ["ro"] if host.readonly_rootfs else []
    # last, so that they are seen in a volume at /etc as well
    files = [
        {"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", *kept, *mapped]}
        for destination, source in given.files.items()
    ]
    taken = {mount["destination"].rstrip("/") or "/" for mount in given.mounts}

    def ours(mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [mount for mount in mounts if mount["destination"] not in taken]

    return [*ours(system), *given.mounts, *ours(files)]


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
            return _devices_below(source, target)
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


def _devices_below(source: str, target: str) -> list[dict[str, Any]]:
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


def _devices(host: HostConfig) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(nodes to make, rules of the device cgroup)."""
    nodes: list[dict[str, Any]] = []
    if host.privileged:
        nodes.extend(_devices_below("/dev", "/dev"))
        rules: list[dict[str, Any]] = [{"allow": True, "access": "rwm"}]
    else:
        rules = [{"allow": False, "access": "rwm"}]
        for kind, major, minor, access in _DEFAULT_DEVICE_RULES:
            rules.append({"allow": True, "type": kind, "major": major, "minor": minor, "access": access})
    for mapping in host.devices:
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


def _linux(container: Container, given: SpecInput) -> dict[str, Any]:
    host = container.host_config
    nodes, rules = _devices(host)
    linux: dict[str, Any] = {
        "cgroupsPath": given.cgroup_path,
        "namespaces": _namespaces(container, given),
        "devices": nodes,
        "resources": {**oci_resources(host, default_pids_limit=given.default_pids_limit), "devices": rules},
        "sysctl": _sysctls(host, own_ids=bool(given.id_maps)),
        "rootfsPropagation": "rprivate",
    }
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

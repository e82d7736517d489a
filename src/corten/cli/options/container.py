"""From the options of ``corten run`` to the body of ``POST /containers/create``."""

from __future__ import annotations

import json

from corten.cli.options import devices, environment, mounts, network
from corten.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corten.cli.flags import Options

    Document = dict[str, Any]

# option -> field of HostConfig; sent when given
_LIMITS = {
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "memory-swappiness": "MemorySwappiness",
    "kernel-memory": "KernelMemory",
    "oom-kill-disable": "OomKillDisable",
    "cpu-shares": "CpuShares",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "pids-limit": "PidsLimit",
    "network-rate": "NetworkRate",
    "blkio-weight": "BlkioWeight",
    "shm-size": "ShmSize",
    "oom-score-adj": "OomScoreAdj",
    "cgroup-parent": "CgroupParent",
    "ipc": "IpcMode",
    "uts": "UTSMode",
    "pid": "PidMode",
    "userns": "UsernsMode",
    "cgroupns": "CgroupnsMode",
    "runtime": "Runtime",
    "isolation": "Isolation",
    "volume-driver": "VolumeDriver",
    "init": "Init",
    "privileged": "Privileged",
    "read-only": "ReadonlyRootfs",
    "publish-all": "PublishAllPorts",
    "rm": "AutoRemove",
    "cidfile": "ContainerIDFile",
}
_LISTS = {
    "blkio-weight-device": "BlkioWeightDevice",
    "device-read-bps": "BlkioDeviceReadBps",
    "device-write-bps": "BlkioDeviceWriteBps",
    "device-read-iops": "BlkioDeviceReadIOps",
    "device-write-iops": "BlkioDeviceWriteIOps",
    "device-cgroup-rule": "DeviceCgroupRules",
    "gpus": "DeviceRequests",
    "mount": "Mounts",
    "volumes-from": "VolumesFrom",
    "cap-add": "CapAdd",
    "cap-drop": "CapDrop",
    "group-add": "GroupAdd",
    "add-host": "ExtraHosts",
    "link": "Links",
}
_NAMESPACE_MODES = {
    "pid": ("", "host", "private"),
    "uts": ("", "host"),
    "userns": ("", "host", "auto"),
    "cgroupns": ("", "host", "private"),
}


def _check_namespaces(options: Options) -> None:
    for option, modes in _NAMESPACE_MODES.items():
        mode = options.text(option)
        joins = option == "pid" and mode.startswith("container:") and len(mode) > len("container:")
        sized = option == "userns" and mode.startswith("auto:")  # the daemon knows what can follow
        if mode not in modes and not joins and not sized:
            what = {"userns": "USER", "cgroupns": "CGROUP"}.get(option, option.upper())
            raise InvalidParameter(f"--{option}: invalid {what} mode")


def restart_policy(text: str) -> Document:
    """``--restart``.  Errors: InvalidParameter."""
    if not text:
        return {}
    name, colon, count = text.partition(":")
    if colon and not name:
        raise InvalidParameter("invalid restart policy format: no policy provided before colon")
    if count:
        try:
            return {"Name": name, "MaximumRetryCount": int(count)}
        except ValueError:
            raise InvalidParameter("invalid restart policy format: maximum retry count must be an integer") from None
    return {"Name": name, "MaximumRetryCount": 0}


def _seccomp(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            profile = json.load(file)
    except OSError as error:
        raise InvalidParameter(f"opening seccomp profile ({path}) failed: {error.strerror}") from None
    except ValueError as error:
        raise InvalidParameter(f"compacting json for seccomp profile ({path}) failed: {error}") from None
    return "seccomp=" + json.dumps(profile, separators=(",", ":"))


def _security(texts: list[str]) -> tuple[list[str], bool]:
    """(``SecurityOpt``, whether masked and read-only paths are asked away)."""
    found = []
    unconfined_paths = False
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator and key != "no-new-privileges":
            key, separator, value = text.partition(":")
        if key != "no-new-privileges" and not value:
            raise InvalidParameter(f'invalid --security-opt: "{text}"')
        if text == "systempaths=unconfined":
            unconfined_paths = True
        elif key == "seccomp" and value not in ("unconfined", "builtin"):
            found.append(_seccomp(value))
        else:
            found.append(text)
    return found, unconfined_paths


def _health(options: Options) -> Document | None:
    durations = {
        "health-interval": "Interval",
        "health-timeout": "Timeout",
        "health-start-period": "StartPeriod",
        "health-start-interval": "StartInterval",
    }
    health: Document = {field: options.value(option) for option, field in durations.items() if options.value(option)}
    if options.integer("health-retries"):
        health["Retries"] = options.integer("health-retries")
    command = options.text("health-cmd")
    if command:
        health["Test"] = ["CMD-SHELL", command]
    if options.switch("no-healthcheck"):
        if health:
            raise InvalidParameter("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    for option in (*durations, "health-retries"):
        if options.value(option) < 0:
            raise InvalidParameter(f"--{option} cannot be negative")
    return health or None


def _logging(options: Options) -> Document:
    driver, pairs = options.text("log-driver"), options.many("log-opt")
    if driver == "none" and pairs:
        raise InvalidParameter(f"invalid logging opts for driver {driver}")
    return {"Type": driver, "Config": environment.as_map(pairs)}


def _storage_options(pairs: list[str]) -> dict[str, str]:
    if not all("=" in pair for pair in pairs):
        raise InvalidParameter("invalid storage option")
    return environment.as_map(pairs)


def _networking(options: Options, document: Document, host: Document) -> None:
    networks = options.many("network") + options.many("net")
    shared = {
        "aliases": options.many("network-alias") + options.many("net-alias"),
        "links": options.many("link"),
        "mac": check_mac(options.text("mac-address")),
        "ipam": {
            field: value
            for field, value in (
                ("IPv4Address", options.value("ip")),
                ("IPv6Address", options.value("ip6")),
                ("LinkLocalIPs", options.many("link-local-ip")),
            )
            if value
        },
    }
    host["NetworkMode"] = networks[0]["name"] if networks else "default"
    found = network.endpoints(networks, shared)
    if found:
        document["NetworkingConfig"] = {"EndpointsConfig": found}
    if shared["mac"]:
        document["MacAddress"] = shared["mac"]


def check_mac(text: str) -> str:
    """The address, or nothing for nothing.  Errors: InvalidParameter."""
    return network.check_mac(text) if text else ""


def _program(options: Options, image: str, command: list[str]) -> Document:
    attached = set(options.many("attach"))
    stdin = options.switch("interactive")
    document: Document = {
        "Image": image,
        "Hostname": options.text("hostname"),
        "Domainname": options.text("domainname"),
        "User": options.text("user"),
        "AttachStdin": stdin or "stdin" in attached,
        "AttachStdout": not attached or "stdout" in attached,
        "AttachStderr": not attached or "stderr" in attached,
        "Tty": options.switch("tty"),
        "OpenStdin": stdin,
        "Env": environment.variables(options.many("env-file"), options.many("env")),
        "Cmd": command or None,
        "WorkingDir": options.text("workdir"),
        "Labels": environment.labels(options.many("label-file"), options.many("label")),
        "StopSignal": options.text("stop-signal"),
    }
    # the input of a program that somebody is attached to ends when that client goes
    document["StdinOnce"] = document["OpenStdin"] and document["AttachStdin"]
    if options.is_given("entrypoint"):
        document["Entrypoint"] = [options.text("entrypoint")]
    if options.is_given("stop-timeout"):
        document["StopTimeout"] = options.integer("stop-timeout")
    health = _health(options)
    if health is not None:
        document["Healthcheck"] = health
    return document


def _split_devices(texts: list[str]) -> tuple[list[str], list[str]]:
    """(names of CDI devices, devices of the host)."""
    if not any("=" in text for text in texts):
        return [], texts
    from corten.dockerapi.device_names import is_qualified

    return [text for text in texts if is_qualified(text)], [text for text in texts if not is_qualified(text)]


def document_of(options: Options, image: str, command: list[str]) -> Document:
    """The body of ``POST /containers/create``.

    Errors: InvalidParameter.
    """
    _check_namespaces(options)
    swappiness = options.integer("memory-swappiness")
    if swappiness != -1 and not 0 <= swappiness <= 100:
        raise InvalidParameter(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    document = _program(options, image, command)
    host: Document = {field: options.value(option) for option, field in _LIMITS.items() if options.is_given(option)}
    host |= {field: options.many(option) for option, field in _LISTS.items() if options.is_given(option)}

    binds, anonymous = mounts.split_volumes(options.many("volume"))
    published = network.port_bindings(options.many("publish"))
    security, unconfined_paths = _security(options.many("security-opt"))
    document["Volumes"] = anonymous
    document["ExposedPorts"] = network.exposed_ports(options.many("expose"), published)
    named, plain = _split_devices(options.many("device"))
    if named:
        host["DeviceRequests"] = [*host.get("DeviceRequests", ()), {"Driver": "cdi", "DeviceIDs": named}]
    host |= {
        "Binds": binds,
        "Tmpfs": mounts.tmpfs_map(options.many("tmpfs")),
        "PortBindings": published,
        "Devices": [devices.device(text) for text in plain],
        "Ulimits": list({limit["Name"]: limit for limit in options.many("ulimit")}.values()),
        "Sysctls": environment.as_map(options.many("sysctl")),
        "Annotations": environment.as_map(options.many("annotation")),
        "Dns": options.many("dns"),
        "DnsOptions": options.many("dns-option") + options.many("dns-opt"),
        "DnsSearch": options.many("dns-search"),
        "SecurityOpt": security,
        "StorageOpt": _storage_options(options.many("storage-opt")),
        "LogConfig": _logging(options),
        "RestartPolicy": restart_policy(options.text("restart")),
    }
    if unconfined_paths:
        host["MaskedPaths"] = []
        host["ReadonlyPaths"] = []
    if options.switch("rm") and host["RestartPolicy"].get("Name") not in (None, "", "no"):
        raise InvalidParameter("conflicting options: cannot specify both --restart and --rm")
    _networking(options, document, host)
    keep_empty = ("Dns", "DnsOptions", "DnsSearch", "MaskedPaths", "ReadonlyPaths")
    document["HostConfig"] = {key: value for key, value in host.items() if value not in ([], {}) or key in keep_empty}
    return document

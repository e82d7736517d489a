"""What the client asked for and what the image brings, joined and checked: pure functions.

Wording of the errors is Docker's where its tools parse it.
"""

from __future__ import annotations

import ipaddress
import re
import signal
from collections.abc import Iterable
from typing import Any

import msgspec

from corten.dockerapi.container import ContainerConfig, ContainerCreate, HealthConfig, HostConfig, LogConfig
from corten.engine.container import as_list
from corten.engine.limits import Machine, check_resources, memory_and_swap
from corten.engine.user_namespaces import automatic_size
from corten.errors import InvalidParameter, NotFound
from corten.oci.platform import from_document, parse_platform

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MILLISECOND_NS = 1_000_000

# sysctls that belong to a namespace: any other would change the host (security: CVE-2022-0811)
_IPC_SYSCTLS = frozenset(
    (
        "kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni "
        "kernel.shm_rmid_forced"
    ).split()
)
_SYSCTL_NAME = re.compile(r"[a-z0-9_]+([./][A-Za-z0-9_.:-]+)+\Z")
_CAPABILITY = re.compile(r"[A-Z_]+\Z")


def parse_signal(text: str) -> int:
    """A signal by name (with or without SIG, RTMIN+n) or number.  Errors: InvalidParameter "Invalid signal: x"."""
    name = text.strip().upper()
    if name.isdigit() and len(name) < 4:
        number = int(name)
        if 0 < number <= signal.SIGRTMAX:
            return number
        raise InvalidParameter(f"Invalid signal: {text}")
    name = name.removeprefix("SIG")
    match = re.fullmatch(r"RTM(IN|AX)([+-]\d{1,2})?", name)
    if match:
        base = signal.SIGRTMIN if match[1] == "IN" else signal.SIGRTMAX
        number = base + int(match[2] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
        raise InvalidParameter(f"Invalid signal: {text}")
    try:
        return int(signal.Signals[f"SIG{name}"])
    except KeyError:
        raise InvalidParameter(f"Invalid signal: {text}") from None


def merge_environment(base: list[str], given: list[str]) -> list[str]:
    """What the client gave, then what only the image has, as dockerd lists them.  Errors: InvalidParameter for "=x"."""
    merged: dict[str, str | None] = {}
    for number, item in enumerate([*given, *base]):
        name, equals, value = item.partition("=")
        if not name:
            raise InvalidParameter(f"invalid environment variable: {item}")
        if "\0" in item:
            raise InvalidParameter("invalid environment variable: it contains a NUL byte")
        if number < len(given) or name not in merged:
            merged[name] = value if equals else None
    return [name if value is None else f"{name}={value}" for name, value in merged.items()]


def merge_image(request: ContainerConfig, image: dict[str, Any]) -> ContainerConfig:
    """The container's configuration: the client's values over the image's ``config`` (image-spec config.md)."""
    theirs = image.get("config") or {}
    config = ContainerConfig(**{name: getattr(request, name) for name in ContainerConfig.__struct_fields__})
    config.env = merge_environment(theirs.get("Env") or [], config.env)
    config.user = config.user or theirs.get("User") or ""
    config.working_dir = config.working_dir or theirs.get("WorkingDir") or ""
    config.stop_signal = config.stop_signal or theirs.get("StopSignal") or ""
    if config.stop_timeout is None:
        config.stop_timeout = theirs.get("StopTimeout")
    config.shell = config.shell or theirs.get("Shell")
    # an entry point from the client drops the image's command; [""] clears the image's entry point
    entrypoint, command = as_list(config.entrypoint), as_list(config.cmd)
    if not entrypoint:
        command = command or as_list(theirs.get("Cmd"))
        entrypoint = as_list(theirs.get("Entrypoint"))
    if entrypoint == [""]:
        entrypoint = []
    config.entrypoint, config.cmd = entrypoint or None, command or None
    config.labels = {**(theirs.get("Labels") or {}), **config.labels}
    config.exposed_ports = {**(theirs.get("ExposedPorts") or {}), **config.exposed_ports}
    config.volumes = {**(theirs.get("Volumes") or {}), **config.volumes}
    config.healthcheck = merge_healthcheck(config.healthcheck, theirs.get("Healthcheck"))
    return config


def merge_healthcheck(given: HealthConfig | None, theirs: dict[str, Any] | None) -> HealthConfig | None:
    """Field by field: what the client left at zero comes from the image."""
    if not theirs:
        return given
    base = msgspec.convert({key: value for key, value in theirs.items() if value is not None}, HealthConfig)
    if given is None:
        return base
    if given.test and given.test[0] == "NONE":
        return given
    merged = HealthConfig()
    for name in HealthConfig.__struct_fields__:
        setattr(merged, name, getattr(given, name) or getattr(base, name))
    return merged


def check_platform(reference: str, image_config: dict[str, Any], wanted: str) -> None:
    """Errors: NotFound in dockerd's words, on which clients pull; InvalidParameter."""
    asked, actual = parse_platform(wanted), from_document(image_config)
    if actual.rank(asked) not in (0, 1):
        raise NotFound(
            f"image with reference {reference} was found but does not provide the specified platform: "
            f"wanted {asked}, actual: {actual}"
        )


def check_config(config: ContainerConfig) -> None:
    if not as_list(config.entrypoint) + as_list(config.cmd):
        raise InvalidParameter("no command specified")
    if any("\0" in part for part in as_list(config.entrypoint) + as_list(config.cmd)):
        raise InvalidParameter("invalid command: it contains a NUL byte")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        parse_signal(config.stop_signal)
    if config.hostname and (len(config.hostname) > 64 or not re.fullmatch(r"[A-Za-z0-9_.-]+", config.hostname)):
        raise InvalidParameter(f"invalid hostname format: {config.hostname}")
    for key in config.exposed_ports:
        parse_port(key)
    health = config.healthcheck
    if health:
        for what, value in (
            ("Interval", health.interval),
            ("Timeout", health.timeout),
            ("StartInterval", health.start_interval),
        ):
            if value and value < _MILLISECOND_NS:
                raise InvalidParameter(f"{what} in Healthcheck cannot be less than 1ms")
        if health.retries < 0:
            raise InvalidParameter("Retries in Healthcheck cannot be negative")
        if health.start_period and health.start_period < _MILLISECOND_NS:
            raise InvalidParameter("StartPeriod in Healthcheck cannot be less than 1ms")
        if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
            raise InvalidParameter(f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD')")


def parse_port(text: str) -> tuple[int, str]:
    """("80/tcp") -> (80, "tcp").  Errors: InvalidParameter "invalid port specification"."""
    number, _, protocol = text.partition("/")
    first, dash, last = number.partition("-")
    valid = first.isdigit() and int(first) <= 65535 and (not dash or (last.isdigit() and int(last) <= 65535))
    if not valid or (protocol or "tcp") not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return int(first), protocol or "tcp"


def check_restart_policy(host_config: HostConfig) -> None:
    policy = host_config.restart_policy
    if policy.name not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if host_config.auto_remove and policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def check_capabilities(names: list[str], known: frozenset[str], option: str) -> None:
    for name in names:
        upper = name.upper()
        if upper == "ALL":
            continue
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if not _CAPABILITY.match(full) or full not in known:
            raise InvalidParameter(f'invalid {option}: unknown capability: "{full}"')


def check_sysctls(host_config: HostConfig) -> None:
    """Only what a namespace of the container's own holds."""
    for name, value in host_config.sysctls.items():
        plain = name.replace("/", ".")
        if not _SYSCTL_NAME.match(name) or ".." in plain or "\n" in value or "\0" in value:
            raise InvalidParameter(f"invalid sysctl '{name}={value}'")
        if plain.startswith("net."):
            if host_config.network_mode == "host":
                raise InvalidParameter(f"sysctl '{name}={value}' cannot be set in host network namespace")
        elif plain in _IPC_SYSCTLS or plain.startswith("fs.mqueue."):
            if host_config.ipc_mode == "host":
                raise InvalidParameter(f"sysctl '{name}={value}' cannot be set in host ipc namespace")
        else:
            raise InvalidParameter(f"sysctl '{name}={value}' is not whitelisted")


def check_namespaces(host_config: HostConfig) -> None:
    """Modes of ipc, pid, uts, user, cgroup and network."""
    checks = (
        ("IPC mode", host_config.ipc_mode, ("", "none", "private", "shareable", "host"), True),
        ("PID mode", host_config.pid_mode, ("", "private", "host"), True),
        ("UTS mode", host_config.uts_mode, ("", "private", "host"), False),
        ("cgroup namespace mode", host_config.cgroupns_mode, ("", "private", "host"), False),
    )
    for what, mode, plain, joinable in checks:
        if mode in plain or (joinable and mode.startswith("container:") and len(mode) > len("container:")):
            continue
        raise InvalidParameter(f"invalid {what}: {mode}")
    if host_config.userns_mode not in ("", "host") and not automatic_size(host_config.userns_mode):
        raise InvalidParameter(f"invalid user namespace mode: {host_config.userns_mode}")
    if host_config.cgroup:
        raise InvalidParameter("joining another container's cgroup is not supported")
    if host_config.network_mode == "container:":
        raise InvalidParameter("invalid network mode: a container is missing in container:<name|id>")


def check_shared_namespaces(request: ContainerCreate) -> None:
    """What belongs to a namespace is set where the namespace is made, not by those that join it.

    Only what the client itself asked for: what an image exposes is no contradiction.
    """
    host = request.host_config
    if host.uts_mode == "host" and request.hostname:
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    joins = host.network_mode.startswith("container:")
    if (joins or host.network_mode == "host") and host.links:
        raise InvalidParameter("conflicting options: links cannot be used with this network mode")
    contradictions = (
        (request.hostname, "hostname and the network mode"),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (request.mac_address, "mac-address and the network mode"),
        (host.port_bindings or host.publish_all_ports, "port publishing and the container type network mode"),
        (request.exposed_ports, "port exposing and the container type network mode"),
    )
    for given, what in contradictions:
        if joins and given:
            raise InvalidParameter(f"conflicting options: {what}")


def check_extra_hosts(entries: Iterable[str]) -> None:
    """ "name:address" each; "host-gateway" is an address too.  Errors: InvalidParameter in dockerd's words."""
    for entry in entries:
        name, colon, address = entry.partition(":")
        if not colon or not name or name.split() != [name]:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
        if address != "host-gateway":
            try:
                ipaddress.ip_address(address.strip("[]"))
            except ValueError:
                raise InvalidParameter(f'invalid IP address in add-host: "{address}"') from None


def check_host_config(host_config: HostConfig, machine: Machine, capabilities: frozenset[str]) -> list[str]:
    """Returns warnings.  Errors: InvalidParameter."""
    warnings = check_resources(host_config, machine)
    check_restart_policy(host_config)
    check_namespaces(host_config)
    check_capabilities(host_config.cap_add, capabilities, "CapAdd")
    check_capabilities(host_config.cap_drop, capabilities, "CapDrop")
    check_sysctls(host_config)
    check_extra_hosts(host_config.extra_hosts)
    if not -1000 <= host_config.oom_score_adj <= 1000:
        raise InvalidParameter(f"Invalid value {host_config.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host_config.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    storage_size(host_config.storage_opt)
    if host_config.isolation not in ("", "default"):
        raise InvalidParameter(f"invalid isolation '{host_config.isolation}' on linux")
    for device in host_config.devices:
        if not device.path_on_host:
            raise InvalidParameter("invalid device: PathOnHost is empty")
        if device.cgroup_permissions.strip("rwm"):
            raise InvalidParameter(
                f"invalid device permissions '{device.cgroup_permissions}' for {device.path_on_host}"
            )
    for rule in host_config.device_cgroup_rules:
        if not re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", rule):
            raise InvalidParameter(f"invalid device cgroup rule format: '{rule}'")
    return warnings


_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtpKMGTP]?)(?:i?[bB])?\Z")


def storage_size(options: dict[str, str]) -> int:
    """The limit of ``--storage-opt size=`` in bytes, 0 for none; units are powers of 1024 (go-units RAMInBytes).

    Errors: InvalidParameter in the words of dockerd's overlay2.
    """
    for key in options:
        if key.lower() != "size":
            raise InvalidParameter(f"unknown option {key}")
    text = next(iter(options.values()), "0")
    found = _SIZE.match(text)
    if found is None or (options and float(found[1]) <= 0):
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** ("kmgtp".index(found[2].lower()) + 1 if found[2] else 0))


def fill_defaults(
    host_config: HostConfig,
    *,
    log: LogConfig,
    shm_size: int,
    ipc_mode: str,
    cgroupns_mode: str,
    init: bool,
    runtime: str,
    network: str,
) -> None:
    """What the client left open gets the daemon's defaults, so that inspect tells what is in force."""
    if host_config.network_mode in ("", "default"):
        host_config.network_mode = network
    host_config.shm_size = host_config.shm_size or shm_size
    host_config.ipc_mode = host_config.ipc_mode or ipc_mode
    if not host_config.cgroupns_mode:
        host_config.cgroupns_mode = "host" if host_config.privileged and cgroupns_mode == "host" else cgroupns_mode
    if not host_config.log_config.type:
        host_config.log_config = LogConfig(type=log.type, config={**log.config, **host_config.log_config.config})
    host_config.restart_policy.name = host_config.restart_policy.name or "no"
    host_config.runtime = host_config.runtime or runtime
    if host_config.init is None and init:
        host_config.init = True
    # the docker client sends these for "not given"
    if host_config.memory_swappiness == -1:
        host_config.memory_swappiness = None
    if host_config.pids_limit == 0:
        host_config.pids_limit = None
    if host_config.memory > 0:
        host_config.memory_swap = memory_and_swap(host_config)


def split_request(request: ContainerCreate) -> HostConfig:
    """A copy of the request's HostConfig, so that the request stays as the client sent it."""
    return msgspec.convert(msgspec.to_builtins(request.host_config), HostConfig)

"""Every option of ``corten run`` and ``corten create`` that describes the container."""

from __future__ import annotations

from corten.cli.flags import BadValue, Flag, integer, many, single, switch, text
from corten.cli.options import devices, environment, mounts, network
from corten.cli.options.rate import read_rate
from corten.cli.units import read_cpus, read_duration, read_size, read_swap_size

_STREAMS = ("stdin", "stdout", "stderr")


def _read_stream(value: str) -> str:
    if value.lower() not in _STREAMS:
        raise BadValue("valid streams are STDIN, STDOUT and STDERR")
    return value.lower()


def _read_pair(value: str) -> str:
    if not value.partition("=")[0].strip() or "=" not in value:
        raise BadValue("KEY=VALUE is needed")
    return value


PROGRAM = (
    many("attach", "a", "Stream to attach to: stdin, stdout or stderr", _read_stream),
    many(
        "env",
        "e",
        "Environment variable (NAME=VALUE, or NAME alone to pass this shell's value on)",
        environment.read_variable,
    ),
    many("env-file", "", "File with environment variables, one NAME=VALUE per line"),
    text("entrypoint", "", "Program to run in the place of the image's entry point"),
    many("group-add", "", "Further groups of the program (names or ids)"),
    text("hostname", "h", "Host name inside the container"),
    text("domainname", "", "NIS domain name inside the container"),
    switch("interactive", "i", "Keep standard input open, also when nobody is attached"),
    switch("tty", "t", "Give the program a terminal"),
    text("user", "u", "User to run as (name or uid, with group: USER:GROUP)"),
    text("workdir", "w", "Working directory inside the container"),
    text("stop-signal", "", "Signal that asks the program to end"),
    integer("stop-timeout", "", "Seconds to wait after the stop signal before SIGKILL"),
    switch("init", "", "Run a small init as PID 1 that forwards signals and reaps processes"),
    many("label", "l", "Label of the container (KEY=VALUE)", environment.read_label),
    many("label-file", "", "File with labels, one KEY=VALUE per line"),
    many("annotation", "", "Annotation that is passed to the OCI runtime (KEY=VALUE)", _read_pair, metavar="map"),
    text(
        "restart",
        "",
        "What to do when the program ends: no, always, unless-stopped, on-failure[:RETRIES]",
        default="no",
    ),
    switch("rm", "", "Remove the container and its anonymous volumes when the program has ended"),
    text("cidfile", "", "File to write the container's id to"),
    text("runtime", "", "Runtime to use for this container"),
    text("isolation", "", "Isolation technology of the container"),
)

STORAGE = (
    many("volume", "v", "Bind a directory or a volume: SOURCE:TARGET[:OPTIONS], or TARGET for an anonymous volume"),
    many(
        "mount",
        "",
        "Mount: type=bind|volume|tmpfs|image,source=…,target=…[,readonly]",
        mounts.read_mount,
        metavar="mount",
    ),
    many("tmpfs", "", "Mount a tmpfs: PATH[:OPTIONS]"),
    many("volumes-from", "", "Take the mounts of another container: NAME[:ro|rw]"),
    text("volume-driver", "", "Driver of the volumes that are made"),
    many("storage-opt", "", "Option of the storage driver (KEY=VALUE)"),
    switch("read-only", "", "Make the container's root read-only"),
    single("shm-size", "", "Size of /dev/shm", read_size, metavar="bytes", default=0),
)

ISOLATION = (
    many("cap-add", "", "Capability to add, or ALL"),
    many("cap-drop", "", "Capability to drop, or ALL"),
    switch("privileged", "", "All capabilities, all devices, nothing masked"),
    many("security-opt", "", "Security option: seccomp=FILE|unconfined, no-new-privileges, systempaths=unconfined, …"),
    text("ipc", "", "IPC namespace: private, shareable, host, none, container:NAME"),
    text("pid", "", "PID namespace: host, container:NAME"),
    text("uts", "", "UTS namespace: host"),
    text("userns", "", "User namespace: host, auto, auto:size=N"),
    text("cgroupns", "", "Cgroup namespace: host, private"),
    text("cgroup-parent", "", "Cgroup to make the container's in"),
    many("sysctl", "", "Kernel parameter of the container's namespaces (KEY=VALUE)", _read_pair, metavar="map"),
    many("ulimit", "", "Resource limit of processes: NAME=SOFT[:HARD]", devices.read_ulimit, metavar="ulimit"),
    many("device", "", "Device of the host: HOST[:CONTAINER][:rwm], or CDI device: VENDOR/CLASS=NAME"),
    many("device-cgroup-rule", "", "Rule of the device cgroup: 'TYPE MAJOR:MINOR MODE'", devices.read_cgroup_rule),
    many("gpus", "", "Graphics processors: all, a number, or device=…", devices.read_gpus, metavar="gpu-request"),
    integer("oom-score-adj", "", "oom_score_adj of the program (-1000 to 1000)"),
)

NETWORK = (
    many(
        "network",
        "",
        "Network to connect to: none, host, container:NAME, or a network's name",
        network.read_network,
        metavar="network",
    ),
    many("net", "", "The same as --network", network.read_network, metavar="network", hidden=True),
    many("network-alias", "", "Further name in the network"),
    many("net-alias", "", "The same as --network-alias", hidden=True),
    many("publish", "p", "Publish a port: [ADDRESS:][HOST:]CONTAINER[/PROTOCOL]"),
    switch("publish-all", "P", "Publish all exposed ports to free ports of the host"),
    many("expose", "", "Port or range of ports to expose: PORT[-PORT][/PROTOCOL]"),
    many("add-host", "", "Line of /etc/hosts: NAME:ADDRESS", network.read_extra_host),
    many("dns", "", "Name server", network.read_address),
    many("dns-option", "", "Option of the resolver"),
    many("dns-opt", "", "The same as --dns-option", hidden=True),
    many("dns-search", "", "Search domain of the resolver", network.read_search_domain),
    many("link", "", "Link to another container: NAME[:ALIAS]", network.read_link),
    single("ip", "", "IPv4 address in the network", network.read_address, metavar="ip"),
    single("ip6", "", "IPv6 address in the network", network.read_address, metavar="ip"),
    many("link-local-ip", "", "Link-local address in the network", network.read_address),
    text("mac-address", "", "MAC address in the network"),
)

LOGGING = (
    text("log-driver", "", "Where the log goes: json-file, local, none"),
    many("log-opt", "", "Option of the log driver (KEY=VALUE)"),
)

HEALTH = (
    text("health-cmd", "", "Command that tells whether the program is well"),
    single("health-interval", "", "Time between two checks (ms|s|m|h)", read_duration, metavar="duration", default=0),
    integer("health-retries", "", "Failures in a row that mean unhealthy"),
    single("health-timeout", "", "Longest time of one check (ms|s|m|h)", read_duration, metavar="duration", default=0),
    single(
        "health-start-period",
        "",
        "Time in which failures do not count (ms|s|m|h)",
        read_duration,
        metavar="duration",
        default=0,
    ),
    single(
        "health-start-interval",
        "",
        "Time between two checks in the start period (ms|s|m|h)",
        read_duration,
        metavar="duration",
        default=0,
    ),
    switch("no-healthcheck", "", "Ignore the image's health check"),
)

LIMITS = (
    single(
        "network-rate",
        "",
        "Bytes a second of each interface: RATE, or ingress=RATE,egress=RATE[,burst=BYTES]; 0 for no limit",
        read_rate,
        metavar="rate",
    ),
    single("memory", "m", "Memory limit", read_size, metavar="bytes", default=0),
    single("memory-reservation", "", "Memory soft limit", read_size, metavar="bytes", default=0),
    single(
        "memory-swap",
        "",
        "Limit of memory and swap together, -1 for unlimited swap",
        read_swap_size,
        metavar="bytes",
        default=0,
    ),
    integer("memory-swappiness", "", "How readily memory is swapped out (0 to 100)", default=-1),
    single("kernel-memory", "", "Kernel memory limit", read_size, metavar="bytes", default=0, hidden=True),
    switch("oom-kill-disable", "", "Let processes wait for memory where they would be killed"),
    integer("cpu-shares", "c", "Relative weight of CPU time"),
    integer("cpu-period", "", "Period of the CPU quota in microseconds"),
    integer("cpu-quota", "", "CPU time per period in microseconds"),
    integer("cpu-rt-period", "", "Period of real-time CPU time in microseconds"),
    integer("cpu-rt-runtime", "", "Real-time CPU time per period in microseconds"),
    single("cpus", "", "Number of CPUs, for example 1.5", read_cpus, metavar="decimal", default=0),
    text("cpuset-cpus", "", "CPUs to run on (0-3, 0,1)"),
    text("cpuset-mems", "", "Memory nodes to use (0-3, 0,1)"),
    integer("pids-limit", "", "Largest number of processes, -1 for unlimited"),
    single(
        "blkio-weight",
        "",
        "Relative weight of block I/O (10 to 1000, 0 for none)",
        devices.read_weight,
        metavar="uint16",
        default=0,
    ),
    many("blkio-weight-device", "", "Relative weight for one device: DEVICE:WEIGHT", devices.read_device_weight),
    many("device-read-bps", "", "Limit of reading from a device: DEVICE:BYTES_PER_SECOND", devices.read_rate_bytes),
    many("device-write-bps", "", "Limit of writing to a device: DEVICE:BYTES_PER_SECOND", devices.read_rate_bytes),
    many(
        "device-read-iops",
        "",
        "Limit of reading from a device: DEVICE:OPERATIONS_PER_SECOND",
        devices.read_rate_operations,
    ),
    many(
        "device-write-iops",
        "",
        "Limit of writing to a device: DEVICE:OPERATIONS_PER_SECOND",
        devices.read_rate_operations,
    ),
)


# in the help, under these titles
SECTIONS: dict[str, tuple[Flag, ...]] = {
    "Program": PROGRAM,
    "Storage": STORAGE,
    "Isolation and Device": ISOLATION,
    "Network": NETWORK,
    "Limit": LIMITS,
    "Logging": LOGGING,
    "Health": HEALTH,
}
ALL: tuple[Flag, ...] = (*PROGRAM, *STORAGE, *ISOLATION, *NETWORK, *LOGGING, *HEALTH, *LIMITS)

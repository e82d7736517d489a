"""Container documents of the Docker Engine API: what a client asks for.

Field names follow the published description (``ContainerConfig``, ``HostConfig``, …); Python names are the snake case
of the wire names.  Values are exactly what the client sent: checking is the engine's work.

Sizes are bytes, periods and quotas microseconds, health intervals nanoseconds, ``nano_cpus`` 1e-9 CPUs.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field


class Document(Struct, rename="pascal", omit_defaults=False, kw_only=True):
    """Base: snake case in Python, Pascal case on the wire."""


class HealthConfig(Document):
    test: list[str] = field(default_factory=list)
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class ContainerConfig(Document):
    """What belongs to the program: also the ``Config`` of an image."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = field(default_factory=dict)
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = field(default_factory=list)
    cmd: list[str] | str | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] = field(default_factory=dict)
    working_dir: str = ""
    entrypoint: list[str] | str | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] | None = None


class LogConfig(Document):
    type: str = ""
    config: dict[str, str] = field(default_factory=dict)


class RestartPolicy(Document):
    name: str = ""
    maximum_retry_count: int = 0


class PortBinding(Document):
    host_ip: str = ""
    host_port: str = ""


class DeviceMapping(Document):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Document):
    driver: str = ""
    count: int = 0
    device_ids: list[str] = field(default_factory=list, name="DeviceIDs")
    capabilities: list[list[str]] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)


class WeightDevice(Document):
    path: str = ""
    weight: int = 0


class ThrottleDevice(Document):
    """``rate`` is bytes per second or operations per second."""

    path: str = ""
    rate: int = 0


class Ulimit(Document):
    """-1 stands for unlimited."""

    name: str = ""
    soft: int = 0
    hard: int = 0


class DriverConfig(Document):
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class BindOptions(Document):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    id_map: bool = field(default=False, name="IDMap")  # Corten's own


class VolumeOptions(Document):
    no_copy: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    driver_config: DriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Document):
    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] = field(default_factory=list)


class ImageOptions(Document):
    subpath: str = ""


class Mount(Document):
    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


class Resources(Document):
    """Limits: also the body of ``POST /containers/{id}/update`` (with ``RestartPolicy``)."""

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] = field(default_factory=list)
    blkio_device_read_bps: list[ThrottleDevice] = field(default_factory=list)
    blkio_device_write_bps: list[ThrottleDevice] = field(default_factory=list)
    blkio_device_read_iops: list[ThrottleDevice] = field(default_factory=list, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] = field(default_factory=list, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] = field(default_factory=list)
    device_cgroup_rules: list[str] = field(default_factory=list)
    device_requests: list[DeviceRequest] = field(default_factory=list)
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] = field(default_factory=list)
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: int = field(default=0, name="IOMaximumBandwidth")
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(default=0, name="KernelMemoryTCP")


class NetworkRate(Document):
    """Bytes a second into (ingress) and out of (egress) each interface, 0 for no limit; bytes at once, 0: as fits.

    Not in Docker's API: an extension of ours.
    """

    ingress: int = 0
    egress: int = 0
    burst: int = 0

    @property
    def is_set(self) -> bool:
        return bool(self.ingress or self.egress)


class HostConfig(Resources):
    """What belongs to this host: mounts, limits, namespaces, security."""

    binds: list[str] = field(default_factory=list)
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] = field(default_factory=dict)
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = field(default_factory=list)
    console_size: list[int] = field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] = field(default_factory=dict)
    cap_add: list[str] = field(default_factory=list)
    cap_drop: list[str] = field(default_factory=list)
    cgroupns_mode: str = ""
    dns: list[str] = field(default_factory=list)
    dns_options: list[str] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    extra_hosts: list[str] = field(default_factory=list)
    group_add: list[str] = field(default_factory=list)
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] = field(default_factory=list)
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = field(default_factory=list)
    storage_opt: dict[str, str] = field(default_factory=dict)
    tmpfs: dict[str, str] = field(default_factory=dict)
    uts_mode: str = field(default="", name="UTSMode")
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = field(default_factory=dict)
    runtime: str = ""
    isolation: str = ""
    mounts: list[Mount] = field(default_factory=list)
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None
    network_rate: NetworkRate | None = None


class EndpointIPAMConfig(Document):
    """Addresses that a client wishes."""

    ipv4_address: str = field(default="", name="IPv4Address")
    ipv6_address: str = field(default="", name="IPv6Address")
    link_local_ips: list[str] = field(default_factory=list, name="LinkLocalIPs")


class EndpointSettings(Document):
    """What a client wishes of a container's connection to a network."""

    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: list[str] = field(default_factory=list)
    aliases: list[str] = field(default_factory=list)
    mac_address: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)
    gw_priority: int = 0


class NetworkingConfig(Document):
    endpoints_config: dict[str, EndpointSettings | None] = field(default_factory=dict)


class ContainerCreate(ContainerConfig):
    """Body of ``POST /containers/create``."""

    host_config: HostConfig = field(default_factory=HostConfig)
    networking_config: NetworkingConfig = field(default_factory=NetworkingConfig)


class ContainerUpdate(Resources):
    """Body of ``POST /containers/{id}/update``.  Rules of block devices: None leaves them, an empty list lifts them.

    network_rate: None leaves it, zeros lift it
    """

    restart_policy: RestartPolicy | None = None
    network_rate: NetworkRate | None = None
    # what is ignored: that fields of the base may be None here
    blkio_weight_device: list[WeightDevice] | None = None  # type: ignore[assignment]
    blkio_device_read_bps: list[ThrottleDevice] | None = None  # type: ignore[assignment]
    blkio_device_write_bps: list[ThrottleDevice] | None = None  # type: ignore[assignment]
    blkio_device_read_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceReadIOps")  # type: ignore[assignment]
    blkio_device_write_iops: list[ThrottleDevice] | None = field(default=None, name="BlkioDeviceWriteIOps")  # type: ignore[assignment]


class ExecCreate(Document):
    """Body of ``POST /containers/{id}/exec``."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] = field(default_factory=list)
    working_dir: str = ""
    cmd: list[str] | str | None = None


class ExecStart(Document):
    """Body of ``POST /exec/{id}/start``."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None

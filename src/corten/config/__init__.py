"""The daemon's configuration: daemon.json and dockerd's flag names, joined into one frozen ``Config``.

A key that is given both in the file and as a flag is an error, as with dockerd; a key that Corten does not know, or
knows and cannot honour, is an error too: nothing is parsed and ignored.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from corten import places
from corten.config import flags
from corten.config.flags import LOG_LEVELS
from corten.config.values import converted, mirror_urls
from corten.errors import InvalidParameter

__all__ = ["LOG_LEVELS", "Config", "export_proxies", "load", "mirror_urls", "reload"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that the composition root needs to know.

    hosts:             where the API listens: ``unix:///path``, ``tcp://host:port``, ``fd://``
    tls, tlsverify:    TCP with TLS; only for clients with a certificate of ``tlscacert``
    allow_unauthenticated_tcp: TCP without ``tlsverify``, for everyone who can connect
    tcp_names:         names by which clients may call this daemon where TLS does not prove the name
    metrics_addr:      "host:port" where everyone may read the metrics
    runtimes:          other OCI runtimes: name -> program and its options
    shutdown_timeout:  seconds that containers get to end when the daemon stops without live-restore
    bridge, bip, fixed_cidr, ipv6, fixed_cidr_v6, mtu, icc, ip, ip_masq: of the default network (ip: host address of
                       ports that are published without one)
    exec_opts:         "native.cgroupdriver" -> "cgroupfs" or "systemd"
    default_network_opts: driver -> options of networks that are made without them
    host_gateway_ip:   what "host-gateway" stands for in --add-host, "" for the host's address in the default network
    dns, dns_opts, dns_search: of containers that ask for none
    registry_mirrors:  base URLs that are asked before Docker Hub
    insecure_registries: "host[:port]" or "10.0.0.0/8" where TLS is not needed and certificates are not checked
    max_concurrent_downloads, max_concurrent_uploads: layers at a time; max_download_attempts: tries in a row
    http_proxy, https_proxy, no_proxy: in the place of the environment's variables of these names
    default_pids_limit: processes of a container that asks for no limit; 0 or -1 for as many as it likes
    selinux_enabled:   containers have SELinux labels of their own
    userns_remap:      whose subordinate ids containers have: "default", "user[:group]", "uid[:gid]"; "auto" for a range
                       of its own for each, "" for the machine's ids
    userns_pool:       "FIRST:COUNT", ids for --userns=auto; "" for the subordinate ids of user corten or containers
    cdi_spec_dirs:     directories of CDI files, the later ones go first; "" alone for none
    features:          "cdi": devices of CDI files are known; "buildkit" is always on
    idle_exit:         seconds without containers and clients after which a daemon started by a client leaves, 0: never
    """

    data_root: Path
    exec_root: Path
    hosts: tuple[str, ...]
    tls: bool = False
    tlsverify: bool = False
    tlscacert: Path = field(default_factory=lambda: certificate_directory() / "ca.pem")
    tlscert: Path = field(default_factory=lambda: certificate_directory() / "cert.pem")
    tlskey: Path = field(default_factory=lambda: certificate_directory() / "key.pem")
    allow_unauthenticated_tcp: bool = False
    tcp_names: tuple[str, ...] = ()
    metrics_addr: str = ""
    runtimes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    default_runtime: str = ""
    pidfile: Path | None = None
    group: str = field(default_factory=lambda: "" if places.is_rootless() else "docker")
    log_level: str = "info"
    log_format: str = "text"
    debug: bool = False
    log_driver: str = "json-file"
    log_opts: dict[str, str] = field(default_factory=dict)
    storage_driver: str = ""
    live_restore: bool = True
    labels: tuple[str, ...] = ()
    default_ulimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    default_shm_size: int = 64 * 1024 * 1024
    default_pids_limit: int = 4096
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    cgroup_parent: str = ""
    exec_opts: dict[str, str] = field(default_factory=dict)
    seccomp_profile: str = ""
    no_new_privileges: bool = False
    selinux_enabled: bool = False
    init: bool = False
    userns_remap: str = ""
    userns_pool: str = ""
    shutdown_timeout: int = 15
    idle_exit: int = 0
    bridge: str = ""
    bip: str = ""
    fixed_cidr: str = ""
    ipv6: bool = False
    fixed_cidr_v6: str = ""
    mtu: int = 1500
    icc: bool = True
    ip: str = "0.0.0.0"
    ip_masq: bool = True
    default_network_opts: dict[str, dict[str, str]] = field(default_factory=dict)
    default_address_pools: tuple[tuple[str, int], ...] = ()
    host_gateway_ip: str = ""
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    iptables: bool = True
    cdi_spec_dirs: tuple[str, ...] = field(default_factory=places.cdi_directories)
    features: dict[str, bool] = field(default_factory=dict)
    oom_score_adjust: int = 0
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""

    @property
    def cgroup_driver(self) -> str:
        """Who makes the containers' control groups: "cgroupfs" (the engine itself) or "systemd"."""
        return self.exec_opts.get("native.cgroupdriver", "cgroupfs")

    @property
    def cdi_directories(self) -> tuple[str, ...]:
        """Where CDI files are looked for; none when their devices are not wanted."""
        return tuple(filter(None, self.cdi_spec_dirs)) if self.features.get("cdi", True) else ()

    @property
    def is_default_instance(self) -> bool:
        """Whether this is the machine's own daemon, and not one of several."""
        return self.exec_root == default_roots()[1]

    @property
    def rootless(self) -> bool:
        """Whether this is an ordinary user's daemon."""
        return places.is_rootless()


# what a running daemon takes from its file when it gets SIGHUP; the rest needs a restart
RELOADABLE = frozenset(
    (
        "debug",
        "default_runtime",
        "insecure_registries",
        "labels",
        "live_restore",
        "log_level",
        "max_concurrent_downloads",
        "max_concurrent_uploads",
        "max_download_attempts",
        "registry_mirrors",
        "runtimes",
        "shutdown_timeout",
    )
)


def default_roots() -> tuple[Path, Path]:
    """(data root, exec root) of this user."""
    return Path(places.data_root()), Path(places.exec_root())


def certificate_directory() -> Path:
    """Where certificates are when nobody names them: ``CORTEN_CERT_PATH``, else where dockerd looks."""
    return Path(os.environ.get("CORTEN_CERT_PATH") or Path.home() / ".docker").absolute()


STORAGE_DRIVERS = ("overlay2", "fuse-overlayfs", "vfs")

# keys of daemon.json -> field of Config; where dockerd's plural differs from the flag it is dockerd's key
_FILE_KEYS = {
    **{f.name.replace("_", "-"): f.name for f in fields(Config)},
    "no-new-privileges": "no_new_privileges",
    "default-ulimits": "default_ulimits",
}
_PROXY_KEYS = frozenset(("http-proxy", "https-proxy", "no-proxy"))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InvalidParameter(f"unable to configure the daemon with file {path}: invalid JSON: {error}") from error
    except OSError as error:
        raise InvalidParameter(f"unable to configure the daemon with file {path}: {error.strerror}") from error
    if not isinstance(document, dict):
        raise InvalidParameter(f"unable to configure the daemon with file {path}: an object is needed")
    proxies = document.pop("proxies", {})
    if not isinstance(proxies, dict) or not set(proxies) <= _PROXY_KEYS:
        raise InvalidParameter(
            f"unable to configure the daemon with file {path}: proxies needs {', '.join(sorted(_PROXY_KEYS))}"
        )
    document.update(proxies)
    unknown = sorted(set(document) - set(_FILE_KEYS))
    if unknown:
        raise InvalidParameter(
            f"unable to configure the daemon with file {path}: "
            f"the following directives don't match any configuration option: {', '.join(unknown)}"
        )
    return {_FILE_KEYS[key]: value for key, value in document.items()}


def _check(config: Config) -> Config:
    if config.log_level not in LOG_LEVELS:
        raise InvalidParameter(f"invalid logging level: {config.log_level}")
    if config.storage_driver not in ("", *STORAGE_DRIVERS):
        raise InvalidParameter(
            f"unknown storage driver '{config.storage_driver}': {', '.join(STORAGE_DRIVERS)} are supported"
        )
    if not config.iptables and config.bridge != "none":
        raise InvalidParameter("--iptables false: a default network needs firewall rules, give --bridge none as well")
    if config.bip and config.bridge == "none":
        raise InvalidParameter("--bip and --bridge none exclude each other")
    if config.fixed_cidr and not config.bip:
        raise InvalidParameter("--fixed-cidr is a part of the default network's subnet: give --bip as well")
    if config.fixed_cidr_v6 and not config.ipv6:
        raise InvalidParameter("--fixed-cidr-v6 needs --ipv6")
    for host in config.hosts:
        if not host.startswith(("unix://", "tcp://", "fd://")):
            raise InvalidParameter(f"invalid host '{host}': unix://PATH, tcp://HOST:PORT and fd:// are supported")
    if config.default_pids_limit < -1:
        raise InvalidParameter(f"invalid default-pids-limit: {config.default_pids_limit}: -1 stands for unlimited")
    if config.rootless and config.userns_remap:
        raise InvalidParameter("--userns-remap: a daemon without root has a user namespace already")
    if config.rootless and config.selinux_enabled:
        raise InvalidParameter("--selinux-enabled: labels are for the machine's root to give")
    if config.data_root == config.exec_root:
        raise InvalidParameter("--data-root and --exec-root must differ")
    return config


def reload(arguments: list[str], current: Config) -> tuple[Config, list[str], list[str]]:
    """The configuration after its file was read again: (it, names that changed, names whose change needs a restart).

    Errors: as ``load``.
    """
    wanted = load(arguments)
    if current.userns_remap:
        wanted = replace(wanted, data_root=current.data_root)  # the daemon's own is below the one that is configured
    changed = [f.name for f in fields(Config) if getattr(wanted, f.name) != getattr(current, f.name)]
    taken = {name: getattr(wanted, name) for name in changed if name in RELOADABLE}
    needs_restart = [name for name in changed if name not in RELOADABLE]
    return replace(current, **taken), sorted(taken), sorted(needs_restart)


def load(arguments: list[str]) -> Config:
    """Read flags and file.

    Errors: InvalidParameter for an unknown flag or key, a bad value, or a key that is given in both places.
    """
    given = vars(flags.parser().parse_args(arguments))
    named_file = given.pop("config_file", None)
    path = Path(named_file or places.configuration_file())
    from_file = _read_file(path) if named_file or path.exists() else {}
    both = sorted(set(from_file) & set(given))
    if both:
        raise InvalidParameter(
            f"unable to configure the daemon with file {path}: the following directives are specified both as a flag "
            f"and in the configuration file: {', '.join(name.replace('_', '-') for name in both)}"
        )
    data_root, exec_root = default_roots()
    values = {name: converted(name, value) for name, value in {**from_file, **given}.items()}
    config = Config(data_root=data_root, exec_root=exec_root, hosts=())
    config = replace(config, **values)
    if not config.hosts:
        config = replace(config, hosts=(f"unix://{config.exec_root}/corten.sock",))
    if config.tlsverify:
        config = replace(config, tls=True)
    if config.debug:
        config = replace(config, log_level="debug")
    return _check(config)


def export_proxies(config: Config) -> None:
    """Put the configured proxies into this process's environment, where everything that fetches looks for them."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        value = getattr(config, name)
        if value:
            os.environ[name] = os.environ[name.upper()] = value

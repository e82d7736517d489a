"""What the engine says of itself and its host: version, info, disk usage."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

from corten import __version__
from corten.cdi.catalogue import Found
from corten.cgroup.hierarchy import Hierarchies
from corten.dockerapi.registry_auth import HUB_SERVER
from corten.dockerapi.timestamps import format_ns
from corten.dockerapi.version import API_VERSION, MIN_API_VERSION
from corten.engine import self_check
from corten.engine.devices import CDI
from corten.engine.host_support import ARCHITECTURES, LimitSupport, filesystem_of, os_release, overlay_status, read_text
from corten.engine.runtimes import OWN_PATH
from corten.engine.streams import run_blocking
from corten.engine.xray.host import xray_host
from corten.logdriver.options import DRIVERS

if TYPE_CHECKING:
    from corten.engine.engine import Engine

logger = logging.getLogger(__name__)

_USAGE_TYPES = ("container", "image", "volume", "build-cache")
_NO_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}
# dockerd's words
_NO_CGROUPS = (
    "WARNING: Running in rootless-mode without cgroups. "
    "To enable cgroups in rootless-mode, you need to boot the system in cgroup v2 mode.",
)
_NO_COMMIT = {"ID": "", "Expected": ""}


def _flaws(found: Found) -> list[str]:
    return [
        f"WARNING: CDI: Error associated with spec file {path}: {problem}"
        for path, problems in found.problems.items()
        for problem in problems
    ]


class System:
    """Documents about the daemon."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.id = self._read_id()

    def _read_id(self) -> str:
        """A name for this data root that outlives the daemon."""
        path = self._engine.config.data_root / "engine-id"
        known = read_text(str(path))
        if known:
            return known
        made = str(uuid.uuid4())
        unfinished = path.with_suffix(".new")
        unfinished.write_text(f"{made}\n")
        unfinished.rename(path)
        return made

    async def version(self) -> dict[str, Any]:
        """``GET /version``, with the fields at the top that clients older than API 1.35 read."""
        machine = platform.machine()
        common = {
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": ARCHITECTURES.get(machine, machine),
            "KernelVersion": os.uname().release,
            "BuildTime": "",
        }
        return {
            "Platform": {"Name": "Corten"},
            "Version": __version__,
            **common,
            "Components": [
                {"Name": "Engine", "Version": __version__, "Details": {**common, "Experimental": "false"}},
                {"Name": OWN_PATH, "Version": __version__, "Details": {"GitCommit": ""}},
                {
                    "Name": platform.python_implementation(),
                    "Version": platform.python_version(),
                    "Details": {"GitCommit": platform.python_revision()},
                },
            ],
        }

    async def info(self) -> dict[str, Any]:
        """``GET /info``."""
        return {**self._about_engine(), **await run_blocking(self._about_host), "NGoroutines": len(asyncio.all_tasks())}

    def _about_engine(self) -> dict[str, Any]:
        engine, config = self._engine, self._engine.config
        states = engine.describe()
        running, paused, total = states.get("running", 0), states.get("paused", 0), sum(states.values())
        return {
            "ID": self.id,
            "Containers": total,
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": total - running - paused,
            "Images": engine.images.count(),
            "Driver": engine.snapshotter.name,
            "Plugins": {
                "Volume": ["local"],
                "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
                "Authorization": None,
                "Log": sorted(DRIVERS),
            },
            "Debug": config.debug,
            "NEventsListener": engine.events.listeners,
            "SystemTime": format_ns(time.time_ns()),
            "LoggingDriver": config.log_driver,
            "CgroupDriver": config.cgroup_driver if engine.facts.cgroups else "none",
            "IndexServerAddress": HUB_SERVER,
            "RegistryConfig": engine.registries.describe(),
            "GenericResources": None,
            "DockerRootDir": str(config.data_root),
            **engine.registries.proxies(),
            "Labels": list(config.labels),
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": engine.runtimes.describe(),
            "DefaultRuntime": engine.runtimes.default,
            "Swarm": dict(_NO_SWARM),
            "LiveRestoreEnabled": config.live_restore,
            "Isolation": "",
            "InitBinary": "corten-init",
            "ContainerdCommit": dict(_NO_COMMIT),
            "RuncCommit": dict(_NO_COMMIT),
            "InitCommit": dict(_NO_COMMIT),
        }

    def _about_host(self) -> dict[str, Any]:
        config = self._engine.config
        hierarchies = Hierarchies.read()
        limits = LimitSupport.read(hierarchies)
        release = os_release()
        devices = self._engine.devices.look()
        return {
            "DriverStatus": self._driver_status(),
            "MemoryLimit": limits.memory,
            "SwapLimit": limits.swap,
            "OomKillDisable": limits.oom_kill_disable,
            "CpuCfsPeriod": limits.cpu_quota,
            "CpuCfsQuota": limits.cpu_quota,
            "CPUShares": limits.cpu_shares,
            "CPUSet": limits.cpuset,
            "PidsLimit": limits.pids,
            "IPv4Forwarding": read_text("/proc/sys/net/ipv4/ip_forward") == "1",
            "BridgeNfIptables": read_text("/proc/sys/net/bridge/bridge-nf-call-iptables") == "1",
            "BridgeNfIp6tables": read_text("/proc/sys/net/bridge/bridge-nf-call-ip6tables") == "1",
            "NFd": len(os.listdir("/proc/self/fd")) - 1,  # but for the listing's own
            "CgroupVersion": "2" if hierarchies.is_v2 else "1",
            "KernelVersion": os.uname().release,
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": platform.machine(),
            "NCPU": os.cpu_count() or 1,
            "MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "Name": socket.gethostname(),
            "SecurityOptions": self._security_options(cgroup_v2=hierarchies.is_v2),
            "CDISpecDirs": list(self._engine.devices.directories),
            "DiscoveredDevices": [{"Source": CDI, "ID": name} for name in devices.devices],
            **({"FirewallBackend": {"Driver": "nftables"}} if config.iptables else {}),
            "Warnings": [
                *(limits.missing if self._engine.facts.cgroups else _NO_CGROUPS),
                *self._warnings(),
                *_flaws(devices),
            ]
            or None,
        }

    def _security_options(self, *, cgroup_v2: bool) -> list[str]:
        config = self._engine.config
        options = ["name=apparmor"] if self._engine.facts.apparmor else []
        if config.selinux_enabled:
            options.append("name=selinux")
        if os.path.exists("/proc/sys/kernel/seccomp/actions_avail"):
            options.append(f"name=seccomp,profile={config.seccomp_profile or 'builtin'}")
        if (config.default_cgroupns_mode or ("private" if cgroup_v2 else "host")) == "private":
            options.append("name=cgroupns")
        if config.no_new_privileges:
            options.append("name=no-new-privileges")
        if self._engine.user_namespaces.are_default:
            options.append("name=userns")
        if config.rootless:
            options.append("name=rootless")
        return options

    def _warnings(self) -> list[str]:
        config = self._engine.config
        apparmor = self._engine.apparmor_problem
        found = [f"WARNING: {apparmor}"] if apparmor else []
        found += ["WARNING: daemon is not using the default seccomp profile"] if config.seccomp_profile else []
        if self._engine.networks.lacking:
            found.append(f"WARNING: {self._engine.networks.lacking}")
        for host in config.hosts:
            if host.startswith("tcp://") and not config.tlsverify:
                how = "without TLS client verification" if config.tls else "without encryption"
                scheme = "https" if config.tls else "http"
                found.append(
                    f"WARNING: API is accessible on {scheme}://{host.removeprefix('tcp://')} {how}. "
                    "Access to the remote API is equivalent to root access on the host."
                )
        return found

    def _driver_status(self) -> list[list[str]]:
        root = self._engine.config.data_root
        if self._engine.snapshotter.name == "overlay2":
            return overlay_status(root)
        return [["Backing Filesystem", filesystem_of(root)]]

    async def xray(self) -> dict[str, Any]:
        """What this machine's kernel offers to containers, and what is missing."""
        return await run_blocking(xray_host, self._engine.config.data_root, self._engine.networks.plumbing.table)

    async def security(self) -> dict[str, Any]:
        """The self check: rows for the daemon, the host and the containers that run."""
        engine = self._engine

        def look() -> list[dict[str, str]]:
            support = LimitSupport.read(Hierarchies.read())
            found = self_check.checks(
                engine.config, engine.facts, support, engine.containers.all(), apparmor_problem=engine.apparmor_problem
            )
            return [check.document() for check in found]

        rows = await run_blocking(look)
        results = [row["Result"] for row in rows]
        return {"Checks": rows, "Counts": {kind: results.count(kind) for kind in ("pass", "warn", "info")}}

    def reload_attributes(self) -> dict[str, str]:
        """What the daemon's "reload" event tells: everything that could have changed."""
        config = self._engine.config
        return {
            "name": socket.gethostname(),
            "debug": json.dumps(config.debug),
            "labels": json.dumps(list(config.labels)),
            "live-restore": json.dumps(config.live_restore),
            "log-level": config.log_level,
            "default-runtime": self._engine.runtimes.default,
            "runtimes": json.dumps(self._engine.runtimes.describe()),
            "registry-mirrors": json.dumps(list(config.registry_mirrors)),
            "insecure-registries": json.dumps(list(config.insecure_registries)),
            "max-concurrent-downloads": str(config.max_concurrent_downloads),
            "max-concurrent-uploads": str(config.max_concurrent_uploads),
            "max-download-attempts": str(config.max_download_attempts),
            "shutdown-timeout": str(config.shutdown_timeout),
        }

    async def disk_usage(self, types: list[str]) -> dict[str, Any]:
        """Sizes of images, containers and volumes; walks what has no recorded size.

        types: some of container, image, volume and build-cache; none for all
        """
        engine = self._engine
        wanted = types or _USAGE_TYPES
        document: dict[str, Any] = {"LayersSize": 0}
        if "image" in wanted:
            document["Images"] = await engine.images.usage()
            document["LayersSize"] = engine.images.layers_size()
        if "container" in wanted:
            document["Containers"] = await engine.containers.views.summaries(all=True, size=True)
        if "volume" in wanted:
            document["Volumes"] = await run_blocking(engine.volumes.usage)
        if "build-cache" in wanted:
            document["BuildCache"] = await engine.builds.usage()
        return document

"""What the engine says of itself and its host: version, info, disk usage."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corten import __version__
from corten.cgroup.hierarchy import Hierarchies
from corten.dockerapi.timestamps import format_ns
from corten.dockerapi.version import API_VERSION, MIN_API_VERSION
from corten.engine.streams import run_blocking
from corten.logdriver.options import DRIVERS

if TYPE_CHECKING:
    from corten.engine.engine import Engine

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _os_release() -> dict[str, str]:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            text = Path(path).read_text()
        except OSError:
            continue
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {key: value.strip('"') for key, _, value in pairs}
    return {}


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class System:
    """Documents about the daemon."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._started_ns = time.time_ns()
        self._id = self._read_id()

    def _read_id(self) -> str:
        """A name for this data root that outlives the daemon."""
        path = self._engine.config.data_root / "engine-id"
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            import uuid

            made = str(uuid.uuid4())
            path.write_text(f"{made}\n")
            return made

    async def version(self) -> dict[str, Any]:
        machine = platform.machine()
        details = {
            "ApiVersion": API_VERSION,
            "Arch": _ARCHITECTURES.get(machine, machine),
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": os.uname().release,
            "MinAPIVersion": MIN_API_VERSION,
            "Os": "linux",
            "PythonVersion": platform.python_version(),
        }
        return {
            "Platform": {"Name": "Corten"},
            "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
            "Version": __version__,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": MIN_API_VERSION,
            "GitCommit": "",
            "GoVersion": "",
            "Os": "linux",
            "Arch": details["Arch"],
            "KernelVersion": details["KernelVersion"],
            "BuildTime": "",
        }

    async def info(self) -> dict[str, Any]:
        engine = self._engine
        states = engine.describe()
        release = _os_release()
        hierarchies = Hierarchies.read()
        security = ["name=seccomp,profile=builtin"] + (["name=cgroupns"] if hierarchies.is_v2 else [])
        return {
            "ID": self._id,
            "Containers": sum(states.values()),
            "ContainersRunning": states.get("running", 0),
            "ContainersPaused": states.get("paused", 0),
            "ContainersStopped": sum(states.values()) - states.get("running", 0) - states.get("paused", 0),
            "Images": engine.images.count(),
            "Driver": engine.snapshotter.name,
            "DriverStatus": self._driver_status(),
            "Plugins": {"Volume": ["local"], "Network": ["host", "none"], "Authorization": None, "Log": list(DRIVERS)},
            "MemoryLimit": hierarchies.is_v2 or "memory" in hierarchies.v1,
            "SwapLimit": self._swap_limit(hierarchies),
            "CpuCfsPeriod": hierarchies.is_v2 or "cpu" in hierarchies.v1,
            "CpuCfsQuota": hierarchies.is_v2 or "cpu" in hierarchies.v1,
            "CPUShares": hierarchies.is_v2 or "cpu" in hierarchies.v1,
            "CPUSet": hierarchies.is_v2 or "cpuset" in hierarchies.v1,
            "PidsLimit": hierarchies.is_v2 or "pids" in hierarchies.v1,
            "IPv4Forwarding": Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1",
            "Debug": engine.config.debug,
            "NFd": len(os.listdir("/proc/self/fd")),
            "OomKillDisable": not hierarchies.is_v2,
            "NGoroutines": 0,
            "SystemTime": format_ns(time.time_ns()),
            "LoggingDriver": engine.config.log_driver,
            "CgroupDriver": "cgroupfs",
            "CgroupVersion": "2" if hierarchies.is_v2 else "1",
            "NEventsListener": 0,
            "KernelVersion": os.uname().release,
            "OperatingSystem": release.get("PRETTY_NAME", "Linux"),
            "OSVersion": release.get("VERSION_ID", ""),
            "OSType": "linux",
            "Architecture": platform.machine(),
            "IndexServerAddress": "",
            "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": None},
            "NCPU": os.cpu_count() or 1,
            "MemTotal": _memory(),
            "GenericResources": None,
            "DockerRootDir": str(engine.config.data_root),
            "HttpProxy": "",
            "HttpsProxy": "",
            "NoProxy": "",
            "Name": socket.gethostname(),
            "Labels": list(engine.config.labels),
            "ExperimentalBuild": False,
            "ServerVersion": __version__,
            "Runtimes": {"corten": {"path": "corten-oci"}},
            "DefaultRuntime": "corten",
            "Swarm": {
                "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "", "RemoteManagers": None
            },
            "LiveRestoreEnabled": engine.config.live_restore,
            "Isolation": "",
            "InitBinary": "docker-init",
            "ContainerdCommit": {"ID": "", "Expected": ""},
            "RuncCommit": {"ID": "", "Expected": ""},
            "InitCommit": {"ID": "", "Expected": ""},
            "SecurityOptions": security,
            "Warnings": self._warnings(hierarchies),
        }  # fmt: skip

    def _driver_status(self) -> list[list[str]]:
        root = self._engine.config.data_root
        kind = _filesystem_of(root)
        if self._engine.snapshotter.name != "overlay2":
            return [["Backing Filesystem", kind]]
        return [["Backing Filesystem", kind], ["Supports d_type", "true"], ["Using metacopy", "false"], ["Native Overlay Diff", "true"]]

    @staticmethod
    def _swap_limit(hierarchies: Hierarchies) -> bool:
        if hierarchies.is_v2:
            return True
        return os.path.exists(hierarchies.v1.get("memory", "") + "/memory.memsw.limit_in_bytes")

    def _warnings(self, hierarchies: Hierarchies) -> list[str] | None:
        warnings = []
        if not hierarchies.is_v2:
            missing = [name for name in ("memory", "cpu", "cpuset", "pids", "devices", "freezer", "blkio") if name not in hierarchies.v1]
            warnings += [f"WARNING: the cgroup controller {name} is missing" for name in missing]
        if not self._swap_limit(hierarchies):
            warnings.append("WARNING: No swap limit support")
        return warnings or None

    async def disk_usage(self, types: list[str]) -> dict[str, Any]:
        """Sizes of images, containers and volumes; walks what has no recorded size."""
        engine = self._engine
        wanted = types or ["container", "image", "volume", "build-cache"]
        document: dict[str, Any] = {"LayersSize": 0}
        if "image" in wanted:
            document["Images"] = await engine.images.usage()
            document["LayersSize"] = engine.images.layers_size()
        if "container" in wanted:
            document["Containers"] = await engine.containers.list(all=True, size=True)
        if "volume" in wanted:
            document["Volumes"] = await run_blocking(engine.volumes.usage)
        if "build-cache" in wanted:
            document["BuildCache"] = []
        return document


def _filesystem_of(path: Path) -> str:
    from corten.linux import mounts

    best = ("", "unknown")
    text = str(path)
    for entry in mounts.read():
        prefix = entry.target.rstrip("/") + "/"
        if (text + "/").startswith(prefix) and len(entry.target) >= len(best[0]):
            best = (entry.target, entry.kind)
    return {"ext2": "extfs", "ext3": "extfs", "ext4": "extfs"}.get(best[1], best[1])

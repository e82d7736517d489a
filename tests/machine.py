"""What the machine can do, and what of it a test could leave behind."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BUSYBOX = Path("/bin/busybox") if Path("/bin/busybox").exists() else Path("/usr/bin/busybox")
IMAGES = Path(os.environ.get("CORTEN_IMAGE_CACHE") or TESTS.parent / ".cache" / "images")
CLIENTS = Path(os.environ.get("CORTEN_CLIENT_CACHE") or TESTS.parent / ".cache" / "clients")
NODE = Path(os.environ.get("CORTEN_NODE_CACHE") or TESTS.parent / ".cache" / "node")
CGROUPS = Path("/sys/fs/cgroup")
# the processor is interpreted (tests/vm): what takes time takes longer, and the time that programs get is uneven
EMULATED = "CORTEN_EMULATED" in os.environ
# containers of daemons that tests start lie below a cgroup of this run: others on the machine do not disturb
CGROUP_PARENT = f"/corten-test-{os.getpid()}"


# -- features ---------------------------------------------------------------------


def _mountinfo() -> list[tuple[str, str, str]]:
    """(mount point, type, options of the file system) of every mount."""
    rows = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        rows.append((before.split(" ")[4], kind, options))
    return rows


def v1_controllers() -> dict[str, Path]:
    """Controller -> where its cgroup v1 hierarchy is mounted."""
    found = {}
    for target, kind, options in _mountinfo():
        if kind == "cgroup":
            found.update(dict.fromkeys(options.split(","), Path(target)))
    return found


def _file_system(name: str) -> bool:
    known = Path("/proc/filesystems").read_text().split()
    return name in known or subprocess.run(["modprobe", name], capture_output=True, check=False).returncode == 0


def _has_system_call(number: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(number, -1, None, None, 0) >= 0 or ctypes.get_errno() != 38


def _mounts_loops() -> bool:
    return shutil.which("mkfs.ext4") is not None and Path("/dev/loop-control").exists()


def _has_docker_28() -> bool:
    """The client of this machine speaks version 1.48 of the API."""
    words = ["docker", "version", "--format", "{{.Client.DefaultAPIVersion}}"]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return bool(said) and [int(part) for part in said.split(".")] >= [1, 48]


def _has_nf_tables() -> bool:
    """The kernel answers a question about its firewall."""
    from corten.linux import nftables, nftlist

    try:
        connection = nftables.connect()
        try:
            nftlist.tables(connection)
        finally:
            connection.close()
    except OSError:
        return False
    return True


FEATURES: dict[str, Callable[[], bool]] = {
    "root": lambda: os.geteuid() == 0,
    "cgroup1": lambda: "memory" in v1_controllers(),
    "cgroup2": lambda: any(kind == "cgroup2" for _, kind, _ in _mountinfo()) and "memory" not in v1_controllers(),
    "blkio": lambda: "blkio" in v1_controllers() or "io" in _words(CGROUPS / "cgroup.controllers"),
    "swap": lambda: len(Path("/proc/swaps").read_text().splitlines()) > 1,
    "overlayfs": lambda: _file_system("overlay"),
    "fuse-overlayfs": lambda: shutil.which("fuse-overlayfs") is not None and Path("/dev/fuse").exists(),
    "openat2": lambda: _has_system_call(437),
    "loop": _mounts_loops,
    "disk limits": _mounts_loops,
    "apparmor": lambda: shutil.which("apparmor_parser") is not None and _has_apparmor(),
    "selinux": Path("/sys/fs/selinux/enforce").exists,
    "unified": lambda: any(kind == "cgroup2" for _, kind, _ in _mountinfo()),
    "nf_tables": _has_nf_tables,
    "busybox": BUSYBOX.exists,
    "nginx": lambda: (IMAGES / "nginx.tar").exists(),
    "userns": lambda: Path("/proc/self/ns/user").exists(),
    "tun": Path("/sys/class/misc/tun").exists,
    # of overlayfs (Linux 5.19)
    "idmapped layers": lambda: tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (5, 19),
    "newuidmap": lambda: shutil.which("newuidmap") is not None,
    "pasta": lambda: shutil.which("pasta") is not None,
    "timens": lambda: Path("/proc/self/ns/time").exists(),
    "nft": lambda: shutil.which("nft") is not None,
    "iperf3": lambda: shutil.which("iperf3") is not None,
    "dig": lambda: shutil.which("dig") is not None,
    "curl": lambda: shutil.which("curl") is not None,
    "redis-cli": lambda: shutil.which("redis-cli") is not None,
    "iptables": lambda: shutil.which("iptables-nft") is not None,
    "docker": lambda: shutil.which("docker") is not None,
    "docker 28": lambda: shutil.which("docker") is not None and _has_docker_28(),
    "dockerd": lambda: shutil.which("dockerd") is not None and shutil.which("containerd") is not None,
    "criu": lambda: _works([str(CLIENTS / "bin/criu"), "check"]),
    "ctr": lambda: shutil.which("ctr") is not None and shutil.which("containerd") is not None,
    "podman": lambda: shutil.which("podman") is not None and shutil.which("conmon") is not None,
    "docker-registry": lambda: shutil.which("docker-registry") is not None,
    "skopeo": lambda: shutil.which("skopeo") is not None,
    "buildah": lambda: shutil.which("buildah") is not None,
    "crane": (CLIENTS / "usr/bin/crane").exists,
    "oras": (CLIENTS / "usr/bin/oras").exists,
    "umoci": lambda: shutil.which("umoci") is not None,
    "newest docker": (CLIENTS / "usr/bin/docker").exists,
    "git": lambda: shutil.which("git") is not None,
    "qemu-aarch64-static": lambda: shutil.which("qemu-aarch64-static") is not None,
    "rpmbuild": lambda: shutil.which("rpmbuild") is not None,
    "db5.3_load": lambda: shutil.which("db5.3_load") is not None,
    "sshd": Path("/usr/sbin/sshd").exists,
    "ssh-agent": lambda: shutil.which("ssh-agent") is not None,
    "buildx": (CLIENTS / "usr/libexec/docker/cli-plugins/docker-buildx").exists,
    "docker 20.10": lambda: _says_version("/usr/bin/docker", "20.10"),
    "newest compose": (CLIENTS / "usr/libexec/docker/cli-plugins/docker-compose").exists,
    "old compose": lambda: shutil.which("docker-compose") is not None,
    "node clients": lambda: shutil.which("node") is not None and (NODE / "node_modules/dockerode").exists(),
    "aiodocker": lambda: importlib.util.find_spec("aiodocker") is not None,
    "testcontainers": lambda: importlib.util.find_spec("testcontainers") is not None,
    "docker-py": lambda: importlib.util.find_spec("docker") is not None,
}


def _has_apparmor() -> bool:
    return _words(Path("/sys/module/apparmor/parameters/enabled")) == ["Y"]


def _says_version(command: str, version: str) -> bool:
    if not Path(command).exists():
        return False
    return version in subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def lacking(*features: str) -> None:
    """Skip the test that asks when the machine lacks one of these."""
    for name in features:
        if not FEATURES[name]():
            pytest.skip(f"this machine lacks: {name}")


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


# -- what could be left ---------------------------------------------------------------------


def _mounts() -> set[str]:
    """All mounts, but those that others make in directories for temporary files."""
    ours = f"{tempfile.gettempdir()}/pytest-of-"
    return {
        target
        for target, _, _ in _mountinfo()
        if target.startswith(ours) or not target.startswith(f"{tempfile.gettempdir()}/")
    }


def _cgroups() -> set[str]:
    """Groups of containers; the parent that all share stays, and is empty."""
    found = set()
    for top in (*CGROUPS.glob(f"*{CGROUP_PARENT}"), *CGROUPS.glob(CGROUP_PARENT[1:])):
        found.update(str(path) for path in top.glob("*") if path.is_dir())
    return found


def _loops() -> set[str]:
    return {str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")}


def _rules() -> set[str]:
    if shutil.which("nft") is None:
        return set()
    listing = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=False)
    return set(listing.stdout.splitlines())


def _namespaces() -> set[str]:
    """Network namespaces that are kept without a process: by descriptors of ours or by a mount."""
    found = {target for target, kind, _ in _mountinfo() if kind == "nsfs"}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("net:"):
            found.add(f"descriptor of {target}")
    return found


def processes() -> set[str]:
    """Processes of containers whose roots are ours: shims and the programs below them."""
    found = set()
    marker = CGROUP_PARENT.encode()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (directory / "cgroup").read_bytes():
                found.add(f"{directory.name} {(directory / 'comm').read_text().strip()}")
        except OSError:
            continue
    return found


def machine_state() -> dict[str, set[str]]:
    return {
        "mounts": _mounts(),
        "links": set(os.listdir("/sys/class/net")),
        "cgroups": _cgroups(),
        "loops": _loops(),
        "rules": _rules(),
        "namespaces": _namespaces(),
        "processes": processes(),
    }


def leaked(
    before: dict[str, set[str]], look: Callable[[], dict[str, set[str]]] = machine_state, wait_s: float = 5.0
) -> dict[str, set[str]]:
    """What is there now and was not before; waits a moment for what is on its way out."""
    deadline = time.monotonic() + wait_s
    while True:
        now = look()
        extra = {key: now[key] - before[key] for key in now if now[key] - before[key]}
        if not extra or time.monotonic() > deadline:
            return extra
        time.sleep(0.05)


def remove_cgroup_parent() -> None:
    """The empty parent of this run's containers, in every hierarchy."""
    for top in (*CGROUPS.glob(f"*{CGROUP_PARENT}"), *CGROUPS.glob(CGROUP_PARENT[1:])):
        try:
            top.rmdir()
        except OSError as error:
            raise AssertionError(
                f"{top} is not empty: {sorted(p.name for p in top.iterdir() if p.is_dir())}"
            ) from error

"""A container without a daemon: a root, a spec, and the daemon's side of its shim."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from corten.cgroup.manager import Cgroup
from corten.dockerapi.frames import FrameDecoder
from corten.engine.shims import ExitStatus, Shim, Shims, ShimStart, StreamRequest
from corten.runtime import seccomp_profile

CAPABILITIES = [
    f"CAP_{name}" for name in ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID", "SYS_CHROOT", "NET_RAW")
]
PARENT = f"/corten-test-shims-{os.getpid()}"
NAMESPACES = ("mount", "pid", "uts", "ipc", "network", "cgroup")


def process(*command: str, terminal: bool = False, **more: Any) -> dict[str, Any]:
    return {
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": list(command),
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        "oomScoreAdj": 0,
        **more,
    }


class Bundle:
    """One container to be."""

    def __init__(self, directory: Path, lower: Path) -> None:
        self.id = secrets.token_hex(32)
        self.directory = directory / self.id[:12]
        for name in ("upper", "work", "merged"):
            (self.directory / name).mkdir(parents=True)
        self.target = str(self.directory / "merged")
        self.cgroup = f"{PARENT}/{self.id[:12]}"
        self.log_path = str(self.directory / "log")
        self.rootfs = {
            "type": "overlay",
            "lower": [str(lower)],
            "upper": str(self.directory / "upper"),
            "work": str(self.directory / "work"),
            "source": "",
            "target": self.target,
            "options": [],
        }

    def spec(
        self, *command: str, terminal: bool = False, namespaces: tuple[str, ...] = NAMESPACES, **more: Any
    ) -> dict[str, Any]:
        return {
            "ociVersion": "1.2.0",
            "root": {"path": self.target},
            "hostname": "inside",
            "process": process(*command, terminal=terminal),
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
            ],
            "linux": {
                "cgroupsPath": self.cgroup,
                "namespaces": [{"type": kind} for kind in namespaces],
                "resources": {},
                "seccomp": seccomp_profile.resolve_profile(seccomp_profile.default_profile(), CAPABILITIES),
            },
            **more,
        }

    def start(
        self,
        spec: dict[str, Any],
        *,
        stdin: bool = False,
        stdin_once: bool = False,
        driver: str = "json-file",
        options: dict[str, str] | None = None,
        attach: list[StreamRequest] | None = None,
    ) -> ShimStart:
        return ShimStart(
            container_id=self.id,
            spec=spec,
            rootfs=self.rootfs,
            log={"type": driver, "config": options or {}, "path": self.log_path},
            open_stdin=stdin,
            stdin_once=stdin_once,
            bundle=str(self.directory),
            attach=attach or [],
        )

    def is_mounted(self) -> bool:
        return any(line.split(" ")[4] == self.target for line in open("/proc/self/mountinfo"))

    def cgroups(self) -> list[Path]:
        return list(Path("/sys/fs/cgroup").glob(f"*{self.cgroup}")) + list(Path("/sys/fs/cgroup").glob(self.cgroup[1:]))


class World:
    """An exec root and bundles."""

    def __init__(self, directory: Path, lower: Path) -> None:
        self.directory = directory
        self.lower = lower
        self.bundles: list[Bundle] = []
        self.exec_root = directory / "run"
        self.exec_root.mkdir()

    def bundle(self) -> Bundle:
        made = Bundle(self.directory, self.lower)
        self.bundles.append(made)
        return made

    @contextlib.asynccontextmanager
    async def shims(self):
        shims = await Shims.open(self.exec_root)
        try:
            yield shims
        finally:
            await shims.close()

    def runtime_directory(self, bundle: Bundle) -> Path:
        return self.exec_root / bundle.id

    def is_clean(self, bundle: Bundle) -> bool:
        return not (bundle.is_mounted() or bundle.cgroups() or self.runtime_directory(bundle).exists())

    def close(self) -> None:
        """Also after a test that failed: end what runs, so that its shim takes the rest away."""
        for made in self.bundles:
            if made.cgroups():
                Cgroup(made.cgroup).kill()
        deadline = time.monotonic() + 5
        while any(made.is_mounted() for made in self.bundles) and time.monotonic() < deadline:
            time.sleep(0.02)
        for top in (*Path("/sys/fs/cgroup").glob(f"*{PARENT}"), *Path("/sys/fs/cgroup").glob(PARENT[1:])):
            with contextlib.suppress(OSError):
                top.rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)


class Stream:
    """Our end of an attached stream."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)

    def request(self, *, stdin: bool = False, keys: bytes = b"\x10\x11") -> StreamRequest:
        return StreamRequest(self.theirs, stdin, True, True, keys)

    async def attach(self, shim: Shim, *, stdin: bool = False, keys: bytes = b"\x10\x11") -> Stream:
        await shim.attach(stream=self.theirs, stdin=stdin, stdout=True, stderr=True, detach_keys=keys)
        self.theirs.close()
        return self

    async def read(self, size: int = 1 << 16) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.ours, size)

    async def until(self, text: bytes) -> bytes:
        """Everything up to and with ``text``."""
        got = b""
        while text not in got:
            data = await self.read()
            assert data, f"the stream ended after {got!r}"
            got += data
        return got

    async def all(self) -> bytes:
        got = bytearray()
        while data := await self.read():
            got += data
        return bytes(got)

    async def frames(self) -> dict[int, bytes]:
        """All that comes, by stream."""
        found: dict[int, bytes] = {}
        for stream, payload in FrameDecoder().feed(await self.all()):
            found[stream] = found.get(stream, b"") + payload
        return found

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.ours, data)

    def end_input(self) -> None:
        self.ours.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


async def end(shims: Shims, shim: Shim) -> ExitStatus:
    """Wait for the end and have it recorded."""
    status = await shim.exited
    await shim.close()
    await shims.forget(shim.container_id)
    return status


async def wait_for(condition, seconds: float = 10.0):
    """Poll what has no notification."""
    async with asyncio.timeout(seconds):
        while not (found := condition()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


def shim_pid(world: World, bundle: Bundle) -> int:
    return int((world.runtime_directory(bundle) / "shim.pid").read_text())


def private_kib(pid: int) -> int:
    """Memory that a process shares with nobody."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1])
    return total


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

"""What tests of the runtime share: a root, a specification to change, ways to run it, and a look at what is left."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corten.errors import CortenError
from corten.runtime import execution, lifecycle, seccomp_profile

CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
        "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
    )
]  # fmt: skip
NAMESPACES = ("mount", "pid", "uts", "ipc", "network", "cgroup")


def make_spec(rootfs: Path, *command: str, **process: Any) -> dict[str, Any]:
    """As dockerd makes it, with fewer mounts."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs)},
        "hostname": "inside",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
            **process,
        },
        "mounts": [
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
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/sys",
                "type": "sysfs",
                "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp_profile.resolve_profile(seccomp_profile.default_profile(), CAPABILITIES),
        },
    }


def children() -> set[str]:
    """Processes of ours, those that nobody has waited for included; daemons of other tests are among them."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


class Output:
    """A pipe that collects what a program writes."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self._null = os.open("/dev/null", os.O_RDONLY)

    @property
    def stdio(self) -> tuple[int, int, int]:
        return self._null, self._writing, self._writing

    def sent(self) -> None:
        """The program has its own descriptors now."""
        for descriptor in (self._writing, self._null):
            os.close(descriptor)
        self._writing = self._null = -1

    def read(self) -> str:
        """All until nobody writes any more."""
        with os.fdopen(self._reading, "rb") as file:
            self._reading = -1
            return file.read().decode(errors="replace")

    def line(self, timeout_s: float = 10.0) -> str:
        text = b""
        deadline = time.monotonic() + timeout_s
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self._reading], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing but {text!r} was written"
            byte = os.read(self._reading, 1)
            assert byte, f"the end after {text!r}"
            text += byte
        return text.decode().rstrip("\n")

    def close(self) -> None:
        for descriptor in (self._reading, self._writing, self._null):
            if descriptor >= 0:
                os.close(descriptor)


@dataclass
class Result:
    code: int
    text: str
    warnings: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        return self.text.split()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@dataclass
class Running:
    """A started container."""

    init: lifecycle.InitProcess
    output: Output
    ended: bool = False

    def wait(self) -> Result:
        text = self.output.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.init.pid, 0)[1])
        self._close()
        return Result(code, text, self.init.warnings)

    def kill(self) -> None:
        if not self.ended:
            self.ended = True
            self.output.close()
            self.init.abandon()

    def _close(self) -> None:
        self.ended = True
        for descriptor in (self.init.pidfd, self.init.console_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self.init.cgroup.delete()


class World:
    """Containers of one test; a context manager that ends them all and sees that no descriptor is left."""

    def __init__(self, directory: Path, rootfs: Path) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.parent = f"/corten-test-runtime-{os.getpid()}"
        self._running: list[Running] = []
        self._count = 0

    def __enter__(self) -> World:
        self._descriptors = set(os.listdir("/proc/self/fd"))
        return self

    def __exit__(self, *error: object) -> None:
        for running in self._running:
            running.kill()
        # in every hierarchy: a runtime that we are compared with may use more of them
        for directory in [
            *Path("/sys/fs/cgroup").glob(f"*{self.parent}"),
            *Path("/sys/fs/cgroup").glob(self.parent[1:]),
        ]:
            directory.rmdir()
        if error == (None, None, None):
            assert set(os.listdir("/proc/self/fd")) == self._descriptors, "descriptors are left"

    def spec(self, *command: str, **process: Any) -> dict[str, Any]:
        self._count += 1
        spec = make_spec(self.rootfs, *command, **process)
        spec["linux"]["cgroupsPath"] = f"{self.parent}/{self._count}"
        return spec

    def script(self, text: str, **process: Any) -> dict[str, Any]:
        return self.spec("sh", "-c", text, **process)

    def create(self, spec: dict[str, Any], **options: Any) -> Running:
        output = Output()
        try:
            terminal = spec["process"].get("terminal")
            init = lifecycle.create(
                spec,
                container_id="t",
                bundle=str(self.directory),
                stdio=None if terminal else output.stdio,
                seccomp_cache=str(self.directory / "seccomp"),
                **options,
            )
        except BaseException:
            output.close()
            raise
        output.sent()
        running = Running(init, output)
        self._running.append(running)
        return running

    def start(self, spec: dict[str, Any], **options: Any) -> Running:
        running = self.create(spec, **options)
        try:
            running.init.start()
        except CortenError:
            running.kill()
            raise
        return running

    def run(self, spec: dict[str, Any]) -> Result:
        return self.start(spec).wait()

    def execute(self, running: Running, *command: str, **process: Any) -> Result:
        """A further program, to its end."""
        output = Output()
        document = {**running.init.spec["process"], "args": list(command), **process}
        try:
            made = execution.exec_process(
                running.init.pid, running.init.spec, document, cgroup=running.init.cgroup, stdio=output.stdio
            )
        except BaseException:
            output.close()
            raise
        output.sent()
        text = read_terminal(made.console_fd) if made.console_fd >= 0 else output.read()
        if made.console_fd >= 0:
            output.close()
            os.close(made.console_fd)
        code = os.waitstatus_to_exitcode(os.waitpid(made.pid, 0)[1])
        os.close(made.pidfd)
        return Result(code, text, made.warnings)


def read_terminal(master: int, until: Callable[[str], bool] = lambda text: False, timeout_s: float = 10.0) -> str:
    """What is written to a terminal until everybody has left it, or until enough is there."""
    text = b""
    deadline = time.monotonic() + timeout_s
    while not until(text.decode(errors="replace")):
        ready, _, _ = select.select([master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing but {text!r} was written"
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        if not data:
            break
        text += data
    return text.decode(errors="replace").replace("\r\n", "\n")


def mount_options(text: str, target: str) -> set[str]:
    """Per-mount options of a line of /proc/self/mountinfo."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[4] == target:
            return set(fields[5].split(","))
    raise AssertionError(f"{target} is no mount point:\n{text}")


# -- the command -------------------------------------------------------------------------------------------------------


class Oci:
    """corten-oci on a bundle of its own."""

    def __init__(self, directory: Path, spec: dict[str, Any]) -> None:
        self.bundle = directory / "bundle"
        self.root = directory / "state"
        self.log = directory / "log.json"
        self.bundle.mkdir()
        self.write(spec)

    def write(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        (self.bundle / "config.json").write_text(json.dumps(spec))

    def command(self, *arguments: str) -> list[str]:
        program = Path(sys.executable).parent / "corten-oci"
        return [str(program), "--root", str(self.root), "--log", str(self.log), "--log-format", "json", *arguments]

    def __call__(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=30, check=False, **options
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done

    def create(self, name: str, *arguments: str) -> None:
        """Without pipes: the container keeps them open."""
        words = self.command("create", "-b", str(self.bundle), *arguments, name)
        with open(self.bundle / "output", "ab") as output:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=30, check=False
            )
        assert done.returncode == 0, self.output()

    def output(self) -> str:
        return (self.bundle / "output").read_text()

    def state(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self("state", name).stdout)
        return document

    def status(self, name: str) -> str:
        status: str = self.state(name)["status"]
        return status

    def wait_for(self, name: str, status: str) -> None:
        deadline = time.monotonic() + 10
        while self.status(name) != status:
            assert time.monotonic() < deadline, f"{name} is {self.status(name)} and not {status}"
            time.sleep(0.02)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

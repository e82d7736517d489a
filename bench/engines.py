"""Engines behind a Docker API socket, started for a measurement with roots of their own and taken away again."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
BUSYBOX = shutil.which("busybox")
IMPORT_BUSYBOX = "/images/create?fromSrc=-&repo=busybox&changes=ENV%20PATH%3D/bin"


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=300)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Engine:
    """An engine behind a Docker API socket.

    prefix:   what its programs are started by (nsenter)
    networks: with the networks that it has by default
    """

    def __init__(self, name: str, directory: Path, *, prefix: list[str] | None = None, networks: bool = False) -> None:
        self.name = name
        self.prefix = prefix or []
        self.networks = networks
        self.directory = directory
        self.socket = directory / "api.sock"
        self.processes: list[subprocess.Popen[bytes]] = []

    def call(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> bytes:
        connection = Connection(str(self.socket))
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        kind = "application/x-tar" if raw is not None else "application/json"
        connection.request(method, path, data, {"Content-Type": kind})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status >= 400:
            raise RuntimeError(f"{self.name}: {method} {path}: {response.status} {answer[:300]!r}")
        return answer

    def create(self, command: list[str]) -> str:
        body = {"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": "none"}}
        return str(json.loads(self.call("POST", "/containers/create", body))["Id"])

    def start_process(self, command: list[str]) -> None:
        with open(self.directory / "log", "ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [*self.prefix, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT
                )
            )

    def wait(self) -> None:
        for _ in range(600):
            try:
                self.call("GET", "/_ping")
                return
            except (OSError, RuntimeError):
                if any(process.poll() is not None for process in self.processes):
                    break
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not start:\n{(self.directory / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        # also after an interruption: containers go on without their engine
        with contextlib.suppress(OSError, RuntimeError):
            for container in json.loads(self.call("GET", "/containers/json?all=1")):
                with contextlib.suppress(RuntimeError):  # somebody else removes it
                    self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def shim(self, container: str) -> int:
        """The process that holds a container while it runs: the parent of its program."""
        pid = json.loads(self.call("GET", f"/containers/{container}/json"))["State"]["Pid"]
        return int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])

    def daemons(self) -> list[int]:
        return [process.pid for process in self.processes]


class Corten(Engine):
    def launch(self) -> None:
        self.start_process(
            [
                str(BIN / "cortend"), "-H", f"unix://{self.socket}", "--data-root", str(self.directory / "data"),
                "--exec-root", str(self.directory / "run"),
            ]
        )  # fmt: skip
        self.wait()

    def daemons(self) -> list[int]:
        return [pid for parent in super().daemons() for pid in (parent, *descendants(parent))]

    def listing(self) -> list[str]:
        return [str(BIN / "corten"), "-H", f"unix://{self.socket}", "ps"]


class Docker(Engine):
    def launch(self) -> None:
        state = self.directory
        (state / "containerd.toml").write_text(
            f'version = 2\nroot = "{state}/croot"\nstate = "{state}/cstate"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{state}/c.sock"\n'
        )
        (state / "none.json").write_text("{}")
        self.start_process(["containerd", "--config", str(state / "containerd.toml")])
        for _ in range(200):
            if (state / "c.sock").exists():
                break
            time.sleep(0.05)
        self.start_process(
            [
                "dockerd", "--containerd", str(state / "c.sock"), "-H", f"unix://{self.socket}",
                "--data-root", str(state / "data"), "--exec-root", str(state / "exec"), "--pidfile", str(state / "pid"),
                "--config-file", str(state / "none.json"),
                *([] if self.networks else ["--bridge=none", "--iptables=false", "--ip6tables=false"]),
            ]
        )  # fmt: skip
        self.wait()

    def listing(self) -> list[str]:
        return ["docker", "-H", f"unix://{self.socket}", "ps"]


def children(parent: int) -> list[int]:
    """Processes that one has started."""
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def descendants(parent: int) -> list[int]:
    """Its children and theirs."""
    return [pid for child in children(parent) for pid in (child, *descendants(child))]


def memory(pids: list[int], *fields: str) -> float:
    """MB of these fields of smaps_rollup, all processes together."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.split(":")[0] in fields:
                total += int(line.split()[1])
    return total / 1024


def busybox_tar() -> bytes:
    assert BUSYBOX, "busybox is missing"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "true", "sleep", "cat", "echo", "yes", "head"):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return archive.getvalue()


def end_in_order() -> None:
    """Let SIGTERM end the run as ctrl-C does, so that what was started is stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextlib.contextmanager
def running(*, docker: bool = True) -> Iterator[list[Engine]]:
    """Corten, and dockerd where it is installed and wanted; nothing of them stays."""
    end_in_order()
    top = Path(tempfile.mkdtemp(prefix="corten-bench-"))
    engines: list[Engine] = []
    try:
        with_docker = docker and shutil.which("dockerd") and shutil.which("containerd")
        for kind in (Corten, Docker) if with_docker else (Corten,):
            directory = top / kind.__name__.lower()
            directory.mkdir()
            engine = kind(kind.__name__, directory)
            engines.append(engine)
            engine.launch()
        yield engines
    finally:
        for engine in engines:
            engine.stop()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            if line.split(" ")[4].startswith(str(top)):
                subprocess.run(["umount", "-l", line.split(" ")[4]], check=False)
        shutil.rmtree(top, ignore_errors=True)


def describe_machine() -> str:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    version = (
        subprocess.run(["dockerd", "--version"], capture_output=True, text=True, check=False).stdout
        if shutil.which("dockerd")
        else ""
    )
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} x {model[1] if model else 'CPU'}, {gigabytes:.0f} GiB, "
        f"Linux {os.uname().release.split('-')[0]}, Python {sys.version.split()[0]}; {version.strip() or 'no dockerd'}"
    )


def print_table(names: list[str], rows: dict[str, dict[str, str]]) -> None:
    """Markdown: a row for each figure, a column for each engine."""
    print("| what | " + " | ".join(names) + " |")
    print("|---|" + "---|" * len(names))
    for figure, values in rows.items():
        print(f"| {figure} | " + " | ".join(values.get(name, "-") for name in names) + " |")

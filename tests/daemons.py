"""Daemons with roots of their own, and the clients to speak with them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import CGROUP_PARENT, EMULATED

BIN = Path(sys.executable).parent
PREPARED_NAMESPACES = 8  # as many as corten.network.background makes ahead


class ApiConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Engine:
    """Something behind a Docker API socket."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "api.sock"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def client(self) -> Any:
        """docker-py's client."""
        import docker

        return docker.DockerClient(base_url=f"http+unix://{self.socket}", timeout=60)

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Status and body of one request; ``body`` is bytes, or a document."""
        connection = ApiConnection(self.socket)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"Content-Type": content_type})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def answers(self) -> bool:
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def run(
        self, command: list[str], *, check: bool = True, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """A client's command against this engine."""
        environment = {
            **os.environ,
            "DOCKER_HOST": self.host,
            "CORTEN_HOST": self.host,
            "DOCKER_CONFIG": str(self.directory),
        }
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            errors="replace",
            **options,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def docker(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """The unmodified docker client."""
        return self.run(["docker", *arguments], **options)

    def inspect(self, reference: str) -> dict[str, Any]:
        return json.loads(self.docker("inspect", reference).stdout)[0]

    def import_busybox(self, archive: Path) -> None:
        done = self.docker("import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin", str(archive), "busybox")
        assert done.stdout.startswith("sha256:")

    @contextlib.contextmanager
    def without_new_images(self) -> Iterator[None]:
        """Containers and images that the block makes, and the builds' cache, are gone then; fails when one stays."""

        def images() -> set[str]:
            return set(self.docker("images", "-aq", "--no-trunc").stdout.split())

        before = images()
        yield
        self.remove_containers()
        self.request("POST", "/v1.41/build/prune?all=1")
        while left := images() - before:
            self.docker("rmi", "-f", *left, check=False)
            assert images() - before != left, f"images stay: {left}"
        self.request("POST", "/v1.41/build/prune?all=1")  # steps of images that had names

    def remove_containers(self) -> None:
        deadline = time.monotonic() + 15
        while ids := self.docker("ps", "-aq", "--no-trunc").stdout.split():
            # one that removes itself at this moment is refused: it is gone at the next look
            self.docker("rm", "-f", "-v", *ids, check=False)
            assert time.monotonic() < deadline, f"containers stay: {ids}"


class OwnHost:
    """A network namespace with its own devices in /sys, until it is closed: nothing of the machine changes."""

    _SCRIPT = """
    set -e
    mount --rbind /sys/fs/cgroup "$1"
    mount -t sysfs sysfs /sys
    mount --rbind "$1" /sys/fs/cgroup
    ip link set lo up
    echo ready
    exec cat
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", self._SCRIPT, "host", directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    @property
    def pid(self) -> str:
        """Of a process that is there."""
        return str(self._process.pid)

    @property
    def enter(self) -> tuple[str, ...]:
        """What begins a command on this host."""
        return ("nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt", "--")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Daemon(Engine):
    """A cortend; on a host of its own when there is one."""

    def __init__(
        self, directory: Path, *flags: str, data_root: Path | None = None, host: OwnHost | None = None
    ) -> None:
        super().__init__(directory)
        self._enter = host.enter if host is not None else ()
        directory.mkdir(parents=True, exist_ok=True)
        self.flags = flags
        self.data_root = data_root or directory / "data"
        self.exec_root = directory / "run"
        self.pidfile = directory / "pid"
        self.log = directory / "cortend.log"

    def start(self, *, check: bool = True, timeout_s: float = 90 if EMULATED else 15) -> None:
        command = [
            *self._enter, str(BIN / "cortend"), "--data-root", str(self.data_root), "--exec-root", str(self.exec_root),
            "-H", self.host, "--pidfile", str(self.pidfile), "--cgroup-parent", CGROUP_PARENT, *self.flags,
        ]  # fmt: skip
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers():
                return
            time.sleep(0.02)
        if check:
            raise AssertionError(f"the daemon did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(30) == 0, self.log.read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        self.stop()
        self.start()

    def corten(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Our own client."""
        return self.run([str(BIN / "corten"), *arguments], **options)

    def state(self) -> dict[str, set[str]]:
        """What the daemon holds: descriptors by what they are, files of its exec root.

        Network namespaces made ahead, each with a socket, are no part of it: how many wait is a matter of time.
        """
        assert self.process is not None
        files = Path(f"/proc/{self.process.pid}/fd")
        counts: dict[str, int] = {}
        for name in os.listdir(files):
            try:
                kind = os.readlink(files / name).partition(":[")[0]
            except OSError:
                continue
            counts[kind] = counts.get(kind, 0) + 1
        prepared = min(counts.get("net", 0), PREPARED_NAMESPACES)
        for kind in ("net", "socket"):
            counts[kind] = counts.get(kind, 0) - prepared
        held = {f"{kind} #{number}" for kind, count in counts.items() for number in range(1, count + 1)}
        return {"descriptors": held, "files": {path.name for path in self.exec_root.iterdir()}}


class Dockerd(Engine):
    """Debian's dockerd with a containerd of its own, as a peer to compare with.

    settings: its daemon.json
    host:     where it has networks; None for one that leaves the network alone
    """

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None, *, host: OwnHost | None = None) -> None:
        super().__init__(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._settings = settings or {}
        self._enter = host.enter if host is not None else ()
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        top = self.directory
        (top / "containerd.toml").write_text(
            f'version = 2\nroot = "{top}/croot"\nstate = "{top}/cstate"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{top}/c.sock"\n'
        )
        (top / "daemon.json").write_text(json.dumps(self._settings))
        self._launch("containerd", "--config", str(top / "containerd.toml"))
        self._until((top / "c.sock").exists)
        self._launch(
            "dockerd", "--containerd", str(top / "c.sock"), "-H", self.host, "--data-root", str(top / "data"),
            "--exec-root", str(top / "exec"), "--pidfile", str(top / "pid"), "--config-file", str(top / "daemon.json"),
            "--cgroup-parent", f"{CGROUP_PARENT}",
            *(() if self._enter else ("--bridge=none", "--iptables=false", "--ip6tables=false")),
        )  # fmt: skip
        self._until(self.answers)

    def _launch(self, *command: str) -> None:
        with open(self.directory / "log", "ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [*self._enter, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _until(self, check: Any) -> None:
        deadline = time.monotonic() + 30
        while not check():
            dead = [process for process in self._processes if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                raise AssertionError(f"dockerd did not start:\n{(self.directory / 'log').read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            target = line.split(" ")[4]
            if target.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", target], check=False)

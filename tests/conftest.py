"""What all tests share: features of the machine, daemons, base images, and the check that nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUSYBOX = Path("/bin/busybox") if Path("/bin/busybox").exists() else Path("/usr/bin/busybox")
BIN = Path(sys.executable).parent


# -- what the machine has -----------------------------------------------------------------------------------------------


def _mount_types() -> set[str]:
    return {line.partition(" - ")[2].split(" ")[0] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _v1_controllers() -> set[str]:
    found: set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        kind, _, options = line.partition(" - ")[2].split(" ", 2)
        if kind == "cgroup":
            found.update(options.split(","))
    return found


FEATURES = {
    "root": lambda: os.geteuid() == 0,
    "cgroup1": lambda: "memory" in _v1_controllers(),
    "cgroup2": lambda: "cgroup2" in _mount_types() and "memory" not in _v1_controllers(),
    "busybox": BUSYBOX.exists,
    "userns": lambda: Path("/proc/self/ns/user").exists(),
    "timens": lambda: Path("/proc/self/ns/time").exists(),
    "docker": lambda: shutil.which("docker") is not None,
    "dockerd": lambda: shutil.which("dockerd") is not None and shutil.which("containerd") is not None,
    "skopeo": lambda: shutil.which("skopeo") is not None,
    "umoci": lambda: shutil.which("umoci") is not None,
    "docker-py": lambda: __import__("importlib.util").util.find_spec("docker") is not None,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        where = Path(item.fspath).relative_to(HERE).parts[0]
        if where in ("engine", "clients", "faults"):
            item.add_marker(pytest.mark.root)
            # one worker for everything that looks at the machine's mounts and cgroups
            item.add_marker(pytest.mark.xdist_group("machine"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    if item.get_closest_marker("root"):
        wanted.insert(0, "root")
    for name in wanted:
        if not FEATURES[name]():
            pytest.skip(f"this machine lacks: {name}")


# -- nothing is left behind -----------------------------------------------------------------------------------------------


def _mounts() -> set[str]:
    return {line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _links() -> set[str]:
    return set(os.listdir("/sys/class/net"))


def _cgroups() -> set[str]:
    """Groups of containers; the parent that all share stays, and is empty."""
    found = set()
    for top in Path("/sys/fs/cgroup").glob("*/corten*"):
        found.update(str(path) for path in top.glob("*") if path.is_dir())
    for top in Path("/sys/fs/cgroup").glob("corten*"):
        found.update(str(path) for path in top.glob("*") if path.is_dir())
    return found


def _loops() -> set[str]:
    return {str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file")}


def _processes() -> set[tuple[int, str]]:
    """Processes of containers: shims and what they run."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            name = (directory / "comm").read_text().strip()
        except OSError:
            continue
        if name.startswith("corten-shim"):
            found.add((int(directory.name), name))
    return found


def machine_state() -> dict[str, set]:
    return {
        "mounts": _mounts(),
        "links": _links(),
        "cgroups": _cgroups(),
        "loops": _loops(),
        "processes": _processes(),
    }


def leaked(before: dict[str, set], wait_s: float = 5.0) -> dict[str, set]:
    """What is there now and was not before; waits a moment for what is on its way out."""
    deadline = time.monotonic() + wait_s
    while True:
        now = machine_state()
        extra = {key: now[key] - before[key] for key in now if now[key] - before[key]}
        if not extra or time.monotonic() > deadline:
            return extra
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that touches the machine, the machine is as it was."""
    if not request.node.get_closest_marker("root") or os.geteuid() != 0:
        yield
        return
    if "daemon" in request.fixturenames:
        request.getfixturevalue("daemon")
    before = machine_state()
    yield
    for fixture in ("daemon", "fresh_daemon"):
        if fixture in request.fixturenames and fixture == "daemon":
            request.getfixturevalue("daemon").remove_containers()
    extra = leaked(before)
    assert not extra, f"left behind: {extra}"


# -- a root file system ---------------------------------------------------------------------------------------------------

APPLETS = (
    "[ ash basename cat chmod chown cp cut date dd df dirname echo env false find grep head hostname id ip kill ln ls md5sum "
    "mkdir mkfifo mknod mount mv nc ping printf ps pwd readlink rm rmdir sed seq sh sleep sort stat stty sync tail tar tee test "
    "time timeout top touch tr true tty umount uname uniq vi wc wget which whoami xargs yes"
).split()


def make_busybox_rootfs(target: Path) -> None:
    (target / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, target / "bin/busybox")
    for name in APPLETS:
        (target / "bin" / name).symlink_to("busybox")
    for name in ("dev", "etc", "proc", "root", "sys", "tmp", "var"):
        (target / name).mkdir()
    (target / "tmp").chmod(0o1777)
    (target / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n")
    (target / "etc/group").write_text("root:x:0:\nbob:x:1000:\nextra:x:50:bob\n")


@pytest.fixture(scope="session")
def busybox_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system as a tar."""
    if not BUSYBOX.exists():
        pytest.skip("this machine lacks: busybox")
    directory = tmp_path_factory.mktemp("busybox")
    make_busybox_rootfs(directory / "rootfs")
    archive = directory / "busybox.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(directory / "rootfs", arcname=".", filter=_owned_by_root)
    return archive


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


@pytest.fixture
def busybox_rootfs(tmp_path: Path) -> Path:
    if not BUSYBOX.exists():
        pytest.skip("this machine lacks: busybox")
    make_busybox_rootfs(tmp_path / "rootfs")
    return tmp_path / "rootfs"


# -- daemons --------------------------------------------------------------------------------------------------------------


class Daemon:
    """A cortend with roots of its own, and the clients to speak with it."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.flags = flags
        self.data_root = directory / "data"
        self.exec_root = directory / "run"
        self.socket = directory / "corten.sock"
        self.log = directory / "cortend.log"
        self.process: subprocess.Popen | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    def start(self, *, check: bool = True, timeout_s: float = 15) -> None:
        command = [
            str(BIN / "cortend"), "--data-root", str(self.data_root), "--exec-root", str(self.exec_root),
            "-H", self.host, "--pidfile", str(self.directory / "pid"), *self.flags,
        ]  # fmt: skip
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if self.socket.exists() and self.docker("version", check=False).returncode == 0:
                return
            time.sleep(0.02)
        if check:
            raise AssertionError(f"the daemon did not start:\n{self.log.read_text()}")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _run(self, command: list[str], check: bool, timeout: float, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOCKER_HOST": self.host, "CORTEN_HOST": self.host, "DOCKER_CONFIG": str(self.directory)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout, check=False, errors="replace", **options
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def docker(self, *arguments: str, check: bool = True, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
        """The unmodified docker client."""
        return self._run(["docker", *arguments], check, timeout, **options)

    def corten(self, *arguments: str, check: bool = True, timeout: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
        """Our own client."""
        return self._run([str(BIN / "corten"), *arguments], check, timeout, **options)

    def inspect(self, reference: str) -> dict:
        return json.loads(self.docker("inspect", reference).stdout)[0]

    def import_busybox(self, archive: Path) -> None:
        done = self.docker("import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin", str(archive), "busybox")
        assert done.stdout.startswith("sha256:")

    def remove_containers(self) -> None:
        deadline = time.monotonic() + 15
        while ids := self.docker("ps", "-aq", "--no-trunc").stdout.split():
            # one that removes itself at this moment is refused: it is gone at the next look
            self.docker("rm", "-f", "-v", *ids, check=False)
            assert time.monotonic() < deadline, f"containers stay: {ids}"

    def descriptors(self) -> int:
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path) -> Iterator[Daemon]:
    """One daemon with a busybox image for all tests that leave it as they found it."""
    if os.geteuid() != 0:
        pytest.skip("this machine lacks: root")
    if shutil.which("docker") is None:
        pytest.skip("this machine lacks: docker")
    made = Daemon(tmp_path_factory.mktemp("daemon"))
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


@pytest.fixture
def fresh_daemon(tmp_path: Path, busybox_tar: Path) -> Iterator[Daemon]:
    """A daemon of the test's own, to be killed and started again."""
    if shutil.which("docker") is None:
        pytest.skip("this machine lacks: docker")
    made = Daemon(tmp_path / "d")
    made.directory.mkdir()
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    if made.process is not None and made.process.poll() is not None:
        made.start()
    made.remove_containers()
    made.stop()

"""SELinux where the kernel has it (tests/vm/test_selinux.py): who has which label, and what the policy makes of it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox", "overlayfs", "selinux")

FILE, PROCESS = "system_u:object_r:container_file_t:", "system_u:system_r:container_t:"
ENFORCE = Path("/sys/fs/selinux/enforce")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str) -> Iterator[Daemon]:
    made = Daemon(tmp_path_factory.mktemp("labelled"), "--bridge", "none", "--selinux-enabled")
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


@pytest.fixture(autouse=True)
def no_containers(labelled: Daemon) -> Iterator[None]:
    yield
    labelled.remove_containers()


@pytest.fixture
def enforcing() -> Iterator[None]:
    """The policy forbids what it does not allow, while the test runs."""
    ENFORCE.write_text("1")
    yield
    ENFORCE.write_text("0")


def label_of(path: Path) -> str:
    return os.getxattr(path, "security.selinux").decode().rstrip("\0")


def own(daemon: Daemon, *flags: str) -> str:
    return daemon.docker("run", "--rm", *flags, "busybox", "cat", "/proc/self/attr/current").stdout.strip("\0\n")


def test_programs_and_their_files_are_labelled(labelled: Daemon) -> None:
    assert "name=selinux" in labelled.docker("info", "-f", "{{json .SecurityOptions}}").stdout
    labelled.docker("run", "-d", "--name", "box", "--tmpfs", "/scratch", "busybox", "sleep", "300")
    about = labelled.inspect("box")
    process, file = about["ProcessLabel"], about["MountLabel"]
    assert process.startswith(f"{PROCESS}s0:c")
    assert file == process.replace(PROCESS, FILE)
    pid = about["State"]["Pid"]
    assert Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n") == process
    for path in ("", "/bin/busybox", "/scratch", "/dev", "/dev/shm", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname"):
        assert label_of(Path(f"/proc/{pid}/root{path}")) == file, path
    assert labelled.docker("exec", "box", "cat", "/proc/self/attr/current").stdout.strip("\0\n") == process
    assert own(labelled, "--pid", "container:box") == process
    assert own(labelled) != process
    lower = Path(labelled.inspect("box")["GraphDriver"]["Data"]["LowerDir"].split(":")[-1])
    assert label_of(lower / "bin/busybox") == "system_u:object_r:container_ro_file_t:s0"
    labelled.restart()
    assert labelled.inspect("box")["ProcessLabel"] == process
    labelled.docker("restart", "-t", "0", "box")
    pid = labelled.inspect("box")["State"]["Pid"]
    assert Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n") == process


def test_options(labelled: Daemon, daemon: Daemon) -> None:
    here = Path("/proc/self/attr/current").read_text().rstrip("\0\n")
    assert own(labelled, "--privileged") == own(labelled, "--security-opt", "label=disable") == here
    assert own(labelled, "--security-opt", "label=level:s0:c1,c2") == f"{PROCESS}s0:c1,c2"
    assert own(labelled, "--security-opt", "label=type:svirt_t").startswith("system_u:system_r:svirt_t:s0:c")
    done = labelled.docker("run", "--rm", "--security-opt", "label=type:nosuch_t", "busybox", "true", check=False)
    assert "does not know the label" in done.stderr
    assert own(daemon) == here
    done = daemon.docker("run", "--rm", "--security-opt", "label=type:svirt_t", "busybox", "true", check=False)
    assert "the daemon runs without --selinux-enabled" in done.stderr


def test_the_policy_holds_containers_apart(labelled: Daemon, enforcing: None, tmp_path: Path) -> None:
    """The walls themselves: another container's files, and files of the machine, are closed to root of a container."""
    for name in ("own", "shared", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"{name}\n")
    binds = [
        "-v", f"{tmp_path}/own:/own:Z", "-v", f"{tmp_path}/shared:/shared:z", "-v", f"{tmp_path}/plain:/plain",
    ]  # fmt: skip
    look = "cat /own/file /shared/file /plain/file; echo x > /mine && cat /mine; touch /dev/shm/x && echo written"
    labelled.docker("run", "-d", "--name", "first", *binds, "busybox", "sh", "-c", f"({look}) 2>&1; sleep 300")
    deadline = time.monotonic() + 60
    while not (said := labelled.docker("logs", "first").stdout).endswith("written\n") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert said.splitlines()[:2] == ["own", "shared"]
    assert "can't open '/plain/file': Permission denied" in said
    assert said.splitlines()[-2:] == ["x", "written"]
    file = labelled.inspect("first")["MountLabel"]
    assert label_of(tmp_path / "own/file") == file
    assert label_of(tmp_path / "shared") == f"{FILE}s0"
    # a second one has other categories: what is the first one's alone is closed to it, though it is the same user
    others = ["-v", f"{tmp_path}/own:/own", "-v", f"{tmp_path}/shared:/shared"]
    done = labelled.docker("run", "--rm", *others, "busybox", "cat", "/own/file", "/shared/file", check=False)
    assert done.stdout == "shared\n"
    assert "Permission denied" in done.stderr
    free = labelled.docker("run", "--rm", *others, "--security-opt", "label=disable", "busybox", "cat", "/own/file")
    assert free.stdout == "own\n"
    # what works without SELinux works with it
    assert labelled.docker("exec", "first", "sh", "-c", "echo $((6 * 7))").stdout == "42\n"
    labelled.docker("cp", "first:/mine", str(tmp_path / "copied"))
    labelled.docker("commit", "first", "kept")
    assert labelled.docker("run", "--rm", "kept", "cat", "/mine").stdout == "x\n"
    labelled.docker("rmi", "-f", "kept")
    assert labelled.docker("run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", "echo x > /v/f; cat /v/f").stdout
    labelled.docker("volume", "rm", "vol")


def test_the_machines_directories_keep_their_labels(labelled: Daemon) -> None:
    before = label_of(Path("/etc/passwd"))
    done = labelled.docker("run", "--rm", "-v", "/etc:/x:z", "busybox", "true", check=False)
    assert "SELinux relabeling of /etc is not allowed" in done.stderr
    assert label_of(Path("/etc/passwd")) == before

"""``--storage-opt size=``: what a container writes stops at its limit, and nothing of the limit stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from corten.linux import mounts
from daemons import Daemon

pytestmark = pytest.mark.needs("docker", "busybox", "overlayfs", "disk limits")

FILL = "dd if=/dev/zero of=/full bs=64k 2>&1; stat -c %s /full"


def written(output: str) -> int:
    return int(output.split()[-1])


@pytest.mark.parametrize("client", ["docker", "corten"])
def test_a_container_gets_what_it_asked_for_and_not_more(daemon: Daemon, client: str) -> None:
    command = daemon.docker if client == "docker" else daemon.corten
    output = command("run", "--rm", "--storage-opt", "size=40m", "busybox", "sh", "-c", FILL).stdout
    assert "No space left on device" in output
    assert abs(written(output) - (40 << 20)) < 2 << 20  # 5 %


def test_everything_works_with_it(daemon: Daemon, tmp_path: Path) -> None:
    daemon.docker(
        "create", "--name", "small", "--storage-opt", "size=16M", "busybox", "sh", "-c", "echo x >> /seen; cat /seen"
    )
    assert daemon.inspect("small")["HostConfig"]["StorageOpt"] == {"size": "16M"}
    for runs in (1, 2):
        assert daemon.docker("start", "-a", "small").stdout == "x\n" * runs
    (tmp_path / "file").write_text("copied")
    daemon.docker("cp", str(tmp_path / "file"), "small:/copied")
    assert daemon.docker("diff", "small").stdout.splitlines() == ["A /copied", "A /seen"]
    daemon.docker("commit", "small", "committed")
    try:
        assert daemon.docker("run", "--rm", "committed", "cat", "/seen", "/copied").stdout == "x\nx\ncopied"
    finally:
        daemon.docker("rmi", "-f", "committed")
    (tmp_path / "large").write_bytes(os.urandom(32 << 20))
    done = daemon.docker("cp", str(tmp_path / "large"), "small:/large", check=False)
    assert done.returncode != 0
    assert "no space left on device" in done.stderr.lower()
    assert daemon.docker("ps", "-as", "--filter", "name=small", "--format", "{{.Size}}").stdout.startswith(
        ("10B", "16.", "17.")
    )


def test_daemon_that_was_killed_finds_it_again(fresh_daemon: Daemon) -> None:
    fresh_daemon.docker("run", "-d", "--name", "small", "--storage-opt", "size=16m", "busybox", "sleep", "300")
    fresh_daemon.docker("create", "--name", "other", "--storage-opt", "size=16m", "busybox", "sh", "-c", FILL)
    fresh_daemon.kill()
    fresh_daemon.start()
    done = fresh_daemon.docker("exec", "small", "sh", "-c", FILL)
    assert written(done.stdout) < 18 << 20
    assert "No space left" in fresh_daemon.docker("start", "-a", "other").stdout
    fresh_daemon.docker("restart", "-t", "0", "small")
    assert fresh_daemon.docker("exec", "small", "rm", "/full").returncode == 0


def test_a_data_root_behind_a_link(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    own = Daemon(tmp_path / "d", "--bridge", "none", data_root=tmp_path / "link")
    own.start()
    try:
        own.import_busybox(busybox_tar)
        own.docker("create", "--name", "small", "--storage-opt", "size=16m", "busybox", "true")
        for command in ("inspect", "start", "inspect"):
            own.docker(command, "small")
        assert disks_below(tmp_path) == 1
        own.docker("rm", "-f", "small")
        assert disks_below(tmp_path) == 0
    finally:
        own.stop()


def disks_below(directory: Path) -> int:
    targets = [entry.target for entry in mounts.read()]
    return len([target for target in targets if target.startswith(f"{directory}/") and target.endswith("/disk")])


def test_project_quotas_where_the_file_system_keeps_them(tmp_path: Path, busybox_tar: Path, cgroup_parent: str) -> None:
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("this machine lacks: mkfs.xfs")
    place, image = tmp_path / "xfs", tmp_path / "xfs.img"
    place.mkdir()
    with open(image, "wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop,prjquota", str(image), str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("this machine lacks: project quotas of xfs")
    try:
        own = Daemon(tmp_path / "d", "--bridge", "none", data_root=place / "data")
        own.start()
        own.import_busybox(busybox_tar)
        output = own.docker("run", "--name", "counted", "--storage-opt", "size=20m", "busybox", "sh", "-c", FILL).stdout
        assert "No space left on device" in output
        assert abs(written(output) - (20 << 20)) < 1 << 20
        assert not list((place / "data/overlay2").glob("*/disk.img"))
        # the others are not counted with it
        output = own.docker("run", "--rm", "busybox", "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=30; stat -c %s /x")
        assert written(output.stdout) == 30 << 20
        own.docker("rm", "counted")
        own.stop()
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("option", "text"),
    [("size=much", "invalid size: 'much'"), ("size=-1", "invalid size"), ("size=0", "invalid size"),
     ("size=1k", "smallest"), ("color=red", "unknown option color")],
)  # fmt: skip
def test_bad_limits_are_refused_and_leave_nothing(daemon: Daemon, option: str, text: str) -> None:
    done = daemon.docker("create", "--storage-opt", option, "busybox", check=False)
    assert done.returncode != 0
    assert text in done.stderr
    assert daemon.docker("ps", "-aq").stdout == ""

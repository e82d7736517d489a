"""The runtime on version 2 control groups, also on a host whose controllers are still version 1's.

There the unified hierarchy has no controllers, but membership, freezing, killing and device programs are all its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_support import World

from corten.cgroup.hierarchy import Hierarchies
from corten.runtime import groups

pytestmark = pytest.mark.needs("busybox", "unified")


@pytest.fixture
def world(tmp_path: Path, busybox_rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    found = Hierarchies.read()
    monkeypatch.setattr(Hierarchies, "here", classmethod(lambda cls: cls({}, found.unified)))
    assert Hierarchies.here().is_v2
    with World(tmp_path, busybox_rootfs) as made:
        yield made


CGROUP = {
    "destination": "/sys/fs/cgroup",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["ro", "nosuid", "noexec", "nodev"],
}


def own_group(pid: int | str) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def test_born_in_its_group_and_sees_only_that(world: World) -> None:
    spec = world.script(
        "grep ^0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs; ls -d /sys/fs/cgroup/*/ 2>/dev/null;"
        "mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused; echo end; sleep 60"
    )
    spec["mounts"].append(CGROUP)
    running = world.start(spec)
    assert [running.output.line() for _ in range(2)] == ["0::/", "1"]
    lines = []
    while (line := running.output.line()) != "end":
        lines.append(line)
    assert lines[-1] == "refused"
    assert not [line for line in lines if line.startswith("/sys")]
    assert own_group(running.init.pid) == spec["linux"]["cgroupsPath"]
    result = world.execute(running, "grep", "^0::", "/proc/self/cgroup")
    assert result.words == ["0::/"]


def test_device_program(world: World) -> None:
    # any device that is not allowed from the start and that may be opened without further rights
    candidates = [
        path for path in ("/dev/loop-control", "/dev/fuse", "/dev/hwrng", "/dev/autofs") if os.path.exists(path)
    ]
    if not candidates:
        pytest.skip("this machine lacks: a device to try")
    number = os.stat(candidates[0]).st_rdev
    major, minor = os.major(number), os.minor(number)
    running = world.start(
        world.script(f"mknod /tmp/other c {major} {minor}; mknod /tmp/zero c 1 5; echo made; sleep 60")
    )
    assert running.output.line() == "made"

    def can_open(path: str) -> bool:
        return world.execute(running, "sh", "-c", f"(: < {path}) 2>/dev/null").code == 0

    assert can_open("/tmp/zero")
    assert not can_open("/tmp/other")
    # the new rules take the place of the old ones
    rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "r"}
    groups.update(running.init.cgroup, {"devices": [{"allow": False, "access": "rwm"}, rule]})
    assert can_open("/tmp/other")
    assert world.execute(running, "sh", "-c", "(: > /tmp/other) 2>/dev/null").code != 0
    groups.update(running.init.cgroup, {"devices": [{"allow": False, "access": "rwm"}]})
    assert not can_open("/tmp/other")
    assert can_open("/tmp/zero")


def test_freezing_and_killing(world: World) -> None:
    running = world.start(world.script("sleep 60 & sleep 60"))
    cgroup = running.init.cgroup
    cgroup.freeze()
    assert cgroup.is_frozen()
    cgroup.thaw()
    assert not cgroup.is_frozen()
    cgroup.kill()
    assert running.wait().code == -9


def test_user_namespace(world: World) -> None:
    os.chown(world.rootfs, 100000, 100000)
    spec = world.spec("sleep", "60")
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    spec["mounts"].append(CGROUP)
    running = world.start(spec)
    assert own_group(running.init.pid) == spec["linux"]["cgroupsPath"]
    result = world.execute(running, "sh", "-c", "id -u; grep ^0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs")
    assert result.words[:3] == ["0", "0::/", "1"]


def test_exec_where_the_group_has_groups_below_it(world: World) -> None:
    """Then it may take no process any more: the exec goes where init is."""
    running = world.start(world.spec("sleep", "60"))
    group = Path(Hierarchies.here().unified + running.init.cgroup.path)
    (group / "inner").mkdir()
    (group / "inner/cgroup.procs").write_text(str(running.init.pid))
    (group / "cgroup.type").read_text()
    if not (group / "cgroup.controllers").read_text().split():
        # without controllers to pass down the kernel has nothing against processes here
        assert world.execute(running, "true").code == 0
    else:
        controller = (group / "cgroup.controllers").read_text().split()[0]
        (group / "cgroup.subtree_control").write_text(f"+{controller}")
        assert world.execute(running, "grep", "^0::", "/proc/self/cgroup").text.strip().endswith("/inner")
    running.kill()

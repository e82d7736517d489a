"""linux.intelRdt from create to delete, in a directory that does as the kernel's; refused where there is none."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runtime_support import Oci, World, make_spec

from corten.errors import SystemFailure
from corten.runtime import resctrl
from corten.runtime.oci import command
from resctrl_double import FakeResctrl

pytestmark = pytest.mark.needs("busybox")

Call = Callable[..., int]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeResctrl:
    return FakeResctrl(tmp_path / "resctrl", monkeypatch)


@pytest.fixture
def oci(tmp_path: Path, busybox_rootfs: Path) -> Iterator[Oci]:
    spec = make_spec(busybox_rootfs, "sleep", "60")
    spec["linux"]["cgroupsPath"] = f"/corten-test-resctrl-{os.getpid()}/c"
    yield Oci(tmp_path, spec)
    for directory in Path("/sys/fs/cgroup").glob(f"*/corten-test-resctrl-{os.getpid()}"):
        with contextlib.suppress(OSError):
            directory.rmdir()


@pytest.fixture
def call(oci: Oci) -> Call:
    """corten-oci in this process, which sees the directory."""
    return lambda *words: command.run(oci.command(*words)[1:])


@pytest.mark.skipif(resctrl.mount_point() != "", reason="this machine has resctrl")
def test_it_is_refused_without_the_file_system(oci: Oci) -> None:
    oci.write({**oci.spec, "linux": {**oci.spec["linux"], "intelRdt": {"closID": "gold"}}})
    done = oci("run", "-b", str(oci.bundle), "c1", check=False)
    wanted = "corten-oci: config.json: linux.intelRdt: this machine has no resctrl file system mounted\n"
    assert (done.returncode, done.stderr) == (1, wanted)
    assert oci("list", "-q").stdout == ""
    assert not list(Path("/sys/fs/cgroup").glob(f"*{oci.spec['linux']['cgroupsPath']}"))


def test_a_container_and_its_further_programs_are_in_the_class(fake: FakeResctrl, oci: Oci, call: Call) -> None:
    rdt = {"l3CacheSchema": "L3:0=f", "enableMonitoring": True}
    oci.write({**oci.spec, "linux": {**oci.spec["linux"], "intelRdt": rdt}})
    pid_file = oci.bundle / "pid"
    assert call("run", "-d", "-b", str(oci.bundle), "--pid-file", str(pid_file), "c1") == 0
    try:
        own = fake.root / "c1"
        for tasks in (own / "tasks", own / "mon_groups" / "c1" / "tasks"):
            assert tasks.read_text() == f"{pid_file.read_text()}\n"
            tasks.write_text("")
        assert (own / "schemata").read_text().startswith("L3:0=f\n")
        assert call("exec", "c1", "true") == 0
        for tasks in (own / "tasks", own / "mon_groups" / "c1" / "tasks"):
            assert tasks.read_text() == "0\n", "0 is who writes"
        assert call("update", "--l3-cache-schema", "L3:0=3", "c1") == 0
        assert (own / "schemata").read_text().startswith("L3:0=3\n")
        assert call("update", "--mem-bw-schema", "L3:0=1", "c1") == 1
        assert "memBwSchema" in oci.messages()[-1]["msg"]
    finally:
        assert call("delete", "-f", "c1") == 0
    assert fake.classes == set()


def test_update_of_a_container_without_a_class(fake: FakeResctrl, oci: Oci, call: Call) -> None:
    assert call("run", "-d", "-b", str(oci.bundle), "c1") == 0
    try:
        assert call("update", "--mem-bw-schema", "MB:0=20", "c1") == 1
        assert oci.messages()[-1]["msg"] == "container c1 was made without linux.intelRdt: it has no class to change"
    finally:
        assert call("delete", "-f", "c1") == 0
    assert fake.classes == set()


def test_nothing_is_left_of_a_create_that_fails_later(fake: FakeResctrl, tmp_path: Path, busybox_rootfs: Path) -> None:
    with World(tmp_path, busybox_rootfs) as world:
        spec = world.spec("true")
        spec["linux"]["intelRdt"] = {}
        spec["mounts"].append({"destination": "/mnt", "type": "no-such-kind", "source": "none"})
        with pytest.raises(SystemFailure, match="mount none at /mnt"):
            world.create(spec)
        assert fake.classes == set()


def test_features_tell_of_it(oci: Oci) -> None:
    told = json.loads(oci("features").stdout)["linux"]["intelRdt"]
    assert told == {"enabled": True, "schemata": True, "monitoring": True}

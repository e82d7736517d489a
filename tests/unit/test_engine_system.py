"""What the engine says of itself and its host."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from corten import __version__
from corten.cgroup.hierarchy import Hierarchies
from corten.config import Config
from corten.engine import host_support
from corten.engine.devices import Devices
from corten.engine.events import Events
from corten.engine.host_support import LimitSupport, filesystem_of, os_release, overlay_status
from corten.engine.runtimes import Runtimes
from corten.engine.system import System

V1_FILES = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.oom_control", "memory.swappiness"),
    "cpu": ("cpu.cfs_quota_us", "cpu.shares"),
    "cpuset": ("cpuset.cpus",),
    "pids": (),
    "blkio": tuple(f"blkio.throttle.{name}_device" for name in ("read_bps", "write_bps", "read_iops", "write_iops")),
}


def v1(root: Path, files=V1_FILES) -> Hierarchies:
    for controller, names in files.items():
        (root / controller).mkdir()
        for name in names:
            (root / controller / name).touch()
    return Hierarchies(v1={controller: str(root / controller) for controller in files})


def test_version_1_with_everything(tmp_path):
    found = LimitSupport.read(v1(tmp_path))
    assert found == LimitSupport(
        memory=True,
        swap=True,
        swappiness=True,
        oom_kill_disable=True,
        cpu_quota=True,
        cpu_shares=True,
        cpuset=True,
        pids=True,
        block_io=True,
        missing=(),
    )


def test_version_1_without_swap_accounting_and_cpuset(tmp_path):
    files = {**V1_FILES, "memory": ("memory.limit_in_bytes", "memory.oom_control")}
    del files["cpuset"]
    found = LimitSupport.read(v1(tmp_path, files))
    assert (found.swap, found.cpuset, found.memory) == (False, False, True)
    assert found.missing == ("WARNING: No swap limit support", "WARNING: No cpuset support")


def v2(root: Path, controllers: str, *files: str) -> Hierarchies:
    (root / "cgroup.controllers").write_text(controllers)
    (root / "init.scope").mkdir()
    for name in files:
        (root / "init.scope" / name).touch()
    return Hierarchies(unified=str(root))


def test_version_2(tmp_path):
    hierarchies = v2(tmp_path, "cpuset cpu io memory pids", "memory.swap.max", "io.weight")
    found = LimitSupport.read(hierarchies)
    assert found.missing == ()
    assert (found.memory, found.swap, found.cpu_quota, found.pids) == (True, True, True, True)
    assert not found.oom_kill_disable


def test_version_2_with_little(tmp_path):
    found = LimitSupport.read(v2(tmp_path, "cpu memory", "memory.max"))
    assert found.missing == (
        "WARNING: No swap limit support",
        "WARNING: No cpuset support",
        "WARNING: No pids limit support",
        "WARNING: No io.weight support",
        "WARNING: No io.max support",
    )


def test_os_release(monkeypatch):
    texts = {
        "/usr/lib/os-release": '# comment\nNAME=\'Some Linux\'\nPRETTY_NAME="Some Linux 1 \\"x\\""\nVERSION_ID=1\nbad'
    }
    monkeypatch.setattr(host_support, "read_text", lambda path: texts.get(path, ""))
    assert os_release() == {"NAME": "Some Linux", "PRETTY_NAME": 'Some Linux 1 "x"', "VERSION_ID": "1"}


def test_the_file_system_below_a_path():
    assert filesystem_of(Path("/proc/self")) == "proc"
    assert filesystem_of(Path("/")) not in ("", "unknown", "ext4")


def test_the_status_of_overlay(monkeypatch, tmp_path):
    names = ["Backing Filesystem", "Supports d_type", "Using metacopy", "Native Overlay Diff", "userxattr"]
    assert [row[0] for row in overlay_status(tmp_path)] == names
    monkeypatch.setattr(host_support, "read_text", lambda path: "Y" if path.endswith("metacopy") else "N")
    monkeypatch.setattr(host_support.user_namespace, "is_initial", lambda: True)
    assert dict(overlay_status(tmp_path))["Native Overlay Diff"] == "false"
    assert dict(overlay_status(tmp_path))["Using metacopy"] == "true"
    assert dict(overlay_status(tmp_path))["userxattr"] == "false"
    monkeypatch.setattr(host_support.user_namespace, "is_initial", lambda: False)
    rootless = dict(overlay_status(tmp_path))
    assert [rootless[name] for name in names[2:]] == ["false", "true", "true"]


class FakeEngine:
    def __init__(self, root: Path, **config):
        self.config = Config(data_root=root, exec_root=root / "run", **{"hosts": ("unix:///x",), **config})
        self.events = Events()
        self.snapshotter = SimpleNamespace(name="overlay2")
        self.images = SimpleNamespace(count=lambda: 3, usage=self._answer("images"), layers_size=lambda: 5)
        self.containers = SimpleNamespace(views=SimpleNamespace(summaries=self._answer("containers")))
        self.volumes = SimpleNamespace(usage=lambda: ["volumes"])
        self.builds = SimpleNamespace(usage=self._answer("builds"))
        self.registries = SimpleNamespace(
            describe=lambda: {"Mirrors": ["https://m/"]}, proxies=lambda: {"HttpProxy": "http://p:1"}
        )
        self.runtimes = Runtimes(self.config)
        self.facts = SimpleNamespace(cgroups=True, apparmor=False)
        self.user_namespaces = SimpleNamespace(are_default=False)
        self.networks = SimpleNamespace(lacking="")
        self.apparmor_problem = ""
        self.devices = Devices(())

    @staticmethod
    def _answer(name):
        async def answer(**options):
            return [name, options] if options else [name]

        return answer

    def describe(self):
        return {"running": 2, "paused": 1, "exited": 4, "created": 1}


def ask(system, method, *arguments):
    return asyncio.run(getattr(system, method)(*arguments))


def test_version(tmp_path):
    found = ask(System(FakeEngine(tmp_path)), "version")
    assert found["Version"] == __version__
    assert found["ApiVersion"] == found["Components"][0]["Details"]["ApiVersion"]
    assert [component["Name"] for component in found["Components"]][:2] == ["Engine", "corten-oci"]
    assert found["KernelVersion"] == os.uname().release
    details = [value for component in found["Components"] for value in component["Details"].values()]
    assert all(isinstance(value, str) for value in details)
    json.dumps(found)


def test_info(tmp_path):
    engine = FakeEngine(tmp_path, labels=("a=b",), no_new_privileges=True, seccomp_profile="/p.json")
    found = ask(System(engine), "info")
    counts = {key: found[key] for key in found if key.startswith("Containers")}
    assert counts == {"Containers": 8, "ContainersRunning": 2, "ContainersPaused": 1, "ContainersStopped": 5}
    assert (found["Images"], found["Labels"], found["NEventsListener"]) == (3, ["a=b"], 0)
    assert found["NCPU"] == os.cpu_count()
    assert "name=no-new-privileges" in found["SecurityOptions"]
    assert "name=seccomp,profile=/p.json" in found["SecurityOptions"]
    assert "WARNING: daemon is not using the default seccomp profile" in found["Warnings"]
    assert found["MemTotal"] > 1 << 28
    assert found["CDISpecDirs"] == []
    assert not any("API is accessible" in text for text in found["Warnings"])
    assert found["Plugins"]["Log"] == ["json-file", "local", "none"]
    json.dumps(found)


def test_the_name_of_a_data_root_stays(tmp_path):
    first = ask(System(FakeEngine(tmp_path)), "info")["ID"]
    assert len(first) == 36
    assert ask(System(FakeEngine(tmp_path)), "info")["ID"] == first
    assert [path.name for path in tmp_path.iterdir()] == ["engine-id"]


@pytest.mark.parametrize(
    ("types", "keys"),
    [
        ([], {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}),
        (["volume"], {"LayersSize", "Volumes"}),
        (["container", "image"], {"LayersSize", "Images", "Containers"}),
    ],
)
def test_disk_usage(tmp_path, types, keys):
    found = ask(System(FakeEngine(tmp_path)), "disk_usage", types)
    assert set(found) == keys
    assert found["LayersSize"] == (5 if "Images" in keys else 0)
    if "Containers" in keys:
        assert found["Containers"] == ["containers", {"all": True, "size": True}]


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({}, "http://0.0.0.0:2375 without encryption"),
        ({"tls": True}, "https://0.0.0.0:2375 without TLS client verification"),
        ({"tls": True, "tlsverify": True}, ""),
    ],
)
def test_an_open_api_is_warned_of(tmp_path, config, text):
    engine = FakeEngine(tmp_path, hosts=("unix:///x", "tcp://0.0.0.0:2375"), **config)
    warnings = [item for item in ask(System(engine), "info")["Warnings"] or () if "API is accessible" in item]
    assert len(warnings) == bool(text)
    assert all(text in item for item in warnings)

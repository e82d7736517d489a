"""Devices of CDI files: what is read and refused, who goes first, what they add, and what Dockerfiles call them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from corten.cdi.catalogue import Catalogue
from corten.cdi.documents import read
from corten.cdi.injection import inject
from corten.cdi.selection import is_auto_allowed, select
from corten.dockerapi.container import DeviceMapping, DeviceRequest, HostConfig
from corten.dockerapi.device_names import is_qualified
from corten.engine.devices import Devices
from corten.errors import InvalidParameter

YAML = b"""
cdiVersion: "0.6.0"
kind: vendor1.com/device
annotations:
  org.mobyproject.buildkit.device.autoallow: true
containerEdits:
  env: [COMMON=1]
devices:
- name: foo
  containerEdits:
    env: [FOO=1]
- name: bar
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [BAR=1]}
- name: 0
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits:
    deviceNodes:
    - path: /dev/zero
      fileMode: 0640
      permissions: r
"""


def document(**edits: Any) -> dict[str, Any]:
    """A file with one device, ``a.com/b=c``."""
    return {"cdiVersion": "1.1.0", "kind": "a.com/b", "devices": [{"name": "c", "containerEdits": edits}]}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def catalogue(directory: Path, content: Any = YAML) -> Catalogue:
    write(directory / ("f.yaml" if isinstance(content, bytes) else "f.json"), content)
    return Catalogue([str(directory)])


def root() -> tuple[int, int]:
    return 0, 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vendor.com/class=name", True),
        ("a/b=0", True),
        ("nvidia.com/gpu=GPU-1:2", True),
        ("/dev/null", False),
        ("/dev/a=b", False),
        ("vendor.com/class", False),
        ("vendor.com/=x", False),
        ("1vendor/class=x", False),
        ("vendor.com/class=x-", False),
        ("vendor.com/class=\u0665", False),
        ("vendor.com/class=a/b", False),
    ],
)
def test_names(name: str, expected: bool) -> None:
    assert is_qualified(name) is expected


def test_yaml_reads_numbers_and_booleans_where_texts_are_meant() -> None:
    found = read(YAML, is_yaml=True)
    assert [device.name for device in found.devices] == ["foo", "bar", "0"]
    assert found.annotations == {"org.mobyproject.buildkit.device.autoallow": "true"}
    assert found.devices[2].container_edits.device_nodes[0].file_mode == 0o640


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cdiVersion": "2.0.0"}, 'invalid version "2.0.0"'),
        ({"cdiVersion": "0.2.0"}, "at least v0.3.0"),
        ({"kind": "vendor"}, 'invalid kind "vendor"'),
        ({"devices": []}, "no devices"),
        ({"devices": [{"name": "-", "containerEdits": {"env": ["A=1"]}}]}, 'invalid device name "-"'),
        ({"devices": [{"name": "x", "containerEdits": {}}]}, "empty device edits"),
        ({"devices": [{"name": "x", "containerEdits": {"env": ["A=1"]}}] * 2}, 'multiple device "x"'),
        ({"containerEdits": {"env": ["=1"]}}, 'invalid environment variable "=1"'),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/a", "type": "x"}]}}, 'invalid type "x"'),
        ({"containerEdits": {"deviceNodes": [{"path": "/dev/a", "permissions": "rx"}]}}, 'invalid permissions "rx"'),
        ({"containerEdits": {"hooks": [{"hookName": "start", "path": "/a"}]}}, 'invalid hook name "start"'),
        ({"containerEdits": {"hooks": [{"hookName": "poststop", "path": "a"}]}}, "no absolute path"),
        ({"containerEdits": {"mounts": [{"hostPath": "", "containerPath": "/a"}]}}, "empty host path"),
        ({"containerEdits": {"intelRdt": {"closID": "../x"}}}, "invalid ClosID"),
        ({"containerEdits": {"additionalGids": [-1]}}, "out of range"),
        ({"containerEdits": {"netDevices": [{"hostInterfaceName": "a", "name": ""}]}}, "must not be empty"),
        ({"containerEdits": {"nosuch": 1}}, "nosuch"),
        ({"containerEdits": {"env": ["A=\0"]}}, "NUL"),
        ({"nosuch": 1}, "nosuch"),
        ({"devices": 3}, "Expected `array`"),
        # newer than the version that the file says it has
        ({"cdiVersion": "0.3.0", "containerEdits": {"mounts": [{"hostPath": "/", "containerPath": "/", "type": "a"}]}},
         "at least v0.4.0"),
        ({"cdiVersion": "0.4.0", "containerEdits": {"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}}, "v0.5.0"),
        ({"cdiVersion": "0.5.0", "annotations": {"a": "b"}}, "at least v0.6.0"),
        ({"cdiVersion": "v0.5.0", "kind": "a.com/b.c"}, "at least v0.6.0"),
        ({"cdiVersion": "0.6.0", "containerEdits": {"additionalGids": [5]}}, "at least v0.7.0"),
        ({"cdiVersion": "1.0.0", "containerEdits": {"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}},
         "at least v1.1.0"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    found = catalogue(tmp_path, {**document(env=["A=1"]), **change}).look()
    assert not found.devices
    assert told in found.problems[f"{tmp_path}/f.json"][0]


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"a: [", b"\xff", b"!!python/object:os.system x", b"3"])
def test_files_that_say_nothing(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / "f.json", content)
    write(tmp_path / "f.yaml", content)
    found = Catalogue([str(tmp_path)]).look()
    assert not found.devices
    assert {name: len(told) for name, told in found.problems.items()} == {
        f"{tmp_path}/f.json": 1,
        f"{tmp_path}/f.yaml": 1,
    }


def test_a_later_directory_goes_first_and_equals_leave_nobody_the_device(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    write(low / "a.json", document(env=["A=low"]))
    files = Catalogue([str(low), str(high), str(tmp_path / "missing")])
    assert files.look().devices["a.com/b=c"].edits.env == ["A=low"]
    write(high / "a.json", document(env=["A=high"]))
    assert files.look().devices["a.com/b=c"].edits.env == ["A=high"]
    write(high / "b.json", document(env=["A=other"]))
    found = files.look()
    assert not found.devices
    assert 'conflicting device "a.com/b=c"' in found.problems[f"{high}/a.json"][0]
    assert set(found.problems) == {f"{high}/a.json", f"{high}/b.json"}
    (high / "b.json").unlink()
    write(high / "b.yml", document(env=["A=other suffix"]))
    assert files.look().devices["a.com/b=c"].edits.env == ["A=high"]


def test_files_are_read_again_when_they_have_changed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = catalogue(tmp_path)
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *more, **named: opened.append(path) or real(path, *more, **named))
    assert len(files.look().devices) == len(files.look().devices) == 3
    assert len(opened) == 1
    write(tmp_path / "f.yaml", YAML.replace(b"name: foo", b"name: fox"))
    assert "vendor1.com/device=fox" in files.look().devices


def test_what_is_added(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    given = {
        **document(
            env=["A=2"],
            deviceNodes=[
                {"path": "/dev/x", "hostPath": "/dev/null", "uid": 7},
                {"path": "/dev/gone", "type": "b", "major": 7, "minor": 3, "permissions": "none", "fileMode": 0o600},
                {"path": "/p", "hostPath": f"{tmp_path}/pipe"},
            ],
            mounts=[
                {"hostPath": "/h", "containerPath": "/c"},
                {"hostPath": "/r", "containerPath": "/d", "type": "none", "options": ["ro", "rbind"]},
                {"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs"},
            ],
            hooks=[{"hookName": "createContainer", "path": "/h", "args": ["h", "x"], "env": ["A=1"], "timeout": 3}],
            additionalGids=[0, 44, 44],
            intelRdt={"closID": "g", "schemata": ["MB:0=50"]},
            netDevices=[{"hostInterfaceName": "eth7", "name": "inside"}],
        ),
        "containerEdits": {"env": ["A=1", "B=1"]},
    }
    found = catalogue(tmp_path, given).look()
    made = inject(found, ["a.com/b=c", "a.com/b=c"], lambda: (1000, 100), mapped=True)
    assert made.environment == ["A=1", "B=1", "A=2"]
    assert [(node["path"], node["type"], node.get("major"), node["uid"], node["gid"]) for node in made.nodes] == [
        ("/dev/x", "c", 1, 7, 100),
        ("/dev/gone", "b", 7, 1000, 100),
        ("/p", "p", None, 1000, 100),
    ]
    assert made.nodes[0]["fileMode"] == os.stat("/dev/null").st_mode & 0o7777
    assert made.rules == [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]
    assert [mount["options"] for mount in made.mounts] == [["bind", "idmap"], ["ro", "rbind", "ridmap"], []]
    assert made.hooks == {"createContainer": [{"path": "/h", "args": ["h", "x"], "env": ["A=1"], "timeout": 3}]}
    assert made.groups == [44]
    assert made.rdt == {"closID": "g", "schemata": ["MB:0=50"]}
    assert made.interfaces == {"eth7": {"name": "inside"}}


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"path": "/dev/nosuch"}, 'failed to stat CDI host device "/dev/nosuch": no such file or directory'),
        ({"path": "/dev/x", "hostPath": "/etc/passwd"}, "not a device node"),
        ({"path": "/dev/null", "type": "b"}, 'host type mismatch (b, c)'),
    ],
)  # fmt: skip
def test_nodes_that_are_not_there(tmp_path: Path, node: dict[str, Any], told: str) -> None:
    found = catalogue(tmp_path, document(deviceNodes=[node])).look()
    with pytest.raises(InvalidParameter, match="CDI device injection failed") as caught:
        inject(found, ["a.com/b=c"], root, mapped=False)
    assert told in caught.value.message


def test_devices_that_are_not_there(tmp_path: Path) -> None:
    files = catalogue(tmp_path)
    with pytest.raises(InvalidParameter, match=r"unresolvable CDI devices a.b/c=d, a.b/c=e$"):
        inject(files.look(), ["a.b/c=d", "vendor1.com/device=foo", "a.b/c=e"], root, mapped=False)
    write(tmp_path / "broken.json", b"{")
    with pytest.raises(InvalidParameter, match=r"CDI devices a.b/c=d \(.*broken.json: failed to parse"):
        inject(files.look(), ["a.b/c=d"], root, mapped=False)


def test_what_dockerfiles_call_them(tmp_path: Path) -> None:
    found = catalogue(tmp_path).look()
    everything = [f"vendor1.com/device={name}" for name in ("0", "bar", "foo")]
    assert select(found, "vendor1.com/device=foo") == everything[2:]
    assert select(found, "vendor1.com/device") == everything[:1]
    assert select(found, "vendor1.com/device=*") == everything
    assert select(found, "class1") == everything[:2]
    assert select(found, "vendor1.com/device=nosuch") == select(found, "class") == []
    assert all(is_auto_allowed(device) for device in found.devices.values())
    other = catalogue(tmp_path / "other", document(env=["A=1"])).look()
    assert not any(is_auto_allowed(device) for device in other.devices.values())


# -- what containers ask for ------------------------------------------------------------------------------------------


def request(driver: str = "cdi", count: int = 0, ids: tuple[str, ...] = (), **more: Any) -> HostConfig:
    return HostConfig(device_requests=[DeviceRequest(driver=driver, count=count, device_ids=list(ids), **more)])


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (request(count=1), "unexpected count in CDI device request"),
        (request(options={"a": "b"}), "unexpected options in CDI device request"),
        (request("", -1, capabilities=[["gpu"]]), 'could not select device driver "" with capabilities: [[gpu]]'),
        (request("amd", 1, ("0",)), "cannot set both Count and DeviceIDs"),
        (request("nosuch"), 'could not select device driver "nosuch" with capabilities: []'),
        (HostConfig(devices=[DeviceMapping("a.com/b=c", "/dev/x", "rwm")]), "says where a device is in the container"),
        (HostConfig(devices=[DeviceMapping("a.com/b=c", "", "r")]), "its CDI file says"),
    ],
)
def test_requests_that_mean_nothing(tmp_path: Path, host: HostConfig, told: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Devices((str(tmp_path),)).check(host)
    assert told in caught.value.message


def test_without_directories_there_are_no_cdi_devices() -> None:
    for host in (request(ids=("a.com/b=c",)), HostConfig(devices=[DeviceMapping("a.com/b=c", "a.com/b=c", "rwm")])):
        with pytest.raises(InvalidParameter):
            Devices(()).check(host)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (request("", -1, capabilities=[["gpu"]]), ["ALL=1"]),
        (request("nvidia", 2), ["N=0", "N=1"]),
        (request("", 0, ("1", "nvidia.com/gpu=0"), capabilities=[["compute", "gpu"]]), ["N=1", "N=0"]),
    ],
)
def test_graphics_processors_by_their_cdi_files(tmp_path: Path, host: HostConfig, expected: list[str]) -> None:
    devices = [{"name": name, "containerEdits": {"env": [f"N={name}"]}} for name in ("0", "1")]
    devices.append({"name": "all", "containerEdits": {"env": ["ALL=1"]}})
    write(tmp_path / "gpu.json", {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices})
    known = Devices((str(tmp_path),))
    known.check(host)
    assert known.injection(host, root, mapped=False).environment == expected
    with pytest.raises(InvalidParameter, match="unexpected options"):
        known.check(request("nvidia", 1, options={"a": "b"}))
    with pytest.raises(InvalidParameter, match="could not select device driver"):
        known.check(request("amd", 1))

"""SELinux labels: which container gets which, what of the machine keeps its own, and what is refused."""

from __future__ import annotations

import errno
import gc
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corten.dockerapi.container import HostConfig
from corten.engine import selinux
from corten.engine.mount_point import MountPoint
from corten.engine.security import parse_security_options
from corten.engine.selinux import SELinux
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import paths

PROCESS, FILE = "system_u:system_r:container_t", "system_u:object_r:container_file_t"
OTHER = SimpleNamespace(process_label=f"{PROCESS}:s0:c1,c2", mount_label=f"{FILE}:s0:c1,c2")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a policy that knows every label without "nosuch"."""
    (tmp_path / "default/contexts").mkdir(parents=True)
    (tmp_path / "config").write_text("# the policy\nSELINUX=enforcing\nSELINUXTYPE=default\n")
    (tmp_path / "default/contexts/lxc_contexts").write_text(f'process = "{PROCESS}:s0"\nfile = "{FILE}:s0"\n')
    monkeypatch.setattr(selinux.kernel, "is_enabled", lambda: True)
    monkeypatch.setattr(selinux.kernel, "is_valid", lambda label: "nosuch" not in label)
    return tmp_path


def find(name: str) -> Any:
    return {"other": OTHER, "third": SimpleNamespace(process_label="x:y:z:s0:c3,c4", mount_label="")}[name]


def labels(etc: Path, *wanted: str, **host: Any) -> tuple[str, str]:
    return SELinux(enabled=True, etc=etc).labels(HostConfig(**host), wanted, find, [OTHER.process_label])


def test_each_container_has_categories_of_its_own(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter((7, 7, 2, 1, 900, 33))  # twice the same, then the other container's
    monkeypatch.setattr(selinux.secrets, "randbelow", lambda _: next(numbers))
    assert labels(etc) == (f"{PROCESS}:s0:c33,c900", f"{FILE}:s0:c33,c900")


def test_what_is_asked_for(etc: Path) -> None:
    assert labels(etc, "level:s0:c4,c5") == (f"{PROCESS}:s0:c4,c5", f"{FILE}:s0:c4,c5")
    process, file = labels(etc, "type:svirt_t", "filetype:svirt_file_t", "user:u", "role:r")
    assert process.startswith("u:r:svirt_t:s0:c")
    assert file.startswith("u:object_r:svirt_file_t:s0:c")
    assert process.split(":", 3)[3] == file.split(":", 3)[3]
    with pytest.raises(InvalidParameter, match="does not know the label"):
        labels(etc, "type:nosuch_t")


@pytest.mark.parametrize(
    "host", [{"privileged": True}, {"pid_mode": "host"}, {"ipc_mode": "host"}], ids=lambda host: next(iter(host))
)
def test_who_has_none(etc: Path, host: dict[str, Any]) -> None:
    assert labels(etc, **host) == ("", "")
    assert labels(etc, "disable") == ("", "")
    assert labels(etc, "type:svirt_t", **host)[0].startswith("system_u:system_r:svirt_t:s0:c")


def test_who_shares_namespaces_shares_labels(etc: Path) -> None:
    assert labels(etc, ipc_mode="container:other") == (OTHER.process_label, OTHER.mount_label)
    with pytest.raises(InvalidParameter, match="aren't the same"):
        labels(etc, ipc_mode="container:other", pid_mode="container:third")


def test_a_machine_that_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selinux.kernel, "is_enabled", lambda: False)
    with pytest.raises(SystemFailure, match="no SELinux"):
        SELinux(enabled=True, etc=tmp_path)
    monkeypatch.setattr(selinux.kernel, "is_enabled", lambda: True)
    with pytest.raises(SystemFailure, match="no contexts for containers"):
        SELinux(enabled=True, etc=tmp_path)
    assert SELinux(enabled=False, etc=tmp_path).labels(HostConfig(), (), find, ()) == ("", "")


@pytest.mark.parametrize(
    ("enabled", "here", "text"),
    [(False, False, "SELinux is not enabled on this host"), (False, True, "without --selinux-enabled")],
)
def test_options_that_cannot_be_kept(enabled: bool, here: bool, text: str) -> None:
    def parsed(option: str, *, enabled: bool) -> tuple[str, ...]:
        return parse_security_options(
            [option], no_new_privileges=False, apparmor_enabled=False, selinux_enabled=enabled, selinux_here=here
        ).labels

    with pytest.raises(InvalidParameter, match=text):
        parsed("label=type:x", enabled=enabled)
    assert parsed("label=disable", enabled=enabled) == ("disable",)
    assert parsed("label:type:x", enabled=True) == ("type:x",)
    for bad in ("label=type", "label=nosuch:x", "label=", "label=type:"):
        with pytest.raises(InvalidParameter, match="'disable', or one of"):
            parsed(bad, enabled=True)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What was labelled, by its real path."""
    found: dict[str, str] = {}

    def setxattr(path: str, name: str, value: bytes) -> None:
        assert name == "security.selinux"
        found[os.readlink(path)] = value.decode().rstrip("\0")

    monkeypatch.setattr("corten.linux.selinux.os.setxattr", setxattr)
    return found


def relabelled(etc: Path, *points: MountPoint) -> None:
    SELinux(enabled=True, etc=etc).relabel_mounts(SimpleNamespace(mount_label=OTHER.mount_label, mount_points=points))


def test_binds_get_the_containers_label_where_it_is_asked_for(etc: Path, given: dict[str, str], tmp_path: Path) -> None:
    for name in ("own", "shared", "plain", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "own/deep").mkdir()
    (tmp_path / "own/deep/file").touch()
    (tmp_path / "own/link").symlink_to(tmp_path / "outside")
    points = [
        MountPoint(type="bind", destination=f"/{name}", source=str(tmp_path / name), mode=mode)
        for name, mode in (("own", "ro,Z"), ("shared", "z"), ("plain", "rw"))
    ]
    relabelled(etc, *points)
    own = {f"{tmp_path}/own{part}": OTHER.mount_label for part in ("", "/deep", "/deep/file", "/link")}
    assert given == {**own, f"{tmp_path}/shared": f"{FILE}:s0"}


def test_volumes_are_for_all_containers_unless_they_are_for_one(
    etc: Path, given: dict[str, str], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = MountPoint(type="volume", destination="/one", source=str(tmp_path / "one"), name="one")
    two = MountPoint(type="volume", destination="/two", source=str(tmp_path / "two"), name="two", mode="Z")
    relabelled(etc, one, two)
    assert given == {f"{tmp_path}/one": f"{FILE}:s0", f"{tmp_path}/two": OTHER.mount_label}


def test_the_machines_own_directories_are_left_alone(etc: Path, given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")
    for place in ("/", "/etc", str(tmp_path / "link")):
        with pytest.raises(InvalidParameter, match=f"SELinux relabeling of {place} is not allowed"):
            relabelled(etc, MountPoint(type="bind", destination="/x", source=place, mode="z"))
    assert not given


def test_a_tree_may_be_deeper_than_python_recurses(etc: Path, given: dict[str, str], tmp_path: Path) -> None:
    depth = sys.getrecursionlimit() + 50
    top = tmp_path / "deep"
    top.mkdir()
    directory = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    gc.collect()  # what other tests have left open goes now, and not in the midst
    open_before = len(os.listdir("/proc/self/fd"))
    try:
        relabelled(etc, MountPoint(type="bind", destination="/x", source=str(top), mode="Z"))
        assert len(given) == depth + 1
        assert set(given.values()) == {OTHER.mount_label}
        assert len(os.listdir("/proc/self/fd")) <= open_before
    finally:
        holder = os.open(tmp_path, os.O_RDONLY)
        paths.remove_tree(holder, "deep")
        os.close(holder)


def test_what_cannot_be_labelled_is_named(etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own/deep").mkdir(parents=True)
    (tmp_path / "own/deep/file").touch()

    def setxattr(path: str, name: str, value: bytes) -> None:
        if os.readlink(path).endswith("file"):
            raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("corten.linux.selinux.os.setxattr", setxattr)
    with pytest.raises(SystemFailure, match=f"cannot label {tmp_path}/own/deep/file .*: operation not permitted"):
        relabelled(etc, MountPoint(type="bind", destination="/x", source=str(tmp_path / "own"), mode="Z"))

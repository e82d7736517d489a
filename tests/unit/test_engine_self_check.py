"""``corten info --security``: what is found, and what is not complained of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corten.config import Config
from corten.dockerapi.container import ContainerConfig, DeviceMapping, HostConfig
from corten.engine import self_check
from corten.engine.container import Container, State, Status
from corten.engine.host_support import LimitSupport
from corten.engine.mount_point import MountPoint
from corten.engine.preparation import HostFacts
from records import record

SUPPORT = LimitSupport(
    memory=True, swap=True, swappiness=True, oom_kill_disable=True, cpu_quota=True, cpu_shares=True, cpuset=True,
    pids=True, block_io=True, missing=(),
)  # fmt: skip
FACTS = HostFacts(capabilities=(), apparmor=True, selinux=False, cgroup_v2=True, cgroups=True, pids_limit=True)


def container(name: str = "web", *, user: str = "www", binds: tuple[str, ...] = (), **host: Any) -> Container:
    careful: dict[str, Any] = {
        "memory": 1 << 26, "readonly_rootfs": True, "security_opt": ["no-new-privileges"], "network_mode": "bridge",
        "ipc_mode": "private", **host,
    }  # fmt: skip
    return record(
        id="c" * 64,
        name=name,
        image_id="sha256:x",
        config=ContainerConfig(user=user),
        host_config=HostConfig(**careful),
        state=State(status=Status.RUNNING),
        mount_points=[MountPoint(type="bind", source=source, destination="/x") for source in binds],
    )


def found(tmp_path: Path, *containers: Container, **settings: Any) -> dict[str, self_check.Check]:
    for name in ("data", "run"):
        (tmp_path / name).mkdir(mode=0o710, exist_ok=True)
    given = {"hosts": (f"unix://{tmp_path}/absent.sock",), "log_opts": {"max-size": "1m"}, **settings}
    config = Config(data_root=tmp_path / "data", exec_root=tmp_path / "run", **given)
    return {check.title: check for check in self_check.checks(config, FACTS, SUPPORT, containers)}


@pytest.mark.parametrize(("enabled", "level"), [(True, "pass"), (False, "warn")])
def test_selinux_that_is_there_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool, level: str
) -> None:
    assert "SELinux confines containers" not in found(tmp_path)
    monkeypatch.setitem(globals(), "FACTS", replace(FACTS, selinux=True))
    assert found(tmp_path, selinux_enabled=enabled)["SELinux confines containers"].level == level


def test_a_careful_container_passes_everything(tmp_path: Path) -> None:
    rows = [check for check in found(tmp_path, container()).values() if check.group == "containers"]
    assert {check.level for check in rows} == {"pass"}
    assert len(rows) > 10


@pytest.mark.parametrize(
    ("careless", "title", "level"),
    [
        ({"privileged": True}, "none is privileged", "warn"),
        ({"cap_add": ["CAP_SYS_ADMIN"]}, "none has mighty capabilities", "warn"),
        ({"cap_add": ["all"]}, "none has mighty capabilities", "warn"),
        ({"security_opt": ["seccomp=unconfined", "no-new-privileges"]}, "none runs unconfined", "warn"),
        ({"network_mode": "host"}, "none shares the machine's network", "warn"),
        ({"pid_mode": "host"}, "none shares the machine's processes", "warn"),
        ({"binds": ("/etc/",)}, "none has a place of the system writable", "warn"),
        ({"binds": ("/var/run/docker.sock",)}, "none has the API's socket", "warn"),
        ({"binds": ("/var/run",)}, "none has the API's socket", "warn"),
        ({"binds": ("/",)}, "none has the API's socket", "warn"),
        ({"devices": [DeviceMapping(path_on_host="/dev/mem")]}, "none has a disk or the memory of the machine", "warn"),
        (
            {"devices": [DeviceMapping(path_on_host="/dev/disk")]},
            "none has a disk or the memory of the machine",
            "warn",
        ),
        ({"pids_limit": -1}, "the number of processes is limited", "warn"),
        ({"memory": 0}, "memory is limited", "info"),
        ({"user": "0:0"}, "programs run as a user", "info"),
        ({"readonly_rootfs": False}, "roots are read-only", "info"),
        ({"security_opt": []}, "programs cannot gain privileges", "info"),
    ],
)
def test_what_a_container_is_careless_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, careless: dict[str, Any], title: str, level: str
) -> None:
    monkeypatch.setattr(self_check, "_is_disk", lambda path: path == "/dev/disk")
    check = found(tmp_path, container("tidy"), container("bad", **careless))[title]
    assert check.level == level
    assert "bad" in check.why
    assert "tidy" not in check.why
    assert check.do


@pytest.mark.parametrize(
    ("settings", "title", "level"),
    [
        ({"hosts": ("tcp://0.0.0.0:2375",)}, "tcp://0.0.0.0:2375 asks for a certificate", "warn"),
        ({"seccomp_profile": "unconfined"}, "the default seccomp profile is in force", "warn"),
        ({"default_pids_limit": 0}, "the number of processes is limited by default", "warn"),
        ({"insecure_registries": ("reg.example:5000",)}, "registries are only spoken to with TLS", "warn"),
        ({"live_restore": False}, "live-restore is on", "warn"),
        ({"log_opts": {}}, "logs are limited by default", "info"),
    ],
)
def test_what_a_daemon_is_careless_about(tmp_path: Path, settings: dict[str, Any], title: str, level: str) -> None:
    assert found(tmp_path)[title].level == "pass" if "hosts" not in settings else title not in found(tmp_path)
    assert found(tmp_path, **settings)[title].level == level


def test_roots_that_others_can_look_into(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    check = found(tmp_path)["the data root is closed to others"]
    assert (check.level, check.do) == ("warn", f"chmod 0750 {tmp_path}/data")

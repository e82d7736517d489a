"""What a container is made with reaches the program: mounts of every type, links, groups, masks, policies."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon

pytestmark = [pytest.mark.needs("docker", "busybox")]


def ask(daemon: Daemon, method: str, path: str, body: Any = None) -> Any:
    status, answer = daemon.request(method, path, body)
    assert status < 300, answer
    return json.loads(answer) if answer else None


def run(daemon: Daemon, script: str, **host: Any) -> tuple[int, str]:
    """Exit code of a container made by the API with these parts of ``HostConfig``, and what it says."""
    document = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none", **host}}
    box = ask(daemon, "POST", "/containers/create", document)["Id"]
    ask(daemon, "POST", f"/containers/{box}/start")
    code = ask(daemon, "POST", f"/containers/{box}/wait")["StatusCode"]
    done = daemon.docker("logs", box)
    return code, done.stdout + done.stderr


@pytest.fixture
def volume(daemon: Daemon):
    """A volume with a directory in it."""
    run(daemon, "mkdir /v/part; echo whole > /v/file; echo a part > /v/part/file", Binds=["optioned:/v"])
    yield "optioned"
    daemon.remove_containers()
    daemon.docker("volume", "rm", "-f", "optioned", "made", "bare")


def test_volumes(daemon: Daemon, volume: str) -> None:
    mounts = [
        {"Type": "volume", "Source": volume, "Target": "/whole", "ReadOnly": True},
        {"Type": "volume", "Source": volume, "Target": "/part", "VolumeOptions": {"Subpath": "part"}},
        {"Type": "volume", "Source": "made", "Target": "/etc", "VolumeOptions": {"Labels": {"a": "b"}}},
        {"Type": "volume", "Source": "bare", "Target": "/var", "VolumeOptions": {"NoCopy": True}},
        {"Type": "volume", "Target": "/anonymous"},
    ]
    script = "cat /whole/file /part/file; touch /whole/x; grep -c bob /etc/passwd; ls /anonymous; echo x > /part/new"
    code, said = run(daemon, script, Mounts=mounts)
    assert (code, said.splitlines()) == (0, ["whole", "a part", "1", "touch: /whole/x: Read-only file system"])
    assert ask(daemon, "GET", "/volumes/made")["Labels"] == {"a": "b"}
    assert run(daemon, "cat /v/part/new", Binds=[f"{volume}:/v"]) == (0, "x\n")
    for path, told in (("nosuch", "nosuch"), ("../..", "subpath")):
        bad = {"Type": "volume", "Source": volume, "Target": "/x", "VolumeOptions": {"Subpath": path}}
        document = {"Image": "busybox", "HostConfig": {"NetworkMode": "none", "Mounts": [bad]}}
        status, answer = daemon.request("POST", "/containers/create", document)
        if status == 201:
            status, answer = daemon.request("POST", f"/containers/{json.loads(answer)['Id']}/start")
        assert 400 <= status < 500, (path, status, answer)
        assert told in json.loads(answer)["message"].lower()


def test_binds(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/file").write_text("bound\n")
    mounts = [
        {"Type": "bind", "Source": f"{tmp_path}/inner", "Target": "/ro", "ReadOnly": True},
        {"Type": "bind", "Source": f"{tmp_path}/inner/file", "Target": "/file"},
        {"Type": "bind", "Source": f"{tmp_path}/made/deep", "Target": "/d", "BindOptions": {"CreateMountpoint": True}},
        {"Type": "bind", "Source": f"{tmp_path}/inner", "Target": "/p", "BindOptions": {"Propagation": "rprivate"}},
        {"Type": "bind", "Source": f"{tmp_path}/inner", "Target": "/n", "BindOptions": {"NonRecursive": True}},
    ]
    script = "cat /ro/file /file /p/file /n/file; touch /ro/x; echo new > /d/new"
    code, said = run(daemon, script, Mounts=mounts)
    assert (code, said.splitlines()) == (0, ["bound"] * 4 + ["touch: /ro/x: Read-only file system"])
    assert (tmp_path / "made/deep/new").read_text() == "new\n"
    document = {"Type": "bind", "Source": f"{tmp_path}/nosuch", "Target": "/x"}
    status, answer = daemon.request(
        "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [document]}}
    )
    assert status == 400
    assert "bind source path does not exist" in json.loads(answer)["message"]


def test_memory_file_systems_and_images(daemon: Daemon) -> None:
    options = {"SizeBytes": 1 << 20, "Mode": 0o1750, "Options": [["noexec"]]}
    mounts = [
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": options},
        {"Type": "image", "Source": "busybox", "Target": "/i", "ImageOptions": {"Subpath": "bin"}},
    ]
    script = "stat -c %a /t; df -k /t | tail -1; grep -c ' /t .*noexec' /proc/mounts; ls /i"
    code, said = run(daemon, script, Mounts=mounts)
    assert code == 0, said
    mode, size, found, *programs = said.splitlines()
    assert (mode, size.split()[1], found) == ("1750", "1024", "1")
    assert {"cat", "busybox"} <= set(programs)


def test_volumes_of_another_container(daemon: Daemon, volume: str) -> None:
    host = {"NetworkMode": "none", "Binds": [f"{volume}:/v"]}
    box = ask(daemon, "POST", "/containers/create", {"Image": "busybox", "Volumes": {"/own": {}}, "HostConfig": host})
    script = "cat /v/file; touch /v/x; ls -d /own"
    assert run(daemon, script, VolumesFrom=[box["Id"]]) == (0, "whole\n/own\n")
    code, said = run(daemon, script, VolumesFrom=[f"{box['Id']}:ro"])
    assert (code, sorted(said.splitlines())) == (0, ["/own", "touch: /v/x: Read-only file system", "whole"])


def test_groups_masks_and_notes(daemon: Daemon) -> None:
    host = {
        "GroupAdd": ["extra", "4711"], "Annotations": {"what.for": "tests"}, "Init": True,
        "MaskedPaths": ["/etc/passwd"], "ReadonlyPaths": ["/tmp"],
    }  # fmt: skip
    code, said = run(daemon, "id -G; cat /etc/passwd; touch /tmp/x; test $$ != 1", **host)
    assert (code, said.splitlines()) == (0, ["0 50 4711", "touch: /tmp/x: Read-only file system"])
    [row] = ask(daemon, "GET", "/containers/json?all=1")
    document = ask(daemon, "GET", f"/containers/{row['Id']}/json")
    assert {key: document["HostConfig"][key] for key in host} == host
    assert row["HostConfig"]["Annotations"] == {"what.for": "tests"}
    assert run(daemon, "head -c 1 /proc/kcore | wc -c", MaskedPaths=[], Privileged=False)[1] != "0\n"


def test_a_policy_tries_again_and_gives_up(daemon: Daemon) -> None:
    host = {"NetworkMode": "none", "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}}
    document = {"Image": "busybox", "Cmd": ["sh", "-c", "echo tried; exit 5"], "HostConfig": host}
    box = ask(daemon, "POST", "/containers/create", document)["Id"]
    ask(daemon, "POST", f"/containers/{box}/start")
    deadline = time.monotonic() + 60
    while (state := ask(daemon, "GET", f"/containers/{box}/json"))["State"]["Status"] != "exited":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (state["RestartCount"], state["State"]["ExitCode"]) == (2, 5)
    assert daemon.docker("logs", box).stdout == "tried\n" * 3


def test_health_is_checked_told_and_remembered(daemon: Daemon) -> None:
    second = 10**9
    check = {"Test": ["CMD-SHELL", "echo looked; test -e /ok"], "Interval": second // 20, "Timeout": 5 * second}
    document = {
        "Image": "busybox", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL",
        "Healthcheck": {**check, "Retries": 2}, "HostConfig": {"NetworkMode": "none"},
    }  # fmt: skip
    box = ask(daemon, "POST", "/containers/create", document)["Id"]
    ask(daemon, "POST", f"/containers/{box}/start")

    def becomes(status: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while (health := ask(daemon, "GET", f"/containers/{box}/json")["State"]["Health"])["Status"] != status:
            assert time.monotonic() < deadline, health
            time.sleep(0.02)
        return health

    assert becomes("unhealthy")["FailingStreak"] >= 2
    assert ask(daemon, "GET", '/containers/json?filters={"health":["unhealthy"]}')[0]["Id"] == box
    daemon.docker("exec", box, "touch", "/ok")
    health = becomes("healthy")
    assert health["FailingStreak"] == 0
    assert health["Log"][-1]["Output"] == "looked\n"
    assert len(health["Log"]) <= 5
    assert "(healthy)" in daemon.docker("ps").stdout


def test_a_disabled_network(daemon: Daemon) -> None:
    document = {"Image": "busybox", "Cmd": ["sh", "-c", "ls /sys/class/net"], "NetworkDisabled": True}
    box = ask(daemon, "POST", "/containers/create", document)["Id"]
    ask(daemon, "POST", f"/containers/{box}/start")
    assert ask(daemon, "POST", f"/containers/{box}/wait")["StatusCode"] == 0
    assert daemon.docker("logs", box).stdout.split() == ["lo"]
    assert ask(daemon, "GET", f"/containers/{box}/json")["HostConfig"]["NetworkMode"] == "none"
    daemon.remove_containers()

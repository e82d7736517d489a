"""CDI devices as clients ask for them: nodes, variables, mounts and hooks are there, and the device works."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon
from machine import CLIENTS, lacking

pytestmark = [pytest.mark.needs("docker", "busybox")]
NEWEST = str(CLIENTS / "usr/bin/docker")
FUSE = os.makedev(10, 229)  # Documentation/admin-guide/devices.txt

VENDOR = """
cdiVersion: "0.7.0"
kind: vendor.example/thing
containerEdits:
  env: [THING_VERSION=3]
devices:
- name: zero
  containerEdits:
    env: [THING=zero, PATH=/vendor:/bin]
    deviceNodes:
    - {path: /dev/thing/endless, hostPath: /dev/zero, fileMode: 0600}
    - {path: /dev/readable, type: c, major: 10, minor: 229, permissions: r}
    mounts:
    - {hostPath: %(top)s/file, containerPath: /vendor/file, options: [ro, nosuid, bind]}
    - {hostPath: %(top)s/way, containerPath: /out/file, options: [bind]}
    hooks:
    - {hookName: createContainer, path: /bin/sh, args: [sh, -c, 'cat > %(top)s/state']}
    additionalGids: [4242]
- name: missing
  containerEdits:
    deviceNodes: [{path: /dev/nosuch-device}]
- name: plain
  containerEdits:
    deviceNodes: [{path: /dev/thing/endless, hostPath: /dev/zero}]
    mounts: [{hostPath: %(top)s/file, containerPath: /vendor/file, options: [ro, bind]}]
"""
SCRIPT = """
echo $THING $THING_VERSION $PATH
head -c 4 /dev/thing/endless | md5sum
cat /vendor/file
id -G
stat -c '%a %u:%g %t:%T' /dev/thing/endless
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("cdi")
    (top / "cdi").mkdir()
    (top / "file").write_text("of the vendor\n")
    (top / "way").write_text("")
    (top / "cdi/vendor.yaml").write_text(VENDOR % {"top": top})
    return top


@pytest.fixture(scope="module")
def host(
    files: Path, tmp_path_factory: pytest.TempPathFactory, busybox_tar: Path, cgroup_parent: str
) -> Iterator[Daemon]:
    lacking("root", "docker")
    made = Daemon(
        tmp_path_factory.mktemp("host"), "--bridge", "none", "--cdi-spec-dir", f"{files}/missing",
        "--cdi-spec-dir", f"{files}/cdi", "--userns-pool", "720000000:65536",
    )  # fmt: skip
    made.start()
    made.import_busybox(busybox_tar)
    yield made
    made.remove_containers()
    made.stop()


def as_docker(daemon: Daemon, *words: str) -> Any:
    lacking("newest docker")
    return daemon.run([NEWEST, "run", "--rm", *words], check=False)


def as_corten(daemon: Daemon, *words: str) -> Any:
    return daemon.corten("run", "--rm", *words, check=False)


CLIENTS_OF_TODAY = pytest.mark.parametrize("run", [as_docker, as_corten])


@CLIENTS_OF_TODAY
def test_all_that_a_device_brings(host: Daemon, files: Path, run: Any) -> None:
    done = run(host, "--user", "bob", "--device", "vendor.example/thing=zero", "busybox", "sh", "-c", SCRIPT)
    assert done.stdout.splitlines() == [
        "zero 3 /vendor:/bin",
        "f1d3ff8443297732862df21dc4e57262  -",  # four zeros
        "of the vendor",
        "1000 50 4242",
        "600 1000:1000 1:5",
    ]
    state = json.loads((files / "state").read_text())
    assert state["status"] == "creating"


def test_a_device_is_as_allowed_as_its_file_says(host: Daemon) -> None:
    script = "(exec 3< /dev/readable); echo; (exec 3> /dev/readable)"
    done = as_corten(host, "--device", "vendor.example/thing=zero", "busybox", "sh", "-c", f"({script}) 2>&1")
    reading, writing = done.stdout.split("\n", 1) if done.stdout.startswith("\n") else done.stdout.split("\n\n", 1)
    assert "not permitted" not in reading  # there may be no such device: that is another error
    assert "not permitted" in writing


@CLIENTS_OF_TODAY
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["vendor.example/thing=nosuch"], "unresolvable CDI devices vendor.example/thing=nosuch"),
        (
            ["other.example/thing=1", "vendor.example/thing=zero", "other.example/thing=2"],
            "unresolvable CDI devices other.example/thing=1, other.example/thing=2",
        ),
        (["vendor.example/thing=missing"], 'failed to stat CDI host device "/dev/nosuch-device"'),
    ],
)
def test_devices_that_are_not_there(host: Daemon, run: Any, names: list[str], told: str) -> None:
    options = [word for name in names for word in ("--device", name)]
    done = run(host, *options, "busybox", "true")
    assert done.returncode in (125, 127)  # clients take "no such file" for the program
    assert f"CDI device injection failed: {told}" in done.stderr
    host.remove_containers()


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_with_other_runtimes(host: Daemon, files: Path, runtime: str) -> None:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed")
    (files / "state").unlink(missing_ok=True)
    words = ("--runtime", runtime, "--user", "1000:1000", "--device", "vendor.example/thing=zero")
    script = "echo $THING; head -c 4 /dev/thing/endless | md5sum; cat /vendor/file; id -G"
    done = as_corten(host, *words, "busybox", "sh", "-c", script)
    assert done.stdout.splitlines() == [
        "zero",
        "f1d3ff8443297732862df21dc4e57262  -",
        "of the vendor",
        "1000 4242",
    ], done.stderr
    assert json.loads((files / "state").read_text())["id"]


def test_docker_py_and_what_inspect_tells(host: Daemon) -> None:
    client = host.client
    output = client.containers.run(
        "busybox", "sh -c 'echo $THING'", devices=["vendor.example/thing=zero"], remove=True, network_mode="none"
    )
    assert output == b"zero\n"
    host.corten("create", "--name", "box", "--device", "vendor.example/thing=zero", "--device", "/dev/full", "busybox")
    found = host.inspect("box")["HostConfig"]
    assert [(one["Driver"], one["DeviceIDs"]) for one in found["DeviceRequests"]] == [
        ("cdi", ["vendor.example/thing=zero"])
    ]
    assert [one["PathOnHost"] for one in found["Devices"]] == ["/dev/full"]
    host.remove_containers()


def test_compose(host: Daemon, tmp_path: Path) -> None:
    lacking("newest compose")
    service = (
        "{image: busybox, network_mode: none, command: sh -c 'echo $$THING', devices: [vendor.example/thing=zero]}"
    )
    (tmp_path / "compose.yaml").write_text(f"services:\n  one: {service}\n")
    compose = [str(CLIENTS / "usr/libexec/docker/cli-plugins/docker-compose"), "-p", "cdi"]
    done = host.run([*compose, "up", "--no-log-prefix"], cwd=tmp_path)
    assert "zero" in done.stdout.splitlines(), done.stdout + done.stderr
    host.run([*compose, "down"], cwd=tmp_path)


def test_the_files_are_read_at_each_start(host: Daemon, files: Path) -> None:
    new = files / "cdi/new.json"
    try:
        host.corten("create", "--name", "later", "--device", "new.example/a=b", "busybox", "sh", "-c", "echo $V")
        assert "unresolvable" in host.docker("start", "later", check=False).stderr
        for value in ("one", "two"):
            edits = {"env": [f"V={value}"]}
            entry = {"name": "b", "containerEdits": edits}
            new.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "new.example/a", "devices": [entry]}))
            assert host.docker("start", "-a", "later").stdout == f"{value}\n"
        new.write_text("{")
        done = host.docker("start", "later", check=False)
        assert f"{new}: failed to parse CDI Spec" in done.stderr
        assert f"{new}: failed to parse CDI Spec" in host.corten("info").stderr + host.corten("info").stdout
    finally:
        new.unlink(missing_ok=True)
        host.remove_containers()


def test_a_volume_of_the_user_is_above_a_mount_of_the_device(host: Daemon, files: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("of the user\n")
    words = ("-v", f"{tmp_path}/mine:/vendor/file", "--device", "vendor.example/thing=zero")
    assert as_corten(host, *words, "busybox", "cat", "/vendor/file").stdout == "of the user\n"


def test_with_ids_of_its_own(host: Daemon) -> None:
    words = ("--userns", "auto", "--device", "vendor.example/thing=plain")
    script = "head -c 4 /dev/thing/endless | md5sum; cat /vendor/file; stat -c %u /vendor/file"
    done = as_corten(host, *words, "busybox", "sh", "-c", script)
    assert "f1d3ff84" in done.stdout, done.stderr
    assert done.stdout.splitlines()[1:] == ["of the vendor", "0"]


def test_mounts_and_nodes_stay_in_the_container(host: Daemon, files: Path, tmp_path: Path, busybox_tar: Path) -> None:
    """An image whose directories are links: nothing is made and nothing covered outside of its root."""
    outside = tmp_path / "outside"
    (outside / "thing").mkdir(parents=True)
    script = f"rm -rf /vendor /out; ln -s {outside} /vendor; ln -s ../../../../../{outside} /out; ln -s /no /dev/thing"
    host.docker("run", "--name", "trap", "busybox", "sh", "-c", script)
    host.docker("commit", "trap", "trap")
    try:
        as_corten(host, "--device", "vendor.example/thing=zero", "trap", "ls", "-l", "/vendor/", "/out/")
        assert sorted(path.name for path in outside.iterdir()) == ["thing"]
        assert not any(stat.S_ISCHR(path.stat().st_mode) for path in outside.rglob("*"))
    finally:
        host.remove_containers()
        host.docker("rmi", "trap")


def test_a_device_that_containers_do_not_have_otherwise(host: Daemon, files: Path) -> None:
    if not os.path.exists("/dev/fuse") or os.stat("/dev/fuse").st_rdev != FUSE:
        pytest.skip("this machine has no /dev/fuse")
    path = files / "cdi/fuse.json"
    entry = {"name": "fuse", "containerEdits": {"deviceNodes": [{"path": "/dev/fuse"}]}}
    path.write_text(json.dumps({"cdiVersion": "0.5.0", "kind": "kernel.example/fs", "devices": [entry]}))
    opened = "exec 3<> /dev/fuse && echo opened"
    try:
        assert as_corten(host, "--device", "kernel.example/fs=fuse", "busybox", "sh", "-c", opened).stdout == "opened\n"
        script = f"mknod /dev/fuse c 10 229; {opened}"
        assert as_corten(host, "busybox", "sh", "-c", script).stdout == ""
    finally:
        path.unlink()


def test_what_the_daemon_tells(host: Daemon, files: Path) -> None:
    def info(version: str) -> Any:
        return json.loads(host.request("GET", f"/v{version}/info")[1])

    assert info("1.50")["CDISpecDirs"] == [f"{files}/missing", f"{files}/cdi"]
    assert info("1.50")["DiscoveredDevices"] == [
        {"Source": "cdi", "ID": f"vendor.example/thing={name}"} for name in ("missing", "plain", "zero")
    ]
    assert "DiscoveredDevices" not in info("1.49")
    assert "  cdi: vendor.example/thing=zero" in host.corten("info").stdout


@pytest.mark.parametrize("flags", [("--feature", "cdi=false"), ("--cdi-spec-dir", "")])
def test_switched_off(tmp_path: Path, busybox_tar: Path, cgroup_parent: str, flags: tuple[str, ...]) -> None:
    daemon = Daemon(tmp_path / "d", "--bridge", "none", *flags)
    daemon.start()
    try:
        daemon.import_busybox(busybox_tar)
        assert json.loads(daemon.request("GET", "/info")[1])["CDISpecDirs"] == []
        done = daemon.corten("run", "--rm", "--device", "a.com/b=c", "busybox", "true", check=False)
        assert (done.returncode, done.stdout) == (125, "")
        assert 'could not select device driver "cdi"' in done.stderr
        daemon.remove_containers()
    finally:
        daemon.stop()


# -- builds -----------------------------------------------------------------------------------------------------------

DOCKERFILE = """FROM busybox
RUN --device=vendor.example/thing=zero,required --device=vendor.example/thing=nosuch \\
    sh -c 'echo $THING; head -c 4 /dev/thing/endless | md5sum; cat /vendor/file' > /said
RUN test ! -e /dev/thing/endless && test ! -s /vendor/file
"""
SAID = "zero\nf1d3ff8443297732862df21dc4e57262  -\nof the vendor\n"


def build_by_corten(daemon: Daemon, *words: str) -> Any:
    return daemon.corten("build", *words, check=False)


def build_by_buildx(daemon: Daemon, *words: str) -> Any:
    lacking("newest docker", "buildx")
    plugins = daemon.directory / "cli-plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "docker-buildx").exists():
        (plugins / "docker-buildx").symlink_to(CLIENTS / "usr/libexec/docker/cli-plugins/docker-buildx")
    return daemon.run([NEWEST, "buildx", "build", "--progress=plain", *words], check=False)


@pytest.mark.parametrize("build", [build_by_corten, build_by_buildx])
def test_steps_have_devices_when_the_client_grants_them(host: Daemon, tmp_path: Path, build: Any) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    with host.without_new_images():
        done = build(host, str(tmp_path))
        assert done.returncode != 0
        assert "device vendor.example/thing=zero is requested by the build but not allowed" in done.stderr
        for grant in ("device", "device=vendor.example/thing=zero"):
            done = build(host, "--no-cache", "--allow", grant, "-t", "built", str(tmp_path))
            assert done.returncode == 0, done.stderr
            assert "device vendor.example/thing=nosuch is not there" in done.stderr
            assert host.docker("run", "--rm", "built", "cat", "/said").stdout == SAID
        done = build(host, "--allow", "device", "-t", "built", str(tmp_path))
        assert "CACHED" in done.stderr


def test_buildx_lists_devices(host: Daemon) -> None:
    build_by_buildx(host, "--help")
    said = host.run([NEWEST, "buildx", "inspect"]).stdout
    assert "Devices:" in said
    assert "vendor.example/thing=zero" in said

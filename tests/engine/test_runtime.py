"""The runtime on the real kernel: what a program sees, and what it cannot do."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corten.errors import CommandNotExecutable, CommandNotFound, CortenError, InvalidParameter, SystemFailure
from corten.runtime import joining, lifecycle, seccomp

pytestmark = pytest.mark.needs("busybox")

DOCKERS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
).split()
CAPABILITIES = [f"CAP_{name}" for name in DOCKERS]


def make_spec(rootfs: Path, *command: str, **process: Any) -> dict[str, Any]:
    return {
        "ociVersion": "1.2.0",
        "root": {"path": str(rootfs)},
        "hostname": "inside",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {kind: CAPABILITIES for kind in ("bounding", "effective", "permitted")},
            **process,
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "cgroupsPath": f"/corten-test/{os.getpid()}",
            "namespaces": [{"type": kind} for kind in ("mount", "pid", "uts", "ipc", "network", "cgroup")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys"],
            "seccomp": seccomp.resolve_profile(seccomp.default_profile(), CAPABILITIES),
        },
    }


class Output:
    """A pipe that collects what a program writes."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.null = os.open("/dev/null", os.O_RDONLY)

    def read(self) -> str:
        os.close(self.writing)
        with os.fdopen(self.reading, "rb") as file:
            text = file.read().decode()
        os.close(self.null)
        return text

    def close(self) -> None:
        for descriptor in (self.reading, self.writing, self.null):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def run(spec: dict[str, Any], bundle: Path) -> tuple[int, str]:
    """(exit code, output)."""
    output = Output()
    try:
        init = lifecycle.create(spec, container_id="t", bundle=str(bundle), stdio=(output.null, output.writing, output.writing))
        try:
            init.start()
        except CortenError:
            init.abandon()
            raise
    except BaseException:
        output.close()
        raise
    text = output.read()
    code = os.waitstatus_to_exitcode(os.waitpid(init.pid, 0)[1])
    os.close(init.pidfd)
    init.cgroup.delete()
    return code, text


@pytest.fixture(autouse=True)
def parent_cgroup() -> Iterator[None]:
    yield
    for directory in Path("/sys/fs/cgroup").glob("*/corten-test"):
        directory.rmdir()


@pytest.fixture
def descriptors() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) == before


def test_program_is_pid_one_in_namespaces_of_its_own(busybox_rootfs: Path, tmp_path: Path, descriptors: None) -> None:
    script = "echo $$; hostname; for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done"
    code, text = run(make_spec(busybox_rootfs, "sh", "-c", script), tmp_path)
    lines = text.split()
    assert code == 0
    assert lines[:2] == ["1", "inside"]
    for name, seen in zip(("mnt", "pid", "uts", "ipc", "net", "cgroup"), lines[2:], strict=True):
        assert seen != os.readlink(f"/proc/self/ns/{name}")


def test_only_standard_descriptors_are_open(busybox_rootfs: Path, tmp_path: Path) -> None:
    _, text = run(make_spec(busybox_rootfs, "sh", "-c", "ls /proc/self/fd; ls /proc/1/fd"), tmp_path)
    assert set(text.split()) <= {"0", "1", "2", "3"}  # 3 is the directory that ls itself reads


def test_capability_sets_and_seccomp(busybox_rootfs: Path, tmp_path: Path) -> None:
    _, text = run(make_spec(busybox_rootfs, "grep", "-E", "Cap|Seccomp:|NoNew", "/proc/self/status"), tmp_path)
    status = dict(line.split(":\t") for line in text.splitlines())
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == "00000000a80425fb"
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "0"


def test_another_user_has_no_capabilities_and_all_its_groups(busybox_rootfs: Path, tmp_path: Path) -> None:
    spec = make_spec(busybox_rootfs, "sh", "-c", "id; grep CapEff /proc/self/status; echo $HOME", user={"uid": 0, "gid": 0, "username": "bob"})
    _, text = run(spec, tmp_path)
    assert "uid=1000(bob) gid=1000(bob) groups=50(extra),1000(bob)" in text
    assert "0000000000000000" in text
    assert "/home/bob" in text


@pytest.mark.parametrize("name", ["4294967296", "2147483648:0", "-1", "0:4294967295"])
def test_ids_that_would_wrap_are_refused(busybox_rootfs: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameter, match="uids and gids must be in range 0-2147483647"):
        run(make_spec(busybox_rootfs, "id", user={"uid": 0, "gid": 0, "username": name}), tmp_path)


def test_unknown_user(busybox_rootfs: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="unable to find user zed: no matching entries in passwd file"):
        run(make_spec(busybox_rootfs, "id", user={"uid": 0, "gid": 0, "username": "zed"}), tmp_path)


def test_passwd_that_is_a_fifo_does_not_block(busybox_rootfs: Path, tmp_path: Path) -> None:
    (busybox_rootfs / "etc/passwd").unlink()
    os.mkfifo(busybox_rootfs / "etc/passwd")
    with pytest.raises(InvalidParameter, match="unable to find user bob"):
        run(make_spec(busybox_rootfs, "id", user={"uid": 0, "gid": 0, "username": "bob"}), tmp_path)


@pytest.mark.parametrize(
    ("command", "kind", "text"),
    [
        (["nosuch"], CommandNotFound, 'exec: "nosuch": executable file not found in \\$PATH'),
        (["/nope/x"], CommandNotFound, "no such file or directory"),
        (["/etc/passwd"], CommandNotExecutable, "permission denied"),
        (["/etc"], CommandNotExecutable, "is a directory"),
    ],
)
def test_commands_that_cannot_run(
    busybox_rootfs: Path, tmp_path: Path, command: list[str], kind: type[CortenError], text: str, descriptors: None
) -> None:
    with pytest.raises(kind, match=text):
        run(make_spec(busybox_rootfs, *command), tmp_path)


def test_masked_paths_hide_and_readonly_paths_refuse(busybox_rootfs: Path, tmp_path: Path) -> None:
    script = "cat /proc/keys | wc -c; ls /sys/firmware | wc -l; echo x > /proc/sys/kernel/hostname || echo refused"
    _, text = run(make_spec(busybox_rootfs, "sh", "-c", script), tmp_path)
    assert text.split()[:2] == ["0", "0"]
    assert "refused" in text


def test_null_device_of_the_image_is_not_used_for_masks(busybox_rootfs: Path, tmp_path: Path) -> None:
    (busybox_rootfs / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    _, text = run(make_spec(busybox_rootfs, "sh", "-c", "stat -c '%t:%T' /proc/keys; echo owned > /proc/keys; cat /proc/keys"), tmp_path)
    assert text.split()[0] == "1:3"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_must_be_plain_directories(busybox_rootfs: Path, tmp_path: Path, name: str) -> None:
    (busybox_rootfs / name).rmdir()
    (busybox_rootfs / name).symlink_to("tmp")
    with pytest.raises(InvalidParameter, match="ordinary directory"):
        run(make_spec(busybox_rootfs, "true"), tmp_path)


def test_dev_that_is_a_link_makes_nothing_outside(busybox_rootfs: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (busybox_rootfs / "dev").rmdir()
    (busybox_rootfs / "dev").symlink_to(f"/../../../../..{canary}")
    with pytest.raises((InvalidParameter, SystemFailure)):
        run(make_spec(busybox_rootfs, "true"), tmp_path)
    assert list(canary.iterdir()) == []


@pytest.mark.parametrize("number", range(3, 20))
def test_working_directory_through_a_descriptor_leads_nowhere(busybox_rootfs: Path, tmp_path: Path, number: int) -> None:
    marker = tmp_path / "marker"
    marker.write_text("host")
    spec = make_spec(busybox_rootfs, "sh", "-c", f"cat ../../../../../../..{marker}", cwd=f"/proc/self/fd/{number}")
    try:
        code, text = run(spec, tmp_path)
    except CortenError:
        return  # refused: as good
    assert code != 0
    assert "host" not in text


@pytest.mark.parametrize(
    "command",
    ["mount -t tmpfs none /tmp", "mknod /tmp/s b 8 0 && dd if=/tmp/s of=/dev/null count=1", "hostname other", "ip link set lo down"],
)
def test_what_needs_more_rights_is_refused(busybox_rootfs: Path, tmp_path: Path, command: str) -> None:
    code, _ = run(make_spec(busybox_rootfs, "sh", "-c", command), tmp_path)
    assert code != 0


def test_loopback_is_up(busybox_rootfs: Path, tmp_path: Path) -> None:
    _, text = run(make_spec(busybox_rootfs, "ip", "addr"), tmp_path)
    assert "127.0.0.1/8" in text


def test_rlimits_and_umask(busybox_rootfs: Path, tmp_path: Path) -> None:
    spec = make_spec(
        busybox_rootfs,
        "sh",
        "-c",
        "ulimit -n; umask",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        user={"uid": 0, "gid": 0, "umask": 0o027},
    )
    assert run(spec, tmp_path)[1].split() == ["100", "0027"]


def test_read_only_root_and_mount_options(busybox_rootfs: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    spec = make_spec(busybox_rootfs, "sh", "-c", "touch /x || echo root; touch /data/x || echo data; touch /scratch/x && echo scratch")
    spec["root"]["readonly"] = True
    spec["mounts"] += [
        {"destination": "/data", "type": "bind", "source": str(shared), "options": ["rbind", "rro", "rprivate"]},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
    ]
    _, text = run(spec, tmp_path)
    assert [line for line in text.splitlines() if " " not in line] == ["root", "data", "scratch"]


def test_mount_destination_link_stays_inside(busybox_rootfs: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (busybox_rootfs / "evil").symlink_to(f"/../../..{canary}")
    spec = make_spec(busybox_rootfs, "true")
    spec["mounts"].append({"destination": "/evil/deep", "type": "tmpfs", "source": "tmpfs"})
    with contextlib.suppress(CortenError):
        run(spec, tmp_path)
    assert list(canary.iterdir()) == []


def test_hooks_get_the_state_and_a_failing_one_stops_the_start(busybox_rootfs: Path, tmp_path: Path) -> None:
    seen = tmp_path / "state.json"
    spec = make_spec(busybox_rootfs, "true")
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {seen}"]}]}
    run(spec, tmp_path)
    assert '"id": "t"' in seen.read_text()
    spec["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    with pytest.raises(SystemFailure, match="createRuntime hook"):
        run(spec, tmp_path)


@pytest.mark.needs("userns")
def test_user_namespace(busybox_rootfs: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if os.stat(parent).st_mode & 0o005 != 0o005:
            pytest.skip(f"{parent} is closed to other users")
    spec = make_spec(busybox_rootfs, "sh", "-c", "id -u; cat /proc/self/uid_map")
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    _, text = run(spec, tmp_path)
    assert text.split() == ["0", "0", "100000", "65536"]


@pytest.mark.needs("timens")
def test_time_namespace_with_an_offset(busybox_rootfs: Path, tmp_path: Path) -> None:
    spec = make_spec(busybox_rootfs, "cat", "/proc/uptime")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 864000, "nanosecs": 0}}
    _, text = run(spec, tmp_path)
    assert float(text.split()[0]) > 864000


def test_exec_joins_everything_and_reports_errors(busybox_rootfs: Path, tmp_path: Path, descriptors: None) -> None:
    spec = make_spec(busybox_rootfs, "sleep", "60")
    init = lifecycle.create(spec, container_id="t", bundle=str(tmp_path), stdio=None)
    init.start()
    output = Output()
    process = {**spec["process"], "args": ["sh", "-c", "hostname; grep -c . /proc/1/cmdline; grep CapEff /proc/self/status; ls /proc/self/fd"]}
    made = joining.exec_process(init.pid, spec, process, cgroup=init.cgroup, stdio=(output.null, output.writing, output.writing))
    text = output.read()
    os.waitpid(made.pid, 0x40000000)
    os.close(made.pidfd)
    assert text.split()[:2] == ["inside", "1"]
    assert "00000000a80425fb" in text
    with pytest.raises(CommandNotFound):
        joining.exec_process(init.pid, spec, {**process, "args": ["nosuch"]}, cgroup=init.cgroup, stdio=None)
    init.abandon()


def test_entering_process_offers_no_writable_interpreter(busybox_rootfs: Path, tmp_path: Path) -> None:
    spec = make_spec(busybox_rootfs, "/proc/self/exe", "-c", "print('python ran')")
    with contextlib.suppress(CortenError):
        code, text = run(spec, tmp_path)
        assert "python ran" not in text or code != 0


def test_result_equals_that_of_crun(busybox_rootfs: Path, tmp_path: Path) -> None:
    from shutil import which

    if which("crun") is None:
        pytest.skip("this machine lacks: crun")
    import json

    script = "cat /proc/self/status | grep -E 'Cap|Seccomp:'; ls /dev; id"
    spec = make_spec(busybox_rootfs, "sh", "-c", script)
    _, ours = run(spec, tmp_path)
    spec["linux"]["cgroupsPath"] = "/corten-test/crun"
    (tmp_path / "config.json").write_text(json.dumps(spec))
    done = subprocess.run(["crun", "--root", str(tmp_path / "crun"), "run", "-b", str(tmp_path), "peer"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"crun does not run here: {done.stderr.strip()}")
    assert set(ours.splitlines()) >= {line for line in done.stdout.splitlines() if line.startswith(("Cap", "Seccomp", "uid"))}

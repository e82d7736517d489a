"""The runtime on the real kernel: what a program sees, whom it runs as, and what it cannot do."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from runtime_support import CAPABILITIES, World, children, read_terminal

from corten.errors import CommandNotExecutable, CommandNotFound, Conflict, CortenError, InvalidParameter, SystemFailure
from corten.runtime import groups, seccomp_profile

pytestmark = pytest.mark.needs("busybox")


def status_of(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


# -- namespaces and identity ------------------------------------------------------------------------------------------


def test_program_is_pid_one_in_namespaces_of_its_own(world: World) -> None:
    kinds = ("mnt", "pid", "uts", "ipc", "net", "cgroup")
    script = f"echo $$; hostname; for n in {' '.join(kinds)}; do readlink /proc/self/ns/$n; done; ip addr"
    result = world.run(world.script(script))
    assert result.code == 0
    assert result.words[:2] == ["1", "inside"]
    for name, seen in zip(kinds, result.words[2:], strict=False):
        assert seen != os.readlink(f"/proc/self/ns/{name}")
    assert "127.0.0.1/8" in result.text  # the loopback device is up


def test_on_the_host_it_is_an_ordinary_process(world: World) -> None:
    running = world.start(world.spec("sleep", "60"))
    pid = running.init.pid
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0060\0"
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    assert f"{world.parent}/" in Path(f"/proc/{pid}/cgroup").read_text()


def test_domain_name_and_sysctls(world: World) -> None:
    spec = world.script("cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax")
    spec["domainname"] = "example"
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "12345"}
    before = Path("/proc/sys/kernel/shmmax").read_text()
    assert world.run(spec).words == ["example", "1", "12345"]
    assert Path("/proc/sys/kernel/shmmax").read_text() == before


def test_sysctl_that_does_not_exist(world: World) -> None:
    spec = world.spec("true")
    spec["linux"]["sysctl"] = {"net.nosuch": "1"}
    with pytest.raises(InvalidParameter, match=r"sysctl 'net\.nosuch' does not exist"):
        world.run(spec)


def test_an_init_that_has_ended_already_says_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late(proc: object, pid: str, process: object) -> str:
        raise FileNotFoundError(2, "No such file or directory", f"{pid}/oom_score_adj")

    monkeypatch.setattr(groups, "set_oom_score", too_late)
    spec = world.spec("true")
    spec["linux"]["sysctl"] = {"net.nosuch": "1"}
    with pytest.raises(InvalidParameter, match="does not exist"):
        world.run(spec)


def test_capability_sets_and_seccomp(world: World) -> None:
    status = status_of(world.run(world.spec("cat", "/proc/self/status")).text)
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == "00000000a80425fb"
    assert status["CapInh"] == status["CapAmb"] == "0" * 16
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "0")
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0


def test_ambient_and_inheritable_sets(world: World) -> None:
    spec = world.spec("cat", "/proc/self/status", user={"uid": 1000, "gid": 1000})
    kinds = ("bounding", "permitted", "effective", "inheritable", "ambient")
    spec["process"]["capabilities"] = {kind: ["CAP_NET_RAW"] for kind in kinds}
    status = status_of(world.run(spec).text)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 1 << 13


def test_no_new_privileges(world: World) -> None:
    status = status_of(world.run(world.spec("cat", "/proc/self/status", noNewPrivileges=True)).text)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["CapEff"] == "00000000a80425fb"


def test_unknown_capabilities_are_told_and_left_out(world: World) -> None:
    spec = world.spec("cat", "/proc/self/status")
    kinds = ("bounding", "permitted", "effective")
    spec["process"]["capabilities"] = {kind: ["CAP_KILL", "CAP_FLY"] for kind in kinds}
    result = world.run(spec)
    assert status_of(result.text)["CapBnd"] == "0000000000000020"
    assert "capability CAP_FLY is unknown: left out" in result.warnings


def test_another_user_has_no_capabilities_and_all_its_groups(world: World) -> None:
    script = "id; grep CapEff /proc/self/status; echo $HOME; echo x > /dev/stdout; echo y > /dev/stderr"
    result = world.run(world.script(script, user={"uid": 0, "gid": 0, "username": "bob"}))
    assert "uid=1000(bob) gid=1000(bob) groups=50(extra),1000(bob)" in result.text
    assert "0000000000000000" in result.text
    assert result.lines[2:] == ["/home/bob", "x", "y"]


def test_home_of_a_user_by_number(world: World) -> None:
    user = {"uid": 1000, "gid": 7, "additionalGids": [8]}
    assert world.run(world.script("echo $HOME; id -G", user=user)).lines == ["/home/bob", "7 8"]
    spec = world.script("echo $HOME", user=user, env=["PATH=/bin", "HOME=/else"])
    assert world.run(spec).words == ["/else"]


@pytest.mark.parametrize("name", ["4294967296", "2147483648:0", "-1", "0:4294967295"])
def test_ids_that_would_wrap_are_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidParameter, match="uids and gids must be in range 0-2147483647"):
        world.run(world.spec("id", user={"uid": 0, "gid": 0, "username": name}))


@pytest.mark.parametrize("name", ["1:", ""])
def test_half_given_users(world: World, name: str) -> None:
    result = world.run(world.spec("id", "-u", user={"username": name}))
    assert result.words == [name.rstrip(":") or "0"]


def test_passwd_that_is_a_fifo_does_not_block(world: World) -> None:
    (world.rootfs / "etc/passwd").unlink()
    os.mkfifo(world.rootfs / "etc/passwd")
    with pytest.raises(InvalidParameter, match="unable to find user bob: no matching entries in passwd file"):
        world.run(world.spec("id", user={"uid": 0, "gid": 0, "username": "bob"}))


# -- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "kind", "text"),
    [
        (["nosuch"], CommandNotFound, r'exec: "nosuch": executable file not found in \$PATH'),
        (["/nope/x"], CommandNotFound, 'exec: "/nope/x": stat /nope/x: no such file or directory'),
        (["/etc/passwd"], CommandNotExecutable, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], CommandNotExecutable, 'exec: "/etc": permission denied'),
        (["/etc/bad"], CommandNotExecutable, "exec /etc/bad: exec format error"),
        (["/etc/lost"], CommandNotFound, "exec /etc/lost: no such file or directory"),
    ],
)
def test_commands_that_cannot_run(world: World, command: list[str], kind: type[CortenError], text: str) -> None:
    for name, content in (("bad", "\0\0"), ("lost", "#!/nope\n")):
        (world.rootfs / "etc" / name).write_text(content)
        (world.rootfs / "etc" / name).chmod(0o755)
    with pytest.raises(kind, match=text):
        world.run(world.spec(*command))


def test_exit_codes(world: World) -> None:
    assert world.run(world.script("exit 42")).code == 42
    running = world.start(world.spec("sleep", "60"))
    os.kill(running.init.pid, 9)
    assert running.wait().code == -9


def test_limits_umask_and_directory(world: World) -> None:
    spec = world.script(
        "ulimit -n; ulimit -Hn; umask; pwd; cat /proc/self/oom_score_adj",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        user={"uid": 0, "gid": 0, "umask": 0o027},
        cwd="/new/directory",
        oomScoreAdj=321,
    )
    assert world.run(spec).words == ["100", "200", "0027", "/new/directory", "321"]
    assert oct((world.rootfs / "new/directory").stat().st_mode) == "0o40755"


def test_tiny_limits_bind_the_program_and_not_the_runtime(world: World) -> None:
    limits = [{"type": name, "soft": 3, "hard": 3} for name in ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC")]
    spec = world.spec("true", rlimits=limits)
    spec["mounts"] += [
        {"destination": f"/m{number}", "type": "bind", "source": "/tmp", "options": ["rbind"]} for number in range(20)
    ]
    assert world.run(spec).code == 0


def test_a_limit_that_the_host_does_not_raise_is_clamped(world: World) -> None:
    unlimited = (1 << 64) - 1
    result = world.run(world.script("ulimit -Hn", rlimits=[{"type": "RLIMIT_NOFILE", "soft": 64, "hard": unlimited}]))
    # no process may have more than fs.nr_open, whatever its rights
    assert result.words[0].isdigit()
    assert any(warning.startswith("RLIMIT_NOFILE is clamped to") for warning in result.warnings)


def test_working_directory_that_is_a_file(world: World) -> None:
    with pytest.raises(InvalidParameter, match=r'chdir to cwd \("/etc/passwd"\) .* failed: not a directory'):
        world.run(world.spec("true", cwd="/etc/passwd"))


def test_working_directory_that_the_user_may_not_enter(world: World) -> None:
    (world.rootfs / "closed").mkdir(mode=0o700)
    with pytest.raises(InvalidParameter, match="permission denied"):
        world.run(world.spec("true", cwd="/closed", user={"uid": 1000, "gid": 1000}))


def test_scheduling(world: World) -> None:
    spec = world.script(
        "cat /proc/self/stat; uname -m",
        scheduler={"policy": "SCHED_BATCH", "nice": 7},
        ioPriority={"class": "IOPRIO_CLASS_IDLE"},
    )
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    line, machine = world.run(spec).lines
    fields = line.rpartition(")")[2].split()
    assert (fields[16], fields[38]) == ("7", "3")  # nice, policy
    assert machine != os.uname().machine


# -- devices, terminal ------------------------------------------------------------------------------------------------


def test_default_devices_and_links(world: World) -> None:
    script = (
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done;"
        "for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; ls /dev"
    )
    lines = world.run(world.script(script)).lines
    assert lines[:6] == [
        "/dev/null 1:3 666",
        "/dev/zero 1:5 666",
        "/dev/full 1:7 666",
        "/dev/random 1:8 666",
        "/dev/urandom 1:9 666",
        "/dev/tty 5:0 666",
    ]
    assert lines[6:11] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    assert "console" not in lines[11:]


def test_devices_of_the_specification(world: World) -> None:
    spec = world.script("stat -c '%F %t:%T %a %u:%g' /dev/mine /dev/deep/pipe; dd if=/dev/mine bs=1 count=1 | wc -c")
    spec["linux"]["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/dev/deep/pipe", "type": "p"},
    ]
    lines = world.run(spec).lines
    assert lines[0] == "character special file 1:5 640 3:4"
    assert lines[1].startswith("fifo 0:0 666")
    assert "1" in lines


def test_other_devices_are_out_of_reach(world: World) -> None:
    script = (
        "mknod /tmp/disk b 8 0 && echo made; dd if=/tmp/disk of=/dev/null count=1 2>&1;"
        "mknod /tmp/kmsg c 1 11; head -c1 /tmp/kmsg 2>&1"
    )
    text = world.run(world.script(script)).text
    assert text.startswith("made")
    assert text.count("Operation not permitted") == 2


def test_terminal(world: World) -> None:
    spec = world.script(
        "tty; stat -c '%t' /dev/console; stty size; echo > /dev/console; cat",
        terminal=True,
        consoleSize={"height": 33, "width": 101},
    )
    running = world.start(spec)
    master = running.init.console_fd
    text = read_terminal(master, lambda text: "33 101\r\n\r\n" in text)
    lines = text.splitlines()
    assert lines[0] == "/dev/pts/0"
    assert lines[1] == "88"  # 136: a pty
    os.write(master, b"ping\n\x04")
    assert "ping\nping\n" in read_terminal(master)
    running.output.close()
    assert os.waitstatus_to_exitcode(os.waitpid(running.init.pid, 0)[1]) == 0
    running.ended = True
    for descriptor in (running.init.pidfd, master):
        os.close(descriptor)
    running.init.cgroup.delete()


def test_the_terminal_is_the_users_and_controls_it(world: World) -> None:
    spec = world.script("stat -c %u $(tty); cat /proc/self/stat", terminal=True, user={"uid": 1000, "gid": 1000})
    running = world.start(spec)
    owner, line = read_terminal(running.init.console_fd).splitlines()
    assert owner == "1000"
    fields = line.rpartition(")")[2].split()
    assert fields[3] == "1"  # session of pid 1
    assert int(fields[4]) >> 8 == 136  # its terminal
    running.kill()


# -- exec -------------------------------------------------------------------------------------------------------------


def test_exec_joins_everything(world: World) -> None:
    running = world.start(world.spec("sleep", "60"))
    result = world.execute(
        running,
        "sh",
        "-c",
        "hostname; cat /proc/self/status; for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done;"
        "ls /proc/self/fd",
    )
    status = status_of(result.text)
    assert result.lines[0] == "inside"
    assert (status["CapEff"], status["CapInh"], status["Seccomp"]) == ("00000000a80425fb", "0" * 16, "2")
    for name in ("mnt", "pid", "uts", "ipc", "net", "cgroup"):
        assert os.readlink(f"/proc/{running.init.pid}/ns/{name}") in result.text
    assert result.lines[-4:] == ["0", "1", "2", "3"]  # 3 is the directory that ls itself reads


def test_exec_is_in_the_cgroup_and_has_its_own_fields(world: World) -> None:
    running = world.start(world.spec("sleep", "60", rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]))
    script = "id; pwd; echo $COLOUR $HOME; ulimit -c; cat /proc/self/oom_score_adj; cat /proc/self/cgroup; umask"
    result = world.execute(
        running,
        "sh",
        "-c",
        script,
        user={"uid": 0, "gid": 0, "username": "bob", "umask": 0o077},
        cwd="/tmp",
        env=["PATH=/bin", "COLOUR=red"],
        oomScoreAdj=77,
    )
    lines = result.lines
    assert lines[0].startswith("uid=1000(bob) gid=1000(bob) groups=")
    assert lines[1:5] == ["/tmp", "red /home/bob", "0", "77"]
    assert all(line.endswith(":/") for line in lines[5:-1] if not line.startswith("0:"))
    assert lines[-1] == "0077"


def test_exec_with_a_terminal(world: World) -> None:
    running = world.start(world.spec("sleep", "60"))
    result = world.execute(
        running, "sh", "-c", "tty; stty size; exit 3", terminal=True, consoleSize={"height": 10, "width": 20}
    )
    assert (result.code, result.lines) == (3, ["/dev/pts/0", "10 20"])


@pytest.mark.parametrize(
    ("command", "process", "kind", "text"),
    [
        (["nosuch"], {}, CommandNotFound, r'exec: "nosuch": executable file not found in \$PATH'),
        (["/etc/passwd"], {}, CommandNotExecutable, "permission denied"),
        (["true"], {"cwd": "/nope"}, InvalidParameter, r'chdir to cwd \("/nope"\) set in config.json failed'),
        (["true"], {"user": {"username": "zed"}}, InvalidParameter, "unable to find user zed"),
        (["true"], {"cwd": "relative"}, InvalidParameter, "process.cwd"),
    ],
)
def test_exec_that_fails(
    world: World, command: list[str], process: dict[str, Any], kind: type[CortenError], text: str
) -> None:
    running = world.start(world.spec("sleep", "60"))
    with pytest.raises(kind, match=text):
        world.execute(running, *command, **process)
    assert world.execute(running, "true").code == 0


def test_exec_leaves_the_caller_as_it_was(world: World) -> None:
    running = world.start(world.spec("sleep", "60"))
    before = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    world.execute(running, "true")
    after = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    assert after == before
    assert os.stat("/proc/self/status").st_uid == os.geteuid()  # and can be looked at again


def test_exec_in_a_container_that_has_ended(world: World) -> None:
    running = world.start(world.spec("sleep", "60"))
    os.kill(running.init.pid, 9)
    os.waitid(os.P_PID, running.init.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(SystemFailure):
        world.execute(running, "true")


# -- joined, user and time namespaces ---------------------------------------------------------------------------------


def test_namespaces_that_are_joined(world: World) -> None:
    first = world.start(world.spec("sleep", "60"))
    spec = world.script("ps; for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done; cat /proc/1/cmdline")
    del spec["hostname"]
    files = {"pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts"}
    spec["linux"]["namespaces"] = [
        {"type": "mount"},
        *({"type": kind, "path": f"/proc/{first.init.pid}/ns/{file}"} for kind, file in files.items()),
    ]
    result = world.run(spec)
    seen = [line for line in result.lines if ":[" in line]
    for name, link in zip(("pid", "net", "ipc", "uts"), seen, strict=False):
        assert link == os.readlink(f"/proc/{first.init.pid}/ns/{name}")
    assert seen[4] != os.readlink(f"/proc/{first.init.pid}/ns/mnt")
    assert "sleep\x0060" in result.text


def test_namespace_file_that_is_none(world: World) -> None:
    spec = world.spec("true")
    del spec["hostname"]
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "ipc", "path": "/proc/self/ns/nope"}]
    with pytest.raises(InvalidParameter, match="cannot join ipc namespace /proc/self/ns/nope: no such file"):
        world.run(spec)


def test_mount_namespace_that_is_joined(world: World) -> None:
    first = world.start(world.spec("sleep", "60"))
    spec = world.script("ls /; cat /marker")
    (world.rootfs / "inner/bin").mkdir(parents=True)
    for name in ("sh", "ls", "cat", "busybox"):
        (world.rootfs / "inner/bin" / name).symlink_to("busybox")
    (world.rootfs / "inner/bin/busybox").unlink()
    (world.rootfs / "inner/bin/busybox").hardlink_to(world.rootfs / "bin/busybox")
    (world.rootfs / "inner/marker").write_text("found\n")
    spec["root"] = {"path": "/inner"}
    spec["mounts"] = []
    for field in ("maskedPaths", "readonlyPaths"):
        del spec["linux"][field]
    spec["linux"]["namespaces"] = [
        {"type": "pid"},
        {"type": "uts"},
        {"type": "mount", "path": f"/proc/{first.init.pid}/ns/mnt"},
    ]
    mounts = Path(f"/proc/{first.init.pid}/mountinfo").read_text()
    assert world.run(spec).words == ["bin", "marker", "found"]
    assert Path(f"/proc/{first.init.pid}/mountinfo").read_text() == mounts


def with_user_namespace(spec: dict[str, Any]) -> dict[str, Any]:
    spec["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uid", "gid"):
        spec["linux"][f"{kind}Mappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    return spec


@pytest.mark.needs("userns")
def test_user_namespace(world: World) -> None:
    os.chown(world.rootfs, 100000, 100000)
    script = (
        "id -u; cat /proc/self/uid_map; touch /tmp/mine; echo x > /dev/null; echo out > /dev/stdout;"
        "head -c 1 /dev/zero | wc -c; hostname; cat /proc/self/oom_score_adj; grep CapEff /proc/self/status"
    )
    result = world.run(with_user_namespace(world.script(script, oomScoreAdj=200)))
    assert result.words[:4] == ["0", "0", "100000", "65536"]
    assert result.lines[2:] == ["out", "1", "inside", "200", "CapEff:\t00000000a80425fb"]
    assert (world.rootfs / "tmp/mine").stat().st_uid == 100000


@pytest.mark.needs("userns")
def test_user_namespace_with_another_user_and_a_terminal(world: World) -> None:
    spec = with_user_namespace(world.script("id -u; id -G; tty", terminal=True, user={"username": "bob"}))
    running = world.start(spec)
    assert read_terminal(running.init.console_fd).splitlines() == ["1000", "1000 50", "/dev/pts/0"]
    running.kill()


@pytest.mark.needs("userns")
def test_exec_and_joining_in_a_user_namespace(world: World) -> None:
    running = world.start(with_user_namespace(world.spec("sleep", "60")))
    result = world.execute(running, "sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/mine")
    assert result.words == ["0", "0", "100000", "65536"]
    assert (world.rootfs / "tmp/mine").stat().st_uid == 100000
    spec = world.script("cat /proc/self/uid_map; readlink /proc/self/ns/user; readlink /proc/self/ns/net; ps | wc -l")
    files = {"user": "user", "network": "net", "pid": "pid"}
    spec["linux"]["namespaces"] = [
        *({"type": kind} for kind in ("mount", "uts", "ipc")),
        *({"type": kind, "path": f"/proc/{running.init.pid}/ns/{file}"} for kind, file in files.items()),
    ]
    joined = world.run(spec)
    assert joined.words[:3] == ["0", "100000", "65536"]
    assert joined.words[3:5] == [os.readlink(f"/proc/{running.init.pid}/ns/{name}") for name in ("user", "net")]


@pytest.mark.needs("userns", "timens")
def test_time_namespace_with_offsets(world: World) -> None:
    for change in (lambda spec: spec, with_user_namespace):
        spec = change(world.spec("cat", "/proc/uptime"))
        spec["linux"]["namespaces"].append({"type": "time"})
        spec["linux"]["timeOffsets"] = {"boottime": {"secs": 864000, "nanosecs": 0}}
        assert float(world.run(spec).words[0]) > 864000


# -- cgroups ----------------------------------------------------------------------------------------------------------


def test_a_cgroup_in_use_is_left_alone(world: World) -> None:
    spec = world.spec("sleep", "60")
    running = world.start(spec)
    with pytest.raises(Conflict, match=r"container's cgroup is not empty: 1 process"):
        world.run(spec)
    assert world.execute(running, "true").code == 0


def test_zeros_of_dockerd_stand_for_nothing(world: World) -> None:
    spec = world.spec("sleep", "60")
    spec["linux"]["resources"].update({"cpu": {"shares": 0}, "blockIO": {"weight": 0}, "memory": {"limit": 0}})
    running = world.start(spec)
    directory = running.init.cgroup.directory("cpu")
    assert directory is not None
    name, wanted = ("cpu.weight", "100") if running.init.cgroup.hierarchies.is_v2 else ("cpu.shares", "1024")
    assert Path(directory, name).read_text().strip() == wanted


@pytest.mark.parametrize("failing", ["mounts", "program", "hooks", "user", "meanwhile"])
def test_nothing_is_left_of_a_start_that_failed(world: World, failing: str) -> None:
    spec = world.spec("true")
    options = {}

    def fail(pid: int) -> None:
        raise SystemFailure(f"what is done beside {pid} fails", step="test")

    if failing == "mounts":
        spec["mounts"].append({"destination": "/x", "type": "nosuchfs", "source": "x"})
    elif failing == "program":
        spec["process"]["args"] = ["nosuch"]
    elif failing == "hooks":
        spec["hooks"] = {"createContainer": [{"path": "/bin/false"}]}
    elif failing == "user":
        spec["process"]["user"]["username"] = "nosuch"
    else:
        options["meanwhile"] = fail
    mounts, processes = Path("/proc/self/mountinfo").read_text(), children()
    with pytest.raises(CortenError):
        world.start(spec, **options)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not list(Path("/sys/fs/cgroup").glob(f"*{world.parent}/[0-9]*"))
    assert children() == processes


# -- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_run_in_order_and_in_their_namespaces(world: World) -> None:
    record = world.directory / "record"

    def hook(name: str) -> list[dict[str, Any]]:
        script = (
            'read -r s; p=${s##*\\"pid\\": }; p=${p%%[,\\}]*}; t=${s##*\\"status\\": \\"}; t=${t%%\\"*};'
            f" m=$(test -e {world.rootfs}/proc/1 && echo mounted);"
            f' echo "{name} $t $(readlink /proc/self/ns/mnt) $m" >> $RECORD'
        )
        return [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"RECORD={record}", "PATH=/bin:/usr/bin"]}]

    names = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart")
    (world.rootfs / str(record.parent).lstrip("/")).mkdir(parents=True)
    spec = world.spec("sleep", "60")
    spec["hooks"] = {name: hook(name) for name in names}
    running = world.start(spec)
    found = [line.split() for line in record.read_text().splitlines()]
    inside = [line.split() for line in (world.rootfs / str(record).lstrip("/")).read_text().splitlines()]
    ours = os.readlink("/proc/self/ns/mnt")
    theirs = os.readlink(f"/proc/{running.init.pid}/ns/mnt")
    assert [words[:3] for words in found] == [
        ["prestart", "creating", ours],
        ["createRuntime", "creating", ours],
        ["createContainer", "creating", theirs],
        ["poststart", "running", ours],
    ]
    assert found[2][3:] == ["mounted"]  # the root is not entered yet, and is where it was
    assert [words[:3] for words in inside] == [["startContainer", "created", theirs]]


def test_runtime_hooks_find_the_container_before_its_root_is_entered(world: World) -> None:
    spec = world.spec("sleep", "60")
    record = world.directory / "root"
    script = f'read -r s; p=${{s##*\\"pid\\": }}; p=${{p%%[,\\}}]*}}; ls -A /proc/$p/root/ > {record}'
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    world.start(spec)
    assert set(record.read_text().split()) == set(os.listdir("/"))


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_stops_the_start(world: World, name: str) -> None:
    spec = world.spec("sleep", "60")
    spec["hooks"] = {name: [{"path": "/bin/false"}]}
    with pytest.raises(SystemFailure, match=f"{name} hook #0"):
        world.start(spec)


# -- the same as others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["crun", "runc"])
def test_result_equals_that_of(world: World, peer: str) -> None:
    import json

    if which(peer) is None:
        pytest.skip(f"this machine lacks: {peer}")
    # crun loses nosuid, nodev and noexec on what it makes read-only; runc keeps them, and so do we
    points = "/proc /dev /dev/pts" + ("" if peer == "crun" else " /sys /proc/sys")
    script = (
        "grep -E 'Cap|Seccomp:|NoNew|Groups|SigB' /proc/self/status; ls /dev; id; env | sort; umask; pwd; ulimit -a;"
        f"for m in {points}; do grep \" $m \" /proc/self/mountinfo | cut -d' ' -f6; done;"
        "for f in /proc/kcore /proc/keys; do stat -c '%t:%T' $f 2>/dev/null; done; ls /sys/firmware | wc -l;"
        "ls /proc/self/fd | wc -l"
    )
    spec = world.script(script, user={"uid": 0, "gid": 0, "additionalGids": [0]})
    ours = world.run(spec)
    spec["linux"]["cgroupsPath"] = f"{world.parent}/peer"
    (world.directory / "config.json").write_text(json.dumps(spec))
    root = str(world.directory / peer)
    done = subprocess.run(
        [peer, "--root", root, "run", "-b", str(world.directory), f"peer-{os.getpid()}"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if "hybrid mode not supported" in done.stderr:
        pytest.skip(f"{peer} does not run here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ours.lines


# -- system calls -----------------------------------------------------------------------------------------------------


def probe(number: int, arguments: tuple[int, ...], *, wide: bool) -> bytes:
    """A static program that makes one system call and ends with its error number (amd64 machine code)."""
    code = b""
    if wide:
        loads = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")  # rdi rsi rdx r10 r8 r9
        for load, value in zip(loads, (*arguments, 0, 0, 0, 0, 0, 0), strict=False):
            code += load + struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)
        code += b"\xb8" + struct.pack("<I", number) + b"\x0f\x05"  # mov eax; syscall
    else:
        for load, value in zip(
            (b"\xbb", b"\xb9", b"\xba", b"\xbe", b"\xbf"), (*arguments, 0, 0, 0, 0, 0), strict=False
        ):
            code += load + struct.pack("<I", value & 0xFFFFFFFF)  # ebx ecx edx esi edi
        code += b"\xb8" + struct.pack("<I", number) + b"\xcd\x80"  # mov eax; int 0x80
    code += b"\xf7\xd8\x89\xc7"  # neg eax; mov edi, eax
    code += b"\x81\xff" + struct.pack("<i", 0) + b"\x7d\x02\x31\xff"  # cmp edi, 0; jge +2; xor edi, edi
    code += b"\xb8" + struct.pack("<I", 231) + b"\x0f\x05"  # exit_group
    base, offset = 0x400000, 120
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + offset, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    size = offset + len(code)
    header += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + code


X32 = 0x40000000
PROBES: list[tuple[str, int, tuple[int, ...], bool, int]] = [
    # name, number, arguments, 64-bit door, errno
    ("getpid", 39, (), True, 0),
    ("getpid32", 20, (), False, 0),
    ("unshare-user", 272, (0x10000000,), True, 1),
    ("unshare-user32", 310, (0x10000000,), False, 1),
    ("unshare-userx32", X32 | 272, (0x10000000,), True, 1),
    ("clone-user", 56, (0x10000000 | 17,), True, 1),
    ("clone3", 435, (), True, 38),
    ("mount", 165, (), True, 1),
    ("mount32", 21, (), False, 1),
    ("keyctl", 250, (), True, 1),
    ("add_key", 248, (), True, 1),
    ("bpf", 321, (), True, 1),
    ("io_uring_setup", 425, (), True, 1),
    ("io_uring_setup32", 425, (), False, 1),
    ("io_uring_setupx32", X32 | 425, (), True, 1),
    ("userfaultfd", 323, (), True, 1),
    ("perf_event_open", 298, (), True, 1),
    ("open_by_handle_at", 304, (), True, 1),
    ("socket-alg", 41, (38, 5, 0), True, 1),
    ("socket-vsock", 41, (40, 1, 0), True, 1),
    ("socket-alg32", 359, (38, 5, 0), False, 1),
    ("personality-odd", 135, (0x0040000,), True, 1),
    ("kexec_load", 246, (), True, 1),
    ("init_module", 175, (), True, 1),
    ("unknown", 9999, (), True, 38),
    ("unknown32", 9999, (), False, 38),
]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of amd64")
def test_system_calls_through_all_doors(world: World) -> None:
    (world.rootfs / "probes").mkdir()
    for name, number, arguments, wide, _ in PROBES:
        (world.rootfs / "probes" / name).write_bytes(probe(number, arguments, wide=wide))
        (world.rootfs / "probes" / name).chmod(0o755)
    result = world.run(world.script("cd /probes; for p in *; do ./$p; echo $p $?; done"))
    found = dict(line.split() for line in result.lines)
    assert {name: int(code) for name, code in found.items()} == {name: code for name, _, _, _, code in PROBES}


def test_capabilities_unlock_system_calls(world: World) -> None:
    spec = world.script("mount -t tmpfs x /tmp && echo mounted")
    more = [*CAPABILITIES, "CAP_SYS_ADMIN"]
    spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), more)
    spec["linux"]["seccomp"] = seccomp_profile.resolve_profile(seccomp_profile.default_profile(), more)
    assert world.run(spec).words == ["mounted"]


def test_a_strict_filter_that_comes_last(world: World) -> None:
    """With no-new-privileges a program can be held to a handful of calls that the runtime could not live with."""
    names = ["execve", "write", "exit_group", "brk", "mmap", "arch_prctl", "prctl", "getuid", "set_tid_address"]
    names += ["set_robust_list", "rseq", "mprotect", "prlimit64", "readlink", "readlinkat", "getrandom", "munmap"]
    spec = world.spec("echo", "strict", noNewPrivileges=True)
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}],
    }
    assert world.run(spec).words == ["strict"]

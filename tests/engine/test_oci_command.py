"""corten-oci, command by command.  How other engines call it: test_oci_callers.py."""

from __future__ import annotations

import array
import contextlib
import copy
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_support import Oci, make_spec, read_terminal

import corten

pytestmark = pytest.mark.needs("busybox")


@pytest.fixture
def oci(tmp_path: Path, busybox_rootfs: Path) -> Iterator[Oci]:
    spec = make_spec(busybox_rootfs, "sleep", "60")
    spec["linux"]["cgroupsPath"] = f"/corten-test-oci-{os.getpid()}/c"
    made = Oci(tmp_path, spec)
    yield made
    for line in made("list", "-q").stdout.split():
        made("delete", "-f", line)
    for directory in Path("/sys/fs/cgroup").glob(f"*/corten-test-oci-{os.getpid()}"):
        with contextlib.suppress(OSError):
            directory.rmdir()


def script(oci: Oci, text: str, **process: Any) -> None:
    oci.write({**oci.spec, "process": {**oci.spec["process"], "args": ["sh", "-c", text], **process}})


def test_life_of_a_container(oci: Oci) -> None:
    script(oci, "echo started; sleep 60")
    pid_file = oci.bundle / "pid"
    oci.create("c1", "--pid-file", str(pid_file))
    state = oci.state("c1")
    assert state["status"] == "created"
    assert state["pid"] == int(pid_file.read_text())
    assert (state["bundle"], state["rootfs"]) == (str(oci.bundle), oci.spec["root"]["path"])
    assert "started" not in oci.output()
    oci("start", "c1")
    assert oci.status("c1") == "running"
    again = oci("start", "c1", check=False)
    assert (again.returncode, again.stderr) == (1, "corten-oci: cannot start a container in the running state\n")
    assert oci("delete", "c1", check=False).returncode == 1
    oci("kill", "c1", "KILL")
    oci.wait_for("c1", "stopped")
    assert oci.state("c1")["pid"] == 0
    assert oci("kill", "c1", "KILL", check=False).stderr == "corten-oci: container not running\n"
    oci("delete", "c1")
    assert oci("state", "c1", check=False).stderr == "corten-oci: container does not exist: c1\n"
    assert oci.output() == "started\n"
    assert not list(Path("/sys/fs/cgroup").glob(f"*{oci.spec['linux']['cgroupsPath']}"))


def test_run_gives_output_and_exit_code(oci: Oci) -> None:
    script(oci, "cat; echo $0; exit 42")
    done = oci("run", "-b", str(oci.bundle), "c1", check=False, stdin=None, input="through\n")
    assert (done.returncode, done.stdout) == (42, "through\nsh\n")
    assert oci("list", "-q").stdout == ""
    script(oci, "kill -9 $$")
    oci.write({**oci.spec, "linux": {**oci.spec["linux"], "namespaces": [{"type": "mount"}]}} | {"hostname": ""})
    assert oci("run", "-b", str(oci.bundle), "c1", check=False).returncode == 137


@pytest.mark.needs("userns")
def test_with_ids_of_its_own_nothing_is_read_that_is_closed_to_them(oci: Oci, tmp_path: Path) -> None:
    """Whoever installs below /root, which only root enters: the filter's tables, and modules, are there before."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(Path(corten.__file__).parent, closed / "corten")
    spec = copy.deepcopy(oci.spec)
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["uidMappings"] = spec["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    spec["process"]["args"] = ["grep", "Seccomp:", "/proc/self/status"]
    oci.write(spec)
    start = f"import sys; sys.path.insert(0, {str(closed)!r}); from corten.runtime.cli import main; main()"
    words = [sys.executable, "-I", "-c", start, *oci.command("run", "-b", str(oci.bundle), "c1")[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout.split()) == (0, ["Seccomp:", "2"]), done.stderr


def test_run_hands_signals_over_and_can_keep_the_container(oci: Oci) -> None:
    script(oci, "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    words = oci.command("run", "--keep", "-b", str(oci.bundle), "c1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 5
    assert oci.status("c1") == "stopped"


def test_detached(oci: Oci) -> None:
    with open(oci.bundle / "output", "wb") as output:
        subprocess.run(
            oci.command("run", "-d", "-b", str(oci.bundle), "c1"), stdin=subprocess.DEVNULL, stdout=output, check=True
        )
    assert oci.status("c1") == "running"
    oci("delete", "--force", "c1")
    oci("delete", "--force", "c1")  # nothing there is fine with --force


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_errors_of_create_are_told_and_leave_nothing(oci: Oci, command: list[str], code: int, text: str) -> None:
    oci.write({**oci.spec, "process": {**oci.spec["process"], "args": command}})
    for operation in ("create", "run"):
        done = oci(operation, "-b", str(oci.bundle), "c1", check=False)
        assert (done.returncode, done.stderr) == (code, f"corten-oci: {text}\n")
    last = oci.messages()[-1]
    assert (last["level"], last["msg"]) == ("error", text)
    assert oci("list", "-q").stdout == ""
    assert not (oci.root / "c1").exists()


def test_errors_of_the_execution_itself_are_told_by_start(oci: Oci) -> None:
    bad = Path(oci.spec["root"]["path"]) / "bin/bad"
    bad.write_text("\0\0\0")
    bad.chmod(0o755)
    oci.write({**oci.spec, "process": {**oci.spec["process"], "args": ["bad"]}})
    oci.create("c1")
    done = oci("start", "c1", check=False)
    assert (done.returncode, done.stderr) == (126, "corten-oci: exec /bin/bad: exec format error\n")
    assert oci.status("c1") == "stopped"


def test_init_that_is_killed_before_start(oci: Oci) -> None:
    oci.create("c1")
    oci("kill", "c1", "KILL")
    oci.wait_for("c1", "stopped")
    assert "cannot start a container in the stopped state" in oci("start", "c1", check=False).stderr


def test_changes_of_the_bundle_after_create_have_no_effect(oci: Oci) -> None:
    record = oci.bundle / "record"
    oci.write({**oci.spec, "hooks": {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {record}"]}]}})
    oci.create("c1")
    (oci.bundle / "config.json").write_text("{}")
    oci("start", "c1")
    assert oci("exec", "c1", "hostname").stdout == "inside\n"
    oci("delete", "-f", "c1")
    state = json.loads(record.read_text())
    assert (state["id"], state["status"], state["bundle"]) == ("c1", "stopped", str(oci.bundle))


def test_failing_hooks(oci: Oci) -> None:
    oci.write({**oci.spec, "hooks": {"poststart": [{"path": "/bin/false"}], "poststop": [{"path": "/bin/false"}]}})
    oci.create("c1")
    done = oci("start", "c1", check=False)
    assert "poststart hook #0 (/bin/false) failed" in done.stderr
    oci.wait_for("c1", "stopped")
    oci("delete", "c1")  # a failing poststop is told and does not stop the deletion
    assert "poststop hook #0" in oci.messages()[-1]["msg"]
    assert oci.messages()[-1]["level"] == "warning"


# -- exec -------------------------------------------------------------------------------------------------------------


def test_exec(oci: Oci) -> None:
    oci.create("c1")
    oci("start", "c1")
    done = oci(
        "exec",
        "-e",
        "A=b",
        "--cwd",
        "/tmp",
        "-u",
        "1000:50",
        "c1",
        "--",
        "sh",
        "-c",
        "id; pwd; echo $A; exit 9",
        check=False,
    )
    assert done.returncode == 9
    assert done.stdout.splitlines() == ["uid=1000(bob) gid=50(extra) groups=50(extra)", "/tmp", "b"]
    assert oci("exec", "-g", "7", "c1", "id", "-G").stdout == "0 7\n"
    status = oci("exec", "--cap", "CAP_SYS_ADMIN", "--no-new-privs", "c1", "cat", "/proc/self/status").stdout
    assert "CapBnd:\t00000000a82425fb" in status
    assert "NoNewPrivs:\t1" in status
    for command, code in (("nosuch", 127), ("/etc", 126)):
        assert oci("exec", "c1", command, check=False).returncode == code
    assert oci("exec", "c1", check=False).stderr == "corten-oci: process args cannot be empty\n"
    assert "numbers are needed" in oci("exec", "-u", "bob", "c1", "id", check=False).stderr


def test_exec_of_a_process_document_detached(oci: Oci) -> None:
    oci.create("c1")
    oci("start", "c1")
    process = {**oci.spec["process"], "args": ["sleep", "61"]}
    (oci.bundle / "process.json").write_text(json.dumps(process))
    pid_file = oci.bundle / "exec.pid"
    words = oci.command("exec", "-d", "--process", str(oci.bundle / "process.json"), "--pid-file", str(pid_file), "c1")
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0061\0"
    assert pid in json.loads(oci("ps", "-f", "json", "c1").stdout)
    table = oci("ps", "c1").stdout
    assert table.splitlines()[0].split() == ["PID", "CMD"]
    assert "sleep 61" in table


def test_exec_in_states(oci: Oci) -> None:
    oci.create("c1")
    assert oci("exec", "c1", "echo", "early").stdout == "early\n"
    oci("start", "c1")
    oci("pause", "c1")
    assert oci.status("c1") == "paused"
    assert "cannot exec a container in the paused state" in oci("exec", "c1", "true", check=False).stderr
    assert "cannot pause a container in the paused state" in oci("pause", "c1", check=False).stderr
    oci("resume", "c1")
    assert oci("exec", "c1", "echo", "late").stdout == "late\n"
    assert "cannot resume a container in the running state" in oci("resume", "c1", check=False).stderr
    oci("pause", "c1")
    oci("delete", "-f", "c1")


# -- terminals --------------------------------------------------------------------------------------------------------


def console_of(oci: Oci, *arguments: str) -> int:
    """The pty that a command sends to a console socket."""
    path = str(oci.bundle / "console.sock")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(1)
        listening.settimeout(10)
        with subprocess.Popen(
            oci.command(arguments[0], "--console-socket", path, *arguments[1:]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            connection, _ = listening.accept()
            with connection:
                _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
            assert process.wait(10) == 0, process.stderr and process.stderr.read()
    numbers = array.array("i")
    numbers.frombytes(ancillary[0][2])
    return numbers[0]


def test_console_sockets(oci: Oci) -> None:
    script(
        oci, "tty; stty size; read -r x; echo got $x; sleep 60", terminal=True, consoleSize={"height": 9, "width": 8}
    )
    master = console_of(oci, "create", "-b", str(oci.bundle), "c1")
    oci("start", "c1")
    assert "/dev/pts/0\n9 8\n" in read_terminal(master, lambda text: "9 8\r\n" in text)
    os.write(master, b"word\n")
    assert "got word" in read_terminal(master, lambda text: "got word" in text)
    second = console_of(oci, "exec", "-d", "-t", "c1", "tty")
    assert read_terminal(second) == "/dev/pts/1\n"
    for descriptor in (master, second):
        os.close(descriptor)


def test_terminal_in_the_foreground(oci: Oci) -> None:
    import pty

    script(oci, "tty; stty size; read -r x; echo got $x; exit 6", terminal=True)
    pid, master = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, *oci.command("run", "-b", str(oci.bundle), "c1")])
    read_terminal(master, lambda text: "/dev/pts/0" in text)
    os.write(master, b"word\n")
    assert "got word" in read_terminal(master)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
    os.close(master)


@pytest.mark.parametrize(
    ("terminal", "arguments", "text"),
    [
        (True, ["create"], "cannot allocate tty if corten-oci will detach without setting console socket"),
        (True, ["run", "-d"], "cannot allocate tty if corten-oci will detach without setting console socket"),
        (False, ["create", "--console-socket", "/x"], "cannot use console socket"),
        (True, ["run", "--console-socket", "/x"], "cannot use console socket"),
    ],
)
def test_consoles_that_do_not_fit(oci: Oci, terminal: bool, arguments: list[str], text: str) -> None:
    script(oci, "true", terminal=terminal)
    done = oci(*arguments, "-b", str(oci.bundle), "c1", check=False)
    assert done.returncode == 1
    assert text in done.stderr


# -- limits, lists, the rest ------------------------------------------------------------------------------------------


@pytest.mark.needs("cgroup1")
def test_update_and_events(oci: Oci) -> None:
    oci.create("c1")
    group = f"/sys/fs/cgroup/{{}}{oci.spec['linux']['cgroupsPath']}/{{}}"

    def value(controller: str, name: str) -> str:
        return Path(group.format(controller, name)).read_text().strip()

    oci("update", "--memory", "64m", "--memory-swap", "96m", "--cpu-share", "512", "--pids-limit", "77", "c1")
    assert value("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert (value("cpu", "cpu.shares"), value("pids", "pids.max")) == ("512", "77")
    resources = {"cpu": {"quota": 50000, "period": 100000, "shares": 0}, "devices": [{"allow": False, "access": "rwm"}]}
    oci("update", "-r", "-", "c1", stdin=None, input=json.dumps(resources))
    assert (value("cpu", "cpu.cfs_quota_us"), value("cpu", "cpu.shares")) == ("50000", "512")
    assert "c 1:3 rwm" in value("devices", "devices.list")
    (oci.bundle / "r.json").write_text(json.dumps({"pids": {"limit": "x"}}))
    done = oci("update", "-r", str(oci.bundle / "r.json"), "c1", check=False)
    assert "linux.resources.pids.limit must be a whole number" in done.stderr
    event = json.loads(oci("events", "--stats", "c1").stdout)
    assert (event["type"], event["id"]) == ("stats", "c1")
    memory = event["data"]["memory"]
    assert memory["usage"]["limit"] == 64 << 20
    assert memory["swap"]["limit"] == 96 << 20
    assert 0 < memory["usage"]["usage"] <= memory["swap"]["usage"] <= memory["swap"]["max"]
    assert event["data"]["pids"] == {"current": 1, "limit": 77}


def test_events_end_with_the_container(oci: Oci) -> None:
    oci.create("c1")
    oci("start", "c1")
    words = oci.command("events", "--interval", "50ms", "c1")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["type"] == "stats"
        oci("kill", "c1", "KILL")
        process.communicate(timeout=10)
        assert process.returncode == 0


def test_lists(oci: Oci) -> None:
    assert oci("list").stdout.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    oci.create("c1")
    (document,) = json.loads(oci("list", "-f", "json").stdout)
    assert (document["id"], document["status"], document["owner"]) == ("c1", "created", "root")
    row = oci("list").stdout.splitlines()[1].split()
    assert row[:3] == ["c1", str(document["pid"]), "created"]


def test_ps_with_options_of_its_own(oci: Oci) -> None:
    script(oci, "sleep 61 & sleep 62; true")
    oci.create("c1")
    oci("start", "c1")
    deadline = time.monotonic() + 10
    while len(json.loads(oci("ps", "-f", "json", "c1").stdout)) != 3:
        assert time.monotonic() < deadline
    title, *lines = oci("ps", "c1", "-o", "pid,args", "-e").stdout.splitlines()
    assert title.split() == ["PID", "COMMAND"]
    assert sorted(line.split(maxsplit=1)[1] for line in lines) == [
        "sh -c sleep 61 & sleep 62; true",
        "sleep 61",
        "sleep 62",
    ]
    assert oci("ps", "c1", "-o", "args", check=False).stderr == "corten-oci: ps -o args: it does not tell the PID\n"
    refused = oci("ps", "c1", "--nonsense", check=False)
    assert (refused.returncode, refused.stderr.startswith("corten-oci: ps --nonsense: ")) == (1, True)


def test_exec_in_a_group_below(oci: Oci) -> None:
    oci.create("c1")
    oci("start", "c1")
    groups = [path for path in Path("/sys/fs/cgroup").glob(f"*{oci.spec['linux']['cgroupsPath']}") if path.is_dir()]
    for group in groups:
        (group / "below").mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (group / name).exists() and (group / name).read_text().strip():
                (group / "below" / name).write_text((group / name).read_text())
    pid_file = oci.bundle / "pid"
    words = oci.command("exec", "--cgroup", "below", "-d", "--pid-file", str(pid_file), "c1", "sleep", "60")
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    pid = pid_file.read_text()
    assert all(pid in (group / "below/cgroup.procs").read_text().split() for group in groups)
    for below, text in (("nowhere", "--cgroup nowhere: there is no /sys/fs/cgroup/"), ("../x", "invalid cgroup path")):
        refused = oci("exec", "--cgroup", below, "c1", "true", check=False)
        assert (refused.returncode, text in refused.stderr) == (1, True)


@pytest.mark.needs("userns")
def test_a_specification_for_who_is_root_of_a_user_namespace_only(oci: Oci) -> None:
    (oci.bundle / "config.json").unlink()
    words = oci.command("run", "-b", str(oci.bundle), "c1")
    change = (
        "import json, sys; spec = json.load(open(sys.argv[1]));"
        " spec['process'].update(terminal=False, args=['id', '-u'])"
    )
    text = f"{change}; spec['root']['path'] = sys.argv[2]; json.dump(spec, open(sys.argv[1], 'w'))"
    done = subprocess.run(
        [
            *("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"),
            '"$1" spec --rootless -b "$2"; "$3" -c "$4" "$2/config.json" "$5"; shift 5; exec "$@"',
            *("sh", words[0], str(oci.bundle), sys.executable, text, oci.spec["root"]["path"], *words),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_ids(oci: Oci) -> None:
    oci.create("c1")
    assert "container with id exists: c1" in oci("create", "-b", str(oci.bundle), "c1", check=False).stderr
    for name in ("../x", "a/b", "..", "a b"):
        assert "invalid container id format" in oci("create", "-b", str(oci.bundle), name, check=False).stderr
        assert oci("state", name, check=False).returncode == 1
    assert sorted(os.listdir(oci.root)) == [".seccomp", "c1"]


def test_a_bundle_of_runcs(oci: Oci) -> None:
    """What "runc spec" writes runs, and gives what it gives under runc."""
    if shutil.which("runc") is None:
        pytest.skip("this machine lacks: runc")
    (oci.bundle / "config.json").unlink()
    subprocess.run(["runc", "spec"], cwd=oci.bundle, check=True)
    spec = json.loads((oci.bundle / "config.json").read_text())
    spec["root"] = oci.spec["root"]
    spec["linux"]["cgroupsPath"] = oci.spec["linux"]["cgroupsPath"]
    spec["process"].update(terminal=False, args=["grep", "Cap", "/proc/self/status"])
    oci.write(spec)
    done = oci("run", "-b", str(oci.bundle), "c1")
    assert "CapBnd:\t0000000020000420" in done.stdout
    assert "CapAmb:\t0000000000000000" in done.stdout
    assert [message for message in oci.messages() if "cannot be ambient" in message["msg"]]


def test_bad_specifications(oci: Oci) -> None:
    for content, text in (
        ("{", "invalid JSON"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({**oci.spec, "hostname": "\ud800"}), "surrogates"),
        ("[]", "the document must be an object"),
        (json.dumps({**oci.spec, "ociVersion": "3.0"}), "ociVersion: 3.0 is not supported"),
        (json.dumps({**oci.spec, "root": {"path": "nope"}}), "root.path: .*/nope does not exist"),
    ):
        (oci.bundle / "config.json").write_text(content)
        done = oci("run", "-b", str(oci.bundle), "c1", check=False)
        assert done.returncode == 1
        assert re.search(text, done.stderr), done.stderr
        assert done.stderr.count("\n") == 1
    assert "config.json not found" in oci("run", "-b", "/nope", "c1", check=False).stderr
    assert oci("list", "-q").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["create", "--no-pivot", "c1"], "--no-pivot is not supported"),
        (["--rootless=true", "list"], "--rootless=true is not the case"),
        (["create", "--preserve-fds", "100", "c1"], "cannot be preserved: it is not open"),
        (["kill", "c1", "NOPE"], "container does not exist"),
    ],
)
def test_what_is_not_supported_is_refused(oci: Oci, arguments: list[str], text: str) -> None:
    done = oci(*arguments, check=False, cwd=str(oci.bundle))
    assert done.returncode == 1
    assert text in done.stderr


def test_descriptors_are_preserved_and_no_others(oci: Oci) -> None:
    script(oci, "cat <&3; ls /proc/self/fd")
    words = oci.command("run", "--preserve-fds", "1", "-b", str(oci.bundle), "c1")
    done = subprocess.run(
        ["sh", "-c", 'exec 3<&0 </dev/null; exec "$@"', "sh", *words],
        input="passed\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["passed", "0", "1", "2", "3", "4"]  # 4 is the directory that ls itself reads


def test_streams_that_the_caller_has_closed_are_the_null_device(oci: Oci) -> None:
    oci.write(oci.spec | {"process": oci.spec["process"] | {"args": ["sleep", "60"]}})
    words = shlex.join(oci.command("create", "-b", str(oci.bundle), "c1"))
    done = subprocess.run(["sh", "-c", f"{words} <&- >&- 2>&-"], timeout=30, check=False)
    assert done.returncode == 0
    pid = oci.state("c1")["pid"]
    streams = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in ("0", "1", "2")}
    assert streams == dict.fromkeys(("0", "1", "2"), "/dev/null")
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        words = shlex.join(oci.command("list"))
        done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    oci("delete", "-f", "c1")


def test_spec_features_and_version(oci: Oci, tmp_path: Path) -> None:
    oci("spec", "-b", str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["sh"]
    assert "exists: remove it first" in oci("spec", "-b", str(tmp_path), check=False).stderr
    features = json.loads(oci("features").stdout)
    assert features["linux"]["cgroup"]["systemd"] is True
    assert {"rro", "idmap", "tmpcopyup"} <= set(features["mountOptions"])
    assert "corten-oci version" in oci("--version").stdout


def test_debug_tells_how_long_each_step_took(oci: Oci) -> None:
    words = oci.command("--debug", "create", "-b", str(oci.bundle), "c1")
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    steps = [message["msg"].partition(":")[0] for message in oci.messages() if message["level"] == "debug"]
    assert {"mounts", "pivot root", "privileges"} <= set(steps)


def test_two_starts_at_once(oci: Oci) -> None:
    oci.create("c1")
    both = [subprocess.Popen(oci.command("start", "c1"), stderr=subprocess.DEVNULL) for _ in range(2)]
    assert sorted(process.wait(10) for process in both) == [0, 1]
    assert oci.status("c1") == "running"


def test_a_create_that_is_killed_can_be_cleared_away(oci: Oci) -> None:
    (oci.root / "c1").mkdir(parents=True)  # what is there before anything else
    assert "container with id exists" in oci("create", "-b", str(oci.bundle), "c1", check=False).stderr
    assert oci("delete", "c1", check=False).returncode == 1
    oci("delete", "-f", "c1")
    oci.create("c1")

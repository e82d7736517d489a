"""An ordinary user under systemd, on version 2: the control groups that it is given limit its containers for real."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from guest import Done, Guest, lacking

pytestmark = pytest.mark.timeout(1200)

UID = 1500
RUNTIME = f"/run/user/{UID}"
ENVIRONMENT = {
    "PATH": "/corten/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/home/tester",
    "XDG_RUNTIME_DIR": RUNTIME,
    "DBUS_SESSION_BUS_ADDRESS": f"unix:path={RUNTIME}/bus",
}
ACCOUNT = f"""
modprobe -a overlay tun fuse
useradd --create-home --uid {UID} --shell /bin/sh tester
echo tester:300000:65536 | tee /etc/subuid > /etc/subgid
mkdir -p /state/image/bin /state/image/tmp
cp /bin/busybox /state/image/bin/
for name in sh sleep cat echo true tail head dd wc; do ln -s busybox /state/image/bin/$name; done
tar -C /state/image -cf /state/image.tar .
"""
THERE = f"""
for i in $(seq 900); do systemctl -q is-active user@{UID} && [ -S {RUNTIME}/bus ] && break; sleep 0.1; done
systemctl is-active user@{UID}.service
"""
LINGER = f"""
loginctl enable-linger tester
{THERE}"""
# controllers are given to a service when it starts; the empty assignment takes back what the service's own file has
DELEGATION = """
systemctl stop user@{uid}.service
mkdir -p /etc/systemd/system/user@.service.d
printf '[Service]\\nDelegate=\\nDelegate={controllers}\\n' > /etc/systemd/system/user@.service.d/delegate.conf
systemctl daemon-reload
systemctl start user@{uid}.service
"""
# the daemon is a process outside of its namespaces and one inside, which listens: the outer one is told
END_DAEMON = """
import os, signal, socket, struct, sys, time
connection = socket.socket(socket.AF_UNIX)
try:
    connection.connect(sys.argv[1])
except OSError:
    sys.exit()
inner = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
outer = int(open(f"/proc/{inner}/stat").read().rpartition(")")[2].split()[1])
os.kill(outer, signal.SIGTERM)
while any(os.path.exists(f"/proc/{pid}") for pid in (inner, outer)):
    time.sleep(0.1)
"""
BOMB = "i=0; while [ $i -lt 40 ]; do sleep 30 & i=$((i + 1)); done 2>&1"


class User:
    """The user's own words in the guest."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def sh(self, script: str, *, check: bool = True) -> Done:
        command = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--init-groups", "/bin/sh", "-euc", script]
        return self.guest.run(*command, cwd="/home/tester", env=ENVIRONMENT, check=check, timeout=180)

    def corten(self, *words: str, check: bool = True) -> str:
        quoted = " ".join(f"'{word}'" for word in words)
        return self.sh(f"corten {quoted}", check=check).output

    def inspect(self, name: str) -> dict:
        return json.loads(self.corten("inspect", name))[0]

    def group(self, name: str) -> str:
        """Directory of a container's group."""
        pid = self.inspect(name)["State"]["Pid"]
        path = self.guest.run("cat", f"/proc/{pid}/cgroup").output.strip().removeprefix("0::")
        return f"/sys/fs/cgroup{path}"

    @property
    def log(self) -> str:
        """What the daemon has said."""
        return self.sh("cat ~/.local/share/corten/cortend.log", check=False).output

    def end_daemon(self) -> None:
        self.guest.run("/corten/venv/bin/python", "-c", END_DAEMON, f"{RUNTIME}/corten/corten.sock")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    if reason := lacking():
        pytest.skip(f"this machine lacks: {reason}")
    with Guest(tmp_path_factory.mktemp("users"), init=Guest.SYSTEMD) as made:
        made.sh(ACCOUNT)
        made.sh(LINGER, timeout=240)
        yield made


def delegated(guest: Guest, controllers: str) -> Iterator[User]:
    given = guest.sh("cat /etc/systemd/system/user@.service.d/delegate.conf", check=False).output
    if f"Delegate={controllers}\n" not in given:
        guest.sh(DELEGATION.format(uid=UID, controllers=controllers) + THERE, timeout=240)
    made = User(guest)
    yield made
    made.sh("for id in $(corten ps -aq); do corten rm -f $id; done", check=False)
    made.end_daemon()


@pytest.fixture
def user(guest: Guest) -> Iterator[User]:
    yield from delegated(guest, "cpu cpuset io memory pids")


@pytest.fixture
def poor_user(guest: Guest) -> Iterator[User]:
    """With what systemd before 250 gives by itself; later ones add cpu."""
    yield from delegated(guest, "memory pids")


def test_what_systemd_does_not_delegate_is_refused_or_told(poor_user: User) -> None:
    """Memory and pids limit, and no other seems to."""
    user = poor_user
    info = json.loads(user.corten("info", "--format", "{{json .}}"))
    names = ("MemoryLimit", "PidsLimit", "CpuCfsQuota", "CPUShares", "CPUSet")
    assert [info[name] for name in names] == [True, True, False, False, False], user.log
    missing = {"cpu cfs quota", "cpu shares", "cpuset", "io.weight", "io.max"}
    assert missing <= {text.removeprefix("WARNING: No ").removesuffix(" support") for text in info["Warnings"]}
    user.corten("import", "/state/image.tar", "box")
    user.corten("run", "-d", "--name", "box", "-m", "64m", "--pids-limit", "20", "box", "sleep", "600")
    group = user.group("box")
    assert user.guest.sh(f"cd {group}; cat memory.max pids.max").output.split() == [str(64 << 20), "20"]
    refused = "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted"
    for words in ("run --rm --cpus 0.5 box true", "update --cpus 0.5 box"):
        done = user.sh(f"corten {words} 2>&1", check=False)
        assert (done.code != 0, refused in done.output) == (True, True), done.output
    weaker = {
        "--cpu-shares 512": "CPU shares",
        "--cpu-quota 50000": "CPU CFS period/quota",
        "--cpuset-cpus 0": "cpuset",
        "--blkio-weight 100": "Block I/O weight",
        "--device-read-bps /dev/vda:1mb": "BPS Block I/O read limit",
    }
    said = user.sh(f"corten run --rm {' '.join(weaker)} box true 2>&1").output
    for words in weaker.values():
        assert f"Your kernel does not support {words} or the cgroup is not mounted." in said


def limits_are_real(user: User) -> str:
    """What is asked for is in the kernel's files, and holds; returns the directory of the container's group."""
    info = json.loads(user.corten("info", "--format", "{{json .}}"))
    assert (info["CgroupVersion"], info["MemoryLimit"], info["PidsLimit"], info["CpuCfsQuota"]) == (
        "2",
        True,
        True,
        True,
    ), user.log
    assert "name=rootless" in info["SecurityOptions"]
    user.corten("run", "-d", "--name", "box", "-m", "64m", "--cpus", "0.5", "--pids-limit", "20", "box", "sleep", "600")
    group = user.group("box")
    files = user.guest.sh(f"cd {group}; cat memory.max cpu.max pids.max; stat -c %u .").output.split()
    assert files == [str(64 << 20), "50000", "100000", "20", str(UID)]
    hog = user.corten("run", "--name", "hog", "-m", "24m", "box", "tail", "/dev/zero", check=False)
    state = user.inspect("hog")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (137, True), hog
    said = user.sh(f"corten run --rm --pids-limit 20 box sh -c '{BOMB}' 2>&1", check=False).output
    assert "can't fork" in said
    user.corten("pause", "box")
    assert "frozen 1" in user.guest.run("cat", f"{group}/cgroup.events").output
    user.corten("unpause", "box")
    user.corten("update", "-m", "96m", "box")
    assert user.guest.run("cat", f"{group}/memory.max").output.strip() == str(96 << 20)
    shown = user.corten("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "box")
    assert "96MiB" in shown
    return group


def test_a_daemon_that_a_command_has_started(user: User) -> None:
    """It asks the user's systemd for a scope."""
    user.corten("import", "/state/image.tar", "box")
    group = limits_are_real(user)
    assert group.startswith(f"/sys/fs/cgroup/user.slice/user-{UID}.slice/user@{UID}.service/")
    assert "/corten-" in group
    # containers outlive the daemon, and the next one limits them still
    user.end_daemon()
    user.corten("update", "--pids-limit", "30", "box")
    assert user.guest.run("cat", f"{group}/pids.max").output.strip() == "30"
    done = user.sh("corten run --rm -m 32m box true 2>&1", check=False)
    assert done.code == 0, f"{done.output}\n{user.log}"


def test_a_service_of_the_users(user: User) -> None:
    user.sh("systemd-run --user --unit mine -p Delegate=yes -p KillMode=process /corten/venv/bin/cortend")
    user.sh("for i in $(seq 300); do corten version > /dev/null 2>&1 && break; sleep 0.2; done")
    try:
        user.corten("import", "/state/image.tar", "box")
        assert "/mine.service/" in limits_are_real(user)
        user.sh("for id in $(corten ps -aq); do corten rm -f $id; done")
    finally:
        user.sh("systemctl --user stop mine", check=False)


def test_nothing_of_it_reaches_another_user(user: User) -> None:
    """Groups, sockets and files are the user's own."""
    user.corten("import", "/state/image.tar", "box")
    user.corten("run", "-d", "--name", "box", "box", "sleep", "600")
    group = user.group("box")
    tried = user.guest.run(
        "setpriv", "--reuid", "1501", "--regid", "1501", "--clear-groups", "/bin/sh", "-c",
        f"echo 1 > {group}/cgroup.kill; echo 5 > {group}/pids.max;"
        f"ls {RUNTIME}; ls /home/tester/.local/share/corten; echo tried",
        check=False,
    ).output  # fmt: skip
    assert tried.splitlines()[-1] == "tried"
    assert tried.lower().count("permission denied") == 4, tried
    assert user.inspect("box")["State"]["Running"]

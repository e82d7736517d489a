"""Reboots, power cuts and systemd: what a daemon has written is whole, and what it should start is started."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from guest import Guest, lacking

pytestmark = pytest.mark.timeout(900)

SOCKET = "unix:///run/corten.sock"
FLAGS = f"--data-root /state/corten --exec-root /run/corten -H {SOCKET} --pidfile /run/cortend.pid"
ENVIRONMENT = {"CORTEN_HOST": SOCKET, "PATH": "/corten/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
UNIT = f"""
[Service]
ExecStart=/corten/venv/bin/cortend {FLAGS}
Delegate=yes
KillMode=process
LimitNOFILE=524288
"""
MAKE_IMAGE = """
mkdir -p /tmp/image/bin /tmp/image/tmp
cp /bin/busybox /tmp/image/bin/
for name in sh sleep cat echo true; do ln -s busybox /tmp/image/bin/$name; done
tar -C /tmp/image -cf /tmp/image.tar .
corten import /tmp/image.tar box
"""
OCI_BUNDLE = """
mkdir /tmp/bundle
corten-oci spec -b /tmp/bundle
python3 - << EOF
import json
spec = json.load(open("/tmp/bundle/config.json"))
spec["root"] = {"path": "/tmp/image"}
spec["process"].update(terminal=False, args=["sleep", "1000"])
spec["linux"]["cgroupsPath"] = "a-b.slice:test:oci1"
json.dump(spec, open("/tmp/bundle/config.json", "w"))
EOF
"""
# what a loop of a client does; a name is told when the daemon has answered
BUSY = """
number=0
while :; do
    number=$((number + 1))
    corten create --name c$number -v v$number:/data box sh -c 'echo $0 > /data/f' > /dev/null && echo made c$number
    corten start c$number > /dev/null && echo started c$number
    [ $((number % 3)) != 0 ] || { corten rm -f -v c$number > /dev/null && echo removed c$number; }
done
"""
CHECK = """
import json, os, sqlite3, sys
found = {}
for name in ("corten.db", "images.db"):
    found[name] = sqlite3.connect(f"/state/corten/{name}").execute("PRAGMA integrity_check").fetchone()[0]
found["layers"] = sorted(name for name in os.listdir("/state/corten/overlay2") if len(name) >= 64)
found["containers"] = sorted(os.listdir("/state/corten/containers"))
print(json.dumps(found))
"""


class Machine:
    """A guest with a daemon, driven through the corten command."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def start_daemon(self) -> None:
        if self.guest.facts["init"] == "systemd":
            self.sh(f"printf '%s' '{UNIT}' > /run/systemd/system/cortend.service; systemctl daemon-reload")
            self.sh("systemctl start cortend")
        else:
            self.sh(f"setsid cortend {FLAGS} >> /state/cortend.log 2>&1 < /dev/null &")
        done = self.guest.sh(
            "tries=0; until corten version > /dev/null 2>&1; do tries=$((tries + 1)); [ $tries -lt 150 ]; done",
            env=ENVIRONMENT, timeout=300, check=False,
        )  # fmt: skip
        if done.code:
            log = self.guest.sh("journalctl -u cortend 2>&1 | tail -n 30; tail -n 60 /state/cortend.log", check=False)
            pytest.fail(f"the daemon does not answer:\n{log.output}")

    def sh(self, script: str, **options: object) -> str:
        return self.guest.sh(script, env=ENVIRONMENT, **options).output

    def corten(self, *words: str, **options: object) -> str:
        return self.guest.run("corten", *words, env=ENVIRONMENT, **options).output

    def inspect(self, name: str) -> dict:
        return json.loads(self.corten("inspect", name))[0]

    def statuses(self, *names: str) -> dict[str, str]:
        """Status of each, once none waits for its restart any more."""
        deadline = time.monotonic() + 60
        while True:
            found = {name: self.inspect(name)["State"]["Status"] for name in names}
            if "restarting" not in found.values() or time.monotonic() > deadline:
                return found

    def whole(self) -> dict:
        found = json.loads(self.guest.run("/corten/venv/bin/python", "-c", CHECK).output)
        assert (found["corten.db"], found["images.db"]) == ("ok", "ok")
        return found


@pytest.fixture
def machine(tmp_path) -> Iterator[Machine]:
    if reason := lacking():
        pytest.skip(f"this machine lacks: {reason}")
    with Guest(tmp_path / "guest") as guest:
        made = Machine(guest)
        made.start_daemon()
        made.sh(MAKE_IMAGE)
        yield made


def test_what_was_there_is_there_after_a_power_cut(machine: Machine) -> None:
    machine.corten("run", "-d", "--name", "always", "--restart", "always", "box", "sleep", "1000")
    machine.corten("run", "-d", "--name", "once", "box", "sleep", "1000")
    machine.corten(
        "run", "--name", "done", "-v", "kept:/data", "box", "sh", "-c", "echo data > /data/f; exit 3", check=False
    )
    machine.corten("create", "--name", "new", "box", "true")
    before = {name: machine.inspect(name) for name in ("always", "once", "done", "new")}
    machine.sh("sync")
    machine.guest.power_cut()

    machine.guest.boot()
    machine.start_daemon()
    statuses = machine.statuses(*before)
    assert statuses == {"always": "running", "once": "exited", "done": "exited", "new": "created"}
    after = {name: machine.inspect(name) for name in before}
    assert {name: row["Id"] for name, row in after.items()} == {name: row["Id"] for name, row in before.items()}
    # the exit of a container that ran is unknown: 255, as dockerd has it
    codes = {name: row["State"]["ExitCode"] for name, row in after.items()}
    assert codes == {"always": 0, "once": 255, "done": 3, "new": 0}
    assert machine.corten("run", "--rm", "-v", "kept:/data", "box", "cat", "/data/f") == "data\n"
    machine.corten("start", "once", "new")
    assert machine.inspect("once")["State"]["Running"]
    assert set(machine.whole()["containers"]) == {row["Id"] for row in after.values()}
    machine.corten("rm", "-f", "always", "once", "done", "new")
    assert machine.whole()["containers"] == []


@pytest.mark.parametrize("seconds", [4, 9, 15])
def test_a_power_cut_in_the_midst_leaves_nothing_by_halves(machine: Machine, seconds: int) -> None:
    """What the last seconds brought may be lost; what is left is usable, and nothing lies about."""
    clean = machine.whole()
    machine.corten("create", "--name", "old", "box", "true")
    machine.sh("sync")
    machine.sh(f"(set +e; {BUSY}) > /state/told 2>&1 < /dev/null &")
    time.sleep(seconds)  # the power fails while the client is at it
    machine.guest.power_cut()

    machine.guest.boot()
    machine.start_daemon()
    listed = machine.corten("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}}").split()
    known = dict(zip(listed[1::2], listed[::2], strict=True))
    assert "old" in known
    whole = machine.whole()
    assert set(whole["containers"]) == set(known.values())
    assert {name.removesuffix("-init") for name in whole["layers"]} == {*clean["layers"], *known.values()}
    for name in known:
        machine.corten("start", name)
        assert machine.inspect(name)["State"]["Error"] == ""
    machine.corten("rm", "-f", "-v", *known)
    assert machine.corten("run", "--rm", "box", "echo", "whole") == "whole\n"


@pytest.fixture(scope="module")
def under_systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if reason := lacking():
        pytest.skip(f"this machine lacks: {reason}")
    with Guest(tmp_path_factory.mktemp("systemd"), init=Guest.SYSTEMD) as guest:
        made = Machine(guest)
        made.start_daemon()
        made.sh(MAKE_IMAGE)
        yield made


def test_systemd_leaves_our_groups_alone(under_systemd: Machine) -> None:
    """Its own reloads and restarts change nothing of a container's limits."""
    machine = under_systemd
    assert machine.guest.facts["init"] == "systemd"
    limits = (
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "20",
        "--cpuset-cpus",
        "0",
        "--device-read-bps",
        "/dev/vda:1mb",
    )
    machine.corten("run", "-d", "--name", "limited", *limits, "box", "sleep", "1000")
    identifier = machine.inspect("limited")["Id"]
    look = f"cd /sys/fs/cgroup/corten/{identifier}; cat memory.max cpu.max pids.max cpuset.cpus io.max cgroup.procs"
    before = machine.sh(look)
    assert before.split()[:5] == [str(64 << 20), "50000", "100000", "20", "0"]
    machine.sh("systemctl daemon-reload; systemctl restart systemd-journald; systemctl daemon-reexec")
    assert machine.sh(look) == before
    machine.corten("update", "-m", "96m", "limited")
    assert machine.sh(look).split()[0] == str(96 << 20)
    machine.corten("rm", "-f", "limited")


def test_systemd_makes_the_groups_where_it_is_asked_to(under_systemd: Machine) -> None:
    """Scopes with the limits as their properties; the same for corten-oci as its callers call it."""
    machine = under_systemd
    machine.sh("systemctl stop cortend")
    flags = "--data-root /state/corten --exec-root /run/corten --exec-opt native.cgroupdriver=systemd"
    machine.sh(f"setsid cortend {flags} -H {SOCKET} > /state/systemd.log 2>&1 < /dev/null & echo $! > /run/second.pid")
    machine.sh("until corten version > /dev/null 2>&1; do :; done", timeout=120)
    assert machine.corten("info", "--format", "{{.CgroupDriver}}") == "systemd\n"
    limits = (
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "20",
        "--cpuset-cpus",
        "0",
        "--device-read-bps",
        "/dev/vda:1mb",
    )
    machine.corten("run", "-d", "--name", "limited", *limits, "box", "sleep", "1000")
    unit = f"corten-{machine.inspect('limited')['Id']}.scope"
    look = f"cd /sys/fs/cgroup/system.slice/{unit}; cat memory.max cpu.max pids.max cpuset.cpus io.max cgroup.procs"
    before = machine.sh(look)
    pid = machine.inspect("limited")["State"]["Pid"]
    assert before.split() == [str(64 << 20), "50000", "100000", "20", "0", *before.split()[5:-1], str(pid)]
    assert "rbps=1048576" in before
    shown = machine.sh(f"systemctl show {unit} -p MemoryMax -p TasksMax -p Slice -p Delegate")
    assert set(shown.split()) == {f"MemoryMax={64 << 20}", "TasksMax=20", "Slice=system.slice", "Delegate=yes"}
    machine.corten("update", "-m", "96m", "limited")
    assert f"MemoryMax={96 << 20}" in machine.sh(f"systemctl show {unit} -p MemoryMax")
    machine.sh("systemctl daemon-reload")
    after = machine.sh(look)
    assert after.replace(str(96 << 20), str(64 << 20), 1) == before
    assert machine.corten("exec", "limited", "cat", "/proc/self/cgroup", check=False)
    machine.corten("rm", "-f", "limited")
    wait = (
        f"for i in $(seq 100); do systemctl is-active -q {unit} || break; sleep 0.1; done; systemctl is-active {unit}"
    )
    assert machine.sh(wait, check=False) == "inactive\n"
    hog = machine.corten("run", "--name", "hog", "-m", "24m", "box", "busybox", "tail", "/dev/zero", check=False)
    assert (hog, machine.inspect("hog")["State"]["ExitCode"]) == ("", 137)
    assert "no such slice" not in machine.corten("run", "--rm", "--cgroup-parent", "a-b.slice", "box", "true")
    refused = machine.guest.run(
        "corten", "run", "--rm", "--cgroup-parent", "/x", "box", "true", env=ENVIRONMENT, check=False
    )
    assert refused.code == 125
    assert "should be a valid slice" in refused.output
    machine.corten("rm", "-f", "hog")
    machine.sh(OCI_BUNDLE)
    machine.sh("corten-oci --systemd-cgroup run -d -b /tmp/bundle oci1")
    pids = machine.sh("cat /sys/fs/cgroup/a.slice/a-b.slice/test-oci1.scope/cgroup.procs").split()
    assert pids == [str(json.loads(machine.sh("corten-oci state oci1"))["pid"])]
    machine.sh("corten-oci delete -f oci1; test ! -e /sys/fs/cgroup/a.slice/a-b.slice/test-oci1.scope")
    machine.sh("kill $(cat /run/second.pid); while kill -0 $(cat /run/second.pid) 2> /dev/null; do sleep 0.1; done")
    machine.start_daemon()


def test_containers_outlive_the_service(under_systemd: Machine) -> None:
    machine = under_systemd
    machine.corten("run", "-d", "--name", "stays", "box", "sleep", "1000")
    before = machine.inspect("stays")["State"]
    machine.sh("systemctl stop cortend")
    assert machine.sh(f"cat /proc/{before['Pid']}/comm") == "sleep\n"
    machine.start_daemon()
    after = machine.inspect("stays")["State"]
    assert (after["Running"], after["Pid"], after["StartedAt"]) == (True, before["Pid"], before["StartedAt"])
    machine.corten("rm", "-f", "stays")


def test_an_orderly_reboot(under_systemd: Machine) -> None:
    """systemd takes the machine down and up again: the policies say what runs."""
    machine = under_systemd
    for policy in ("always", "unless-stopped", "no"):
        machine.corten("run", "-d", "--name", policy, "--restart", policy, "box", "sleep", "1000")
    machine.corten("run", "-d", "--name", "stopped", "--restart", "unless-stopped", "box", "sleep", "1000")
    machine.corten("stop", "-t", "1", "stopped")
    machine.guest.shut_down()
    machine.guest.boot()
    machine.start_daemon()
    states = machine.statuses("always", "unless-stopped", "no", "stopped")
    assert states == {"always": "running", "unless-stopped": "running", "no": "exited", "stopped": "exited"}
    machine.corten("rm", "-f", *states)

"""The same commands of the same client against dockerd and against us: what people and scripts see is the same.

Ids, times and places on disk are masked; of errors the exit code and the words that tools look for count.  Where
newer dockerds do something else than Debian's (masks over /proc, wording), we do as they do, and it is left out here.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon, Dockerd, Engine

pytestmark = [pytest.mark.needs("docker", "dockerd", "busybox")]

MASKS = [
    (re.compile(r"sha256:[0-9a-f]{64}"), "<digest>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<short>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"), "<time>"),
    (re.compile(r"Less than a second|About a (minute|second)|\d+ (second|minute)s?"), "<ago>"),
    (re.compile(r" +"), " "),
    (re.compile(r"^\d+ sleep$", re.MULTILINE), "<pid> sleep"),
]


def masked(text: str) -> str:
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return text


def both(daemon: Daemon, dockerd: Dockerd, *words: str, **options: Any) -> tuple[Any, Any]:
    """(theirs, ours) of one command."""
    engines: tuple[Engine, Engine] = (dockerd, daemon)
    theirs, ours = (engine.docker(*words, check=False, **options) for engine in engines)
    return theirs, ours


@pytest.fixture
def pair(daemon: Daemon, dockerd: Dockerd):
    yield lambda *words, **options: both(daemon, dockerd, *words, **options)
    dockerd.remove_containers()


RUNS = [
    ["echo", "hello"],
    ["sh", "-c", "echo out; echo err >&2; exit 3"],
    ["cat", "/etc/hostname", "/nosuchfile"],
    ["nosuchcommand"],
    ["/etc/passwd"],
    ["/etc"],
    ["sh", "-c", "kill -9 $$"],
    ["sh", "-c", "kill -TERM $$; echo PID 1 ignores it"],
    ["id"],
    ["env"],
    ["pwd"],
    ["sh", "-c", "echo $$; ls /proc/1/fd"],
    ["sh", "-c", "umask; ulimit -c; ulimit -n"],
    ["sh", "-c", "grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status"],
    ["sh", "-c", "cat /proc/self/oom_score_adj; cat /proc/sys/kernel/shmmax"],
    ["sh", "-c", "ls -l /dev | awk '{print $1, $3, $4, $(NF-2), $(NF-1), $NF}' 2>/dev/null || ls /dev"],
    ["sh", "-c", "ls -ln /dev | cut -c 1-24; ls /dev"],
    ["sh", "-c", "ls -ld / /tmp /proc /sys /dev /dev/shm /dev/pts /dev/mqueue | cut -c 1-10"],
    ["sh", "-c", "grep -v ' /proc/' /proc/mounts | cut -d' ' -f 2,3 | sort"],
    [
        "sh",
        "-c",
        "grep -v -e overlay -e ' /etc/' -e ' /proc/' -e /firmware -e cgroup /proc/mounts | cut -d' ' -f 2,4 | sort",
    ],
    ["sh", "-c", "for f in acpi kcore keys latency_stats timer_list sched_debug; do head -c 1 /proc/$f; done"],
    ["sh", "-c", "for f in bus fs irq sys sysrq-trigger; do test -w /proc/$f/. && echo $f; done; true"],
    ["sh", "-c", "ls /sys/class/net; cat /proc/net/route"],
    ["sh", "-c", "grep -c ip6 /etc/hosts; grep ^127.0.0.1 /etc/hosts; test -s /etc/mtab && echo mtab"],
    ["sh", "-c", "mount -t tmpfs x /tmp; mknod /tmp/x b 7 0; hostname other; echo 1 > /proc/sys/kernel/panic"],
    ["sh", "-c", "cat /proc/kcore /proc/keys /proc/timer_list 2>&1 | head -c 100; echo x > /proc/sysrq-trigger"],
    ["stat", "-c", "%n %a %u %g", "/dev/console", "/dev/null", "/dev/ptmx", "/dev/fd", "/etc/resolv.conf"],
]


@pytest.mark.parametrize("words", RUNS, ids=lambda words: " ".join(words)[:40])
def test_a_program_finds_the_same(pair, words: list[str]) -> None:
    theirs, ours = pair("run", "--rm", "busybox", *words)
    assert masked(ours.stdout) == masked(theirs.stdout)
    assert ours.returncode == theirs.returncode
    if ours.returncode < 125:
        assert masked(ours.stderr) == masked(theirs.stderr)


OPTIONS = {
    "user": (["-u", "bob"], "id; echo $HOME; pwd"),
    "user and group": (["-u", "1000:50"], "id"),
    "unknown numeric user": (["-u", "4242"], "id; echo $HOME"),
    "extra groups": (["--group-add", "extra", "--group-add", "777"], "id -G"),
    "directory is made": (["-w", "/made/for/it"], "pwd; ls -ld . | cut -c 1-10"),
    "environment": (["-e", "A=b c", "-e", "PATH=/bin:/x", "-e", "EMPTY="], "env | sort"),
    "hostname": (["-h", "box", "--domainname", "example.com"], "hostname; cat /proc/sys/kernel/domainname"),
    "hosts": (["--add-host", "other:10.1.2.3", "-h", "box"], "grep other /etc/hosts"),
    "dns": (["--dns", "192.0.2.1", "--dns-search", "a.b", "--dns-option", "ndots:2"], "sort /etc/resolv.conf"),
    "capabilities dropped": (["--cap-drop", "ALL", "--cap-add", "CHOWN"], "grep Cap /proc/self/status"),
    "read only": (
        ["--read-only"],
        "for file in /x /etc/hosts /etc/hostname /etc/resolv.conf /dev/shm/y; do touch $file && echo $file; done",
    ),
    "read only with tmpfs": (["--read-only", "--tmpfs", "/run:size=1m,mode=700"], "touch /run/x; df -k /run | tail -1"),
    "a device over another": (["-v", "/dev/urandom:/dev/random"], "stat -c %t:%T /dev/random /dev/null"),
    "no new privileges": (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status"),
    "seccomp off": (["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status"),
    "limits": (["--ulimit", "nofile=55:66", "--ulimit", "core=0"], "ulimit -n; ulimit -Hn; ulimit -c"),
    "sysctl": (["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward"),
    "shared memory": (["--shm-size", "3m"], "df -k /dev/shm | tail -1"),
    "score": (["--oom-score-adj", "300"], "cat /proc/self/oom_score_adj"),
    "device": (["--device", "/dev/fuse:/dev/x:r"], "ls -l /dev/x | cut -c 1-10; cat < /dev/null > /dev/x"),
    "entry point": (["--entrypoint", "/bin/echo"], "as an argument"),
    "init": (["--init"], "cat /proc/1/comm | wc -l; echo $$ | grep -qx 1 || echo not one"),
    "host names": (["--uts", "host"], "test -n \"$(hostname)\" && echo has one"),
    "anonymous volume": (["-v", "/etc"], "ls /etc; cat /etc/group | head -1"),
    "volume over /etc": (["--mount", "type=volume,dst=/etc,volume-nocopy"], "ls /etc; cat /etc/hostname"),
    "stop signal": (["--stop-signal", "SIGUSR1"], "true"),
    "memory": (["-m", "32m", "--memory-swappiness", "0"], "cat /sys/fs/cgroup/memory/memory.limit_in_bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_run_mean_the_same(pair, name: str) -> None:
    options, script = OPTIONS[name]
    words = [script] if name == "entry point" else ["sh", "-c", script]
    theirs, ours = pair("run", "--rm", *options, "busybox", *words)
    assert masked(ours.stdout) == masked(theirs.stdout)
    assert ours.returncode == theirs.returncode


# commands, and words of the error that scripts look for
MISTAKES = [
    (["run", "--rm", "--name", "-bad-", "busybox"], "Invalid container name"),
    (["run", "--rm", "-u", "nobodyknows", "busybox", "true"], "unable to find user nobodyknows"),
    (["run", "--rm", "-u", "0:nogroupknows", "busybox", "true"], "unable to find group nogroupknows"),
    (["run", "--rm", "-m", "1k", "busybox", "true"], "Minimum memory limit allowed is"),
    (["run", "--rm", "-m", "10m", "--memory-swap", "5m", "busybox", "true"], "swap limit should be larger"),
    (["run", "--rm", "--cpus", "4096", "busybox", "true"], "Range of CPUs is from 0.01 to"),
    (["run", "--rm", "--cpuset-cpus", "4000", "busybox", "true"], "CPUs are not available"),
    (["run", "--rm", "-w", "relative", "busybox", "true"], "needs to be an absolute path"),
    (["run", "--rm", "--cap-add", "NOSUCH", "busybox", "true"], "unknown capability"),
    (["run", "--rm", "--mount", "type=bind,source=/no/such/place,target=/x", "busybox", "true"], "does not exist"),
    (["run", "--rm", "-v", "/tmp:relative", "busybox", "true"], "mount path must be absolute"),
    (["run", "--rm", "-v", "in valid:/x", "busybox", "true"], "includes invalid characters"),
    (["run", "--rm", "--log-driver", "nosuch", "busybox", "true"], "nosuch"),
    (["run", "--rm", "--log-opt", "max-size=big", "busybox", "true"], "invalid size: 'big'"),
    (["run", "--rm", "--network", "nosuchnet", "busybox", "true"], "nosuchnet not found"),
    (["run", "--rm", "--network", "container:nobody", "busybox", "true"], "No such container: nobody"),
    (["run", "--rm", "--network", "container:nobody", "-h", "x", "busybox", "true"], "hostname and the network mode"),
    (
        ["run", "--rm", "--network", "container:nobody", "--dns", "192.0.2.1", "busybox", "true"],
        "dns and the network mode",
    ),
    (
        ["run", "--rm", "--network", "container:nobody", "-p", "80", "busybox", "true"],
        "port publishing and the container",
    ),
    (["run", "--rm", "--uts", "host", "-h", "x", "busybox", "true"], "hostname and the UTS mode"),
    (["run", "--rm", "--ipc", "container:nobody", "busybox", "true"], "No such container: nobody"),
    (["run", "--restart", "sometimes", "busybox", "true"], "restart policy"),
    (["run", "--rm", "--stop-signal", "NOSIG", "busybox", "true"], "nvalid signal: NOSIG"),
    (["run", "--rm", "--sysctl", "kernel.nosuch=1", "busybox", "true"], "sysctl"),
    (["run", "--rm", "--device", "/dev/nosuch", "busybox", "true"], "/dev/nosuch"),
    (["run", "--rm", "--security-opt", "nosuch=1", "busybox", "true"], "nosuch"),
    (["run", "--rm", "--shm-size", "0", "--oom-score-adj", "5000", "busybox", "true"], "-1000, 1000"),
    (["run", "--rm", "--pid", "container:nobody", "busybox", "true"], "No such container: nobody"),
    (["run", "--rm", "--volumes-from", "nobody", "busybox", "true"], "No such container: nobody"),
    (["run", "--rm", "--hostname", "a" * 70, "busybox", "true"], ""),
    (["start", "nosuch"], "No such container: nosuch"),
    (["stop", "nosuch"], "No such container: nosuch"),
    (["kill", "nosuch"], "No such container: nosuch"),
    (["rm", "nosuch"], "No such container: nosuch"),
    (["logs", "nosuch"], "No such container: nosuch"),
    (["exec", "nosuch", "true"], "No such container: nosuch"),
    (["inspect", "nosuch"], "No such object: nosuch"),
    (["wait", "nosuch"], "No such container: nosuch"),
    (["top", "nosuch"], "No such container: nosuch"),
    (["rename", "nosuch", "x"], "No such container: nosuch"),
    (["cp", "nosuch:/x", "-"], "No such container"),  # older clients: "container:path"
    (["diff", "nosuch"], "No such container: nosuch"),
    (["commit", "nosuch"], "No such container: nosuch"),
    (["export", "nosuch"], "No such container: nosuch"),
    (["rmi", "nosuch"], "No such image: nosuch"),
    (["rmi", "UPPER"], "repository name must be lowercase"),
    (["tag", "nosuch", "other"], "No such image: nosuch"),
    (["tag", "busybox", "in valid"], "in valid"),
    (["tag", "busybox", "sha256:abc"], "refusing to create an ambiguous tag"),
    (["kill", "-s", "NOSUCH", "nobody"], "Invalid signal: NOSUCH"),
    (["run", "--rm", "-u", "nosuch", "busybox", "true"], "daemon: unable to find user nosuch"),
    (["run", "--rm", "--group-add", "nosuch", "busybox", "true"], "daemon: unable to find group nosuch"),
    (["run", "--rm", "-u", "99999999999", "busybox", "true"], "daemon: uids and gids must be in range"),
    (["history", "nosuch"], "No such image: nosuch"),
    (["save", "nosuch"], "nosuch"),
    (["image", "inspect", "nosuch"], "nosuch"),
    (["volume", "inspect", "nosuch"], "nosuch"),
    (["volume", "rm", "nosuch"], "nosuch"),
    (["volume", "create", "in valid"], "includes invalid characters"),
    (["ps", "--filter", "nosuch=1"], "filter"),
    (["images", "--filter", "nosuch=1"], "filter"),
]


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=lambda part: " ".join(part)[:50] if part else "")
def test_mistakes_are_told_alike(pair, words: list[str], told: str) -> None:
    theirs, ours = pair(*words)
    assert ours.returncode == theirs.returncode, (theirs.stderr, ours.stderr)
    assert told.lower() in theirs.stderr.lower(), "dockerd itself says it otherwise"
    assert told.lower() in ours.stderr.lower()
    assert "internal error" not in ours.stderr


# of a container that runs: commands whose output must be the same
LOOKS = [
    ["ps", "-a", "--format", "{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}} {{.Mounts}}"],
    ["ps", "-a"],
    ["ps", "-aq", "--no-trunc"],
    ["ps", "-a", "--filter", "name=see", "--filter", "label=kind"],
    ["ps", "--filter", "status=exited"],
    ["logs", "seen"],
    ["logs", "--tail", "1", "seen"],
    ["logs", "-t", "seen"],
    ["logs", "--details", "seen"],
    ["diff", "seen"],
    ["port", "seen"],
    ["top", "seen", "-o", "pid,comm"],
    ["exec", "seen", "cat", "/made"],
    ["exec", "-u", "bob", "-w", "/tmp", "-e", "A=1", "seen", "sh", "-c", "id -un; pwd; echo $A"],
    ["exec", "seen", "sh", "-c", "exit 6"],
    ["exec", "-w", "/nosuchdirectory", "seen", "true"],
    ["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{.Platform}} {{.Driver}}", "seen"],
    ["inspect", "-f", "{{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Labels}} {{.Path}} {{.Args}}", "seen"],
    ["inspect", "-f", "{{json .HostConfig.Binds}} {{json .HostConfig.CapAdd}} {{.HostConfig.Memory}}", "seen"],
    ["images", "busybox"],
    ["images", "--format", "{{.Repository}}:{{.Tag}}", "busybox"],
    ["history", "--format", "{{.CreatedBy}}|{{.Size}}|{{.Comment}}", "busybox"],
    ["image", "inspect", "-f", "{{json .Config.Cmd}} {{json .Config.Env}} {{.Os}} {{.Architecture}}", "busybox"],
    ["volume", "ls", "-q", "--filter", "name=seen"],
    ["volume", "inspect", "-f", "{{.Name}} {{.Driver}} {{.Scope}} {{json .Options}}", "seen-data"],
    ["kill", "-s", "NOSUCH", "seen"],
    ["start", "seen"],
    ["unpause", "seen"],
    ["rename", "seen", "seen"],
    ["run", "--name", "seen", "busybox"],
    ["rmi", "busybox"],
    ["volume", "rm", "seen-data"],
    ["cp", "seen:/nosuch", "-"],
]


@pytest.fixture(scope="module")
def seen(daemon: Daemon, dockerd: Dockerd):
    """The same container in both engines."""
    for engine in (dockerd, daemon):
        engine.docker(
            "run", "-d", "--name", "seen", "-l", "kind=test", "-v", "seen-data:/data", "-e", "A=b", "-m", "64m",
            "busybox", "sh", "-c", "echo x > /made; rm /etc/group; echo one; sleep 0.2; echo two >&2; exec sleep 1000",
        )  # fmt: skip
        for _ in range(200):
            if len(engine.docker("logs", "seen").stderr) > 2:
                break


def test_looks_at_a_container_are_the_same(daemon: Daemon, dockerd: Dockerd, seen, subtests) -> None:
    for words in LOOKS:
        with subtests.test(" ".join(words)):
            theirs, ours = both(daemon, dockerd, *words)
            assert ours.returncode == theirs.returncode, (theirs.stderr, ours.stderr)
            if ours.returncode != 126:  # words of a runtime
                assert sorted(masked(ours.stdout).splitlines()) == sorted(masked(theirs.stdout).splitlines())
            assert masked(ours.stderr) == masked(theirs.stderr)
    for engine in (dockerd, daemon):
        engine.docker("rm", "-f", "seen")
        engine.docker("volume", "rm", "seen-data")


def keys(document: Any, path: str = "") -> set[str]:
    """Every key of a document with its place."""
    if isinstance(document, dict):
        found = {f"{path}.{key}" for key in document}
        return found.union(*(keys(value, f"{path}.{key}") for key, value in document.items()))
    if isinstance(document, list) and document:
        return keys(document[0], f"{path}[]")
    return set()


@pytest.mark.parametrize(
    "path",
    [
        "/v1.41/containers/json?all=1",
        "/v1.41/containers/shape/json?size=1",
        "/v1.41/containers/shape/top",
        "/v1.41/containers/shape/changes",
        "/v1.41/containers/shape/stats?stream=false",
        "/v1.41/images/busybox/json",
        "/v1.41/images/busybox/history",
        "/v1.41/volumes",
        "/v1.41/volumes/shape-data",
        "/v1.41/info",
        "/v1.41/version",
        "/v1.41/system/df",
        "/v1.41/exec/EXEC/json",
    ],
)
def test_documents_have_the_keys_that_dockerd_s_have(daemon: Daemon, dockerd: Dockerd, path: str) -> None:
    documents = []
    try:
        for engine in (dockerd, daemon):
            engine.docker("run", "-d", "--name", "shape", "-v", "shape-data:/data", "busybox", "sleep", "100")
            status, answer = engine.request("POST", "/v1.41/containers/shape/exec", {"Cmd": ["sleep", "9"]})
            made = json.loads(answer)["Id"]
            engine.request("POST", f"/v1.41/exec/{made}/start", {"Detach": True})
            status, answer = engine.request("GET", path.replace("EXEC", made))
            assert status == 200, answer
            documents.append(json.loads(answer))
    finally:
        for engine in (dockerd, daemon):
            engine.docker("rm", "-f", "shape")
            engine.docker("volume", "rm", "-f", "shape-data")
    theirs, ours = (keys(document) for document in documents)
    missing = {key for key in theirs - ours if not ABSENT.search(key)}
    assert not missing


# what depends on networks, or belongs to parts that no engine without a builder, a swarm or containerd has
ABSENT = re.compile(
    r"\.(Networks|NetworkSettings|networks|Containerd|ContainerdCommit|RuncCommit|InitCommit|Runtimes|RegistryConfig|"
    r"Swarm|Plugins|BuildCache|BuilderSize|Components|memory_stats\.stats|DriverStatus|ProcessConfig"
    # dockerd has dropped these since: kernel memory, what an image was built in
    r"|KernelMemory|KernelMemoryTCP|Container|ContainerConfig|VirtualSize|NetworkDisabled"
    r"|Config\.(Attach\w+|Domainname|Hostname|Image|OpenStdin|StdinOnce|Tty))\b"
)


def test_archives_of_a_container_hold_the_same(pair, daemon: Daemon, dockerd: Dockerd, tmp_path: Path) -> None:
    listings = []
    for engine in (dockerd, daemon):
        engine.docker("create", "--name", "packed", "busybox")
        engine.docker("export", "-o", str(tmp_path / "out.tar"), "packed")
        engine.docker("rm", "packed")
        listing = engine.run(["tar", "--numeric-owner", "-tvf", str(tmp_path / "out.tar")]).stdout
        fields = (line.split(None, 5) for line in listing.splitlines())
        listings.append(sorted((part[0], part[1], part[5].lstrip("./")) for part in fields))
    assert listings[1] == listings[0]


def test_events_of_images_and_of_programs_that_cannot_run(daemon: Daemon, dockerd: Dockerd) -> None:
    """A name that an image gets is an event of its own; what has not run has not died."""
    shown = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.exitCode}}"
    seen = []
    for engine in (dockerd, daemon):
        archive = str(engine.directory / "told.tar")
        since = str(time.time())
        engine.docker("run", "-d", "--name", "told", "busybox", "sleep", "100")
        engine.docker("exec", "told", "nosuchprogram", check=False)
        engine.docker("exec", "told", "true")
        engine.docker("commit", "told", "told:1")
        engine.docker("export", "told", "-o", archive)
        engine.docker("import", archive, "told:2")
        engine.docker("rm", "-f", "told")
        engine.docker("rmi", "told:1", "told:2")
        words = ["events", "--since", since, "--until", str(time.time()), "--format", shown]
        images = masked(engine.docker(*words, "--filter", "type=image").stdout)
        died = engine.docker(*words, "--filter", "event=exec_die").stdout.splitlines()
        assert died == ["exec_die told 0"]
        seen.append(images)
    assert seen[0] == seen[1]
    assert "tag told:1" in seen[1]

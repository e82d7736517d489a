"""An ordinary user's engine: what works, whose the files are, and what nobody else can reach."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from corten.linux import mounts
from daemons import BIN
from machine import CLIENTS
from users import User

pytestmark = [pytest.mark.needs("userns", "newuidmap", "busybox", "docker")]

FIRST = 600_000_000  # of the subordinate ids; the machine's own users have others
COUNT = 65_536


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """Users' homes must be where users can go, other than the directories of tests."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def new_user(places: Path, uid: int, subids: tuple[int, int] | None) -> User:
    directory = places / str(uid)
    directory.mkdir()
    return User(directory, uid, subids)


@pytest.fixture(scope="module")
def user(places: Path, busybox_tar: Path) -> Iterator[User]:
    made = new_user(places, 54_001, (FIRST, COUNT))
    archive = made.give(busybox_tar, "busybox.tar")
    made.corten("import", "-c", 'CMD ["sh"]', "-c", "ENV PATH=/bin", str(archive), "busybox")
    yield made
    made.leave()


@pytest.fixture(autouse=True)
def no_containers(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "user" in request.fixturenames:
        made = request.getfixturevalue("user")
        if ids := made.corten("ps", "-aq", "--no-trunc").stdout.split():
            made.corten("rm", "-f", "-v", *ids)


def run(user: User, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return user.corten("run", "--rm", "--network", "none", *command, check=check)


def test_a_check_finds_nothing_wrong(user: User) -> None:
    """What an ordinary user's layers lack of their archives (devices) or keep in other ways is no damage."""
    steps = "mkdir /new && touch /new/file && chown 7:8 /new/file && rm /etc/passwd && rm -r /var && mkdir /var"
    for base in ("busybox", "host"):
        user.corten(
            "run", "--name", "maker", "--network", "none", base, "sh", "-c", steps if base == "busybox" else "true"
        )
        user.corten("commit", "maker", f"made/{base}")
        assert user.corten("system", "check").stdout.endswith("nothing is wrong\n")
        user.corten("rm", "maker")
        user.corten("rmi", f"made/{base}")


def test_the_machine_as_an_image(user: User) -> None:
    assert run(user, "host", "echo", "hello").stdout == "hello\n"
    tried = "id -u; cat /etc/shadow; ls /root /home; touch /etc/mine /usr/mine /mine && ls /etc/mine /usr/mine /mine"
    done = run(user, "host", "sh", "-c", tried)
    assert done.stdout.split()[0] == "0"
    assert done.stdout.endswith("/etc/mine\n/mine\n/usr/mine\n")
    assert "shadow" in done.stderr
    assert "root:x" not in done.stdout
    assert not Path("/etc/mine").exists()
    assert not Path("/usr/mine").exists()


def test_a_read_only_machine(user: User) -> None:
    for place in ("/x", "/etc/x", "/usr/x"):
        done = run(user, "--read-only", "host", "touch", place, check=False)
        assert "Read-only file system" in done.stderr


def test_what_a_container_changed_of_the_machine(user: User) -> None:
    user.corten("run", "--name", "made", "--network", "none", "host", "sh", "-c", "echo x > /etc/mine; mkdir /opt/mine")
    changes = user.corten("diff", "made").stdout.split("\n")
    assert {"A /etc/mine", "A /opt/mine", "C /etc", "C /opt"} <= set(changes)
    assert not [line for line in changes if "/usr" in line or "/srv" in line]
    assert "x\n" in user.corten("cp", "made:/etc/mine", "-").stdout
    assert "PRETTY_NAME" in user.corten("cp", "-L", "made:/etc/os-release", "-").stdout
    assert "permission denied" in user.docker("export", "-o", str(user.home / "out.tar"), "made", check=False).stderr


def test_info_says_what_it_is(user: User) -> None:
    info = json.loads(user.docker("info", "--format", "{{json .}}").stdout)
    assert "name=rootless" in info["SecurityOptions"]
    assert info["DockerRootDir"] == str(user.data_root)
    if info["CgroupDriver"] == "none":
        assert [text for text in info["Warnings"] if "rootless-mode without cgroups" in text]


def test_ids_are_the_users_own_and_its_subordinate_ones(user: User) -> None:
    maps = run(user, "busybox", "cat", "/proc/self/uid_map").stdout.split()
    assert maps == ["0", str(user.uid), "1", "1", str(FIRST), str(COUNT)]
    shared = user.home / "shared"
    shared.mkdir()
    os.chown(shared, user.uid, user.uid)
    run(user, "-v", f"{shared}:/s", "busybox", "sh", "-c", "touch /s/root /s/bob && chown bob:bob /s/bob")
    owners = {path.name: path.stat().st_uid for path in shared.iterdir()}
    assert owners == {"root": user.uid, "bob": FIRST + 999}
    assert run(user, "-u", "bob", "busybox", "id", "-u").stdout == "1000\n"


def test_ids_outside_the_map(user: User) -> None:
    done = run(user, "-u", "70000", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "not all of these ids are mapped in the container's user namespace: user 70000" in done.stderr
    done = run(user, "busybox", "sh", "-c", "touch /x; chown 70000 /x", check=False)
    assert "Invalid argument" in done.stderr


def test_a_file_of_the_machines_root_stays_closed(user: User, places: Path) -> None:
    secret = places / "secret"
    secret.write_text("of root alone")
    secret.chmod(0o600)
    done = run(user, "-v", f"{secret}:/secret", "busybox", "sh", "-c", "cat /secret; echo tried", check=False)
    assert (done.stdout, "Permission denied" in done.stderr) == ("tried\n", True)
    done = run(user, "--privileged", "-v", f"{secret}:/secret", "busybox", "sh", "-c", "cat /secret; echo tried")
    assert done.stdout == "tried\n"


def test_devices_are_bound_and_none_is_made(user: User) -> None:
    script = "echo x > /dev/null && head -c 3 /dev/zero | wc -c; mknod /n b 8 0 || echo refused"
    assert run(user, "busybox", "sh", "-c", script).stdout == "3\nrefused\n"


def test_devices_of_the_user_s_own_cdi_files(user: User) -> None:
    """Nodes are bound, wherever the container has them; hooks run with no more rights than the user has."""
    place = user.home / ".config/cdi"
    place.mkdir(parents=True, exist_ok=True)
    said = user.home / "said"
    hook = {"hookName": "createRuntime", "path": "/bin/sh", "args": ["sh", "-c", f"id -u > {said}"]}
    edits = {
        "env": ["THING=zero"],
        "deviceNodes": [{"path": "/dev/thing/endless", "hostPath": "/dev/zero"}],
        "mounts": [{"hostPath": str(user.home / "busybox.tar"), "containerPath": "/file", "options": ["ro", "rbind"]}],
        "hooks": [hook],
    }
    document = {
        "cdiVersion": "0.5.0",
        "kind": "user.example/thing",
        "devices": [{"name": "a", "containerEdits": edits}],
    }
    (place / "a.json").write_text(json.dumps(document))
    for path in (user.home / ".config", place, place / "a.json"):
        os.chown(path, user.uid, user.uid)
    script = "echo $THING; head -c 3 /dev/thing/endless | wc -c; head -c 3 /file | wc -c"
    assert run(user, "--device", "user.example/thing=a", "busybox", "sh", "-c", script).stdout == "zero\n3\n3\n"
    assert said.stat().st_uid == user.uid
    (place / "a.json").unlink()
    done = run(user, "--device", "user.example/thing=a", "busybox", "true", check=False)
    assert "unresolvable CDI devices user.example/thing=a" in done.stderr


def test_host_namespaces(user: User) -> None:
    assert (
        run(user, "--pid", "host", "busybox", "sh", "-c", f"test -d /proc/{os.getpid()} && echo seen").stdout
        == "seen\n"
    )
    assert run(user, "--uts", "host", "busybox", "hostname").stdout.strip() == socket.gethostname()
    assert run(user, "--ipc", "host", "busybox", "true").returncode == 0
    done = user.corten("run", "--rm", "--network", "host", "busybox", "ip", "addr")
    assert "127.0.0.1/8" in done.stdout


def test_limits_that_cannot_be_set_are_told(user: User) -> None:
    if json.loads(user.docker("info", "--format", "{{json .}}").stdout)["MemoryLimit"]:
        pytest.skip("control groups are delegated here")
    done = run(user, "--memory", "20m", "--cpu-shares", "9", "--pids-limit", "50", "busybox", "true")
    for words in ("memory limit capabilities", "CPU shares", "PIDs limit capabilities"):
        assert f"Your kernel does not support {words}" in done.stderr
    done = run(user, "--cpus", "1", "busybox", "true", check=False)
    assert "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler" in done.stderr
    assert run(user, "--oom-score-adj", "-500", "busybox", "true").returncode == 0


def test_commands_of_a_running_container(user: User) -> None:
    user.docker("run", "-d", "--name", "runs", "--network", "none", "busybox", "sh", "-c", "echo said; sleep 1000")
    user.wait_until(lambda: user.corten("logs", "runs").stdout == "said\n")
    assert user.docker("exec", "-u", "bob", "runs", "id", "-u").stdout == "1000\n"
    assert user.corten("exec", "-t", "runs", "tty").stdout.strip() == "/dev/pts/0"
    assert "sleep 1000" in user.docker("top", "runs").stdout
    assert user.corten("stats", "--no-stream", "--format", "{{.Name}}", "runs").stdout == "runs\n"
    user.corten("cp", "/etc/hostname", "runs:/tmp/name")
    assert user.corten("exec", "runs", "cat", "/tmp/name").stdout == Path("/etc/hostname").read_text()
    assert "A /tmp/name" in user.docker("diff", "runs").stdout
    user.docker("commit", "runs", "kept")
    assert run(user, "kept", "test", "-e", "/tmp/name").returncode == 0
    user.docker("restart", "-t", "0", "runs")
    assert user.docker("ps", "--format", "{{.Names}}").stdout == "runs\n"
    user.corten("stop", "-t", "0", "runs")
    assert user.docker("inspect", "-f", "{{.State.ExitCode}}", "runs").stdout == "137\n"
    user.corten("cp", "runs:/tmp/name", str(user.home / "name"))
    assert (user.home / "name").stat().st_uid == user.uid


def test_layers_with_devices_whiteouts_and_owners(user: User) -> None:
    context = user.home / "context"
    context.mkdir()
    os.chown(context, user.uid, user.uid)
    (context / "Dockerfile").write_text(
        "FROM busybox\n"
        "RUN mkdir -p /d/inner && touch /d/gone /d/inner/gone && chown 1000:50 /d/gone\n"
        "RUN rm /d/gone && rm -r /d/inner && mkdir /d/inner && touch /d/inner/new && chown 1000:50 /d/inner/new\n"
        "USER bob\n"
    )
    user.docker("build", "--network", "none", "-t", "built", str(context))
    shown = run(user, "built", "sh", "-c", "id -u; ls /d /d/inner; stat -c %u:%g /d/inner/new").stdout
    assert shown == "1000\n/d:\ninner\n\n/d/inner:\nnew\n1000:50\n"
    archive = user.home / "built.tar"
    user.corten("save", "-o", str(archive), "built")
    user.corten("rmi", "built")
    user.corten("load", "-i", str(archive))
    assert run(user, "built", "ls", "/d/inner").stdout == "new\n"


def test_archives_with_devices_and_ids_beyond(user: User) -> None:
    archive = user.home / "odd.tar"
    for uid, is_good in ((1000, True), (70_000, False)):
        with tarfile.open(archive, "w") as tar:
            device = tarfile.TarInfo("sda")
            device.type, device.devmajor = tarfile.BLKTYPE, 8
            tar.addfile(device)
            file = tarfile.TarInfo("file")
            file.uid = file.gid = uid
            tar.addfile(file)
        done = user.docker("import", str(archive), "odd", check=False)
        assert (done.returncode == 0) == is_good
        if not is_good:
            assert f"only {COUNT + 1} user ids are mapped here" in done.stderr
    user.docker("create", "--name", "odd", "odd", "none")
    assert "sda" not in user.corten("export", "odd").stdout


def test_volumes(user: User) -> None:
    run(user, "-v", "mine:/data", "busybox", "sh", "-c", "echo kept > /data/file && chown bob /data/file")
    assert run(user, "-u", "bob", "-v", "mine:/data", "busybox", "cat", "/data/file").stdout == "kept\n"
    assert (user.data_root / "volumes/mine/_data/file").stat().st_uid == FIRST + 999
    user.corten("volume", "rm", "mine")


@pytest.mark.needs("tun", "nf_tables", "pasta")
@pytest.mark.needs("newest docker", "buildx")
def test_builds_of_buildx(user: User) -> None:
    """The client is the user too, as for everybody without a daemon of root's."""
    plugins = user.home / "cli-plugins"
    plugins.mkdir()
    os.chown(user.home / "cli-plugins", user.uid, user.uid)
    user.give(CLIENTS / "usr/libexec/docker/cli-plugins/docker-buildx", "cli-plugins/docker-buildx").chmod(0o755)
    docker = user.give(CLIENTS / "usr/bin/docker", "newest-docker")
    docker.chmod(0o755)
    project = user.home / "project"
    project.mkdir()
    (project / "file").write_text("content")
    (project / "word").write_text("hush")
    (project / "Dockerfile").write_text(
        "FROM busybox AS made\nCOPY --chown=7:8 file word /\n"
        "RUN --mount=type=secret,id=word,target=/w cat /w > /heard\n"
        "RUN --mount=type=cache,target=/c touch /c/x && id -u > /id\n"
        "FROM scratch\nCOPY --from=made /heard /id /\n"
    )

    def build(*words: str) -> str:
        return user.run([str(docker), "buildx", "build", "--progress=plain", *words, str(project)]).stderr

    secret = f"--secret=id=word,src={project / 'word'}"
    said = build(secret, "--target", "made", "-t", "built", f"--cache-to=type=local,dest={user.home / 'cache'}")
    assert "naming to docker.io/library/built:latest" in said
    assert run(user, "built", "sh", "-c", "cat /heard /id; stat -c %u:%g /file").stdout == "hush0\n7:8\n"
    assert build(secret, "-o", str(user.home / "out")).count("CACHED") >= 3
    assert (user.home / "out/heard").read_text() == "hush"
    assert (user.home / "out/heard").stat().st_uid == user.uid
    user.corten("rmi", "-f", "built")
    user.corten("builder", "prune", "-af")
    docker.unlink()
    shutil.rmtree(plugins)


def test_a_published_port(user: User) -> None:
    user.docker("run", "-d", "--name", "web", "-p", "127.0.0.1::80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    address, _, port = user.docker("port", "web", "80").stdout.strip().rpartition(":")
    with socket.create_connection((address, int(port)), timeout=20) as connection:
        connection.sendall(b"GET /passwd HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert b"bob:x:1000" in answer


@pytest.mark.parametrize("kept", [True, False], ids=["keeper lives", "keeper killed"])
def test_containers_survive_the_daemon(user: User, kept: bool) -> None:
    user.corten("run", "-d", "--name", "lives", "--network", "none", "-v", "kept:/v", "busybox", "sleep", "1000")
    pid = int(user.docker("inspect", "-f", "{{.State.Pid}}", "lives").stdout)
    namespaces = {kind: os.readlink(f"/proc/{user.inner}/ns/{kind}") for kind in ("user", "mnt", "net")}
    user.end_daemon(signal.SIGKILL)
    if not kept:
        keeper = user.named("corten-keeper")
        os.kill(keeper, signal.SIGKILL)
        user.wait_until(lambda: keeper not in user.processes())
    assert user.corten("exec", "lives", "echo", "here").stdout == "here\n"
    assert int(user.docker("inspect", "-f", "{{.State.Pid}}", "lives").stdout) == pid
    assert {kind: os.readlink(f"/proc/{user.inner}/ns/{kind}") for kind in namespaces} == namespaces
    user.corten("stop", "-t", "0", "lives")
    assert user.corten("start", "lives").stdout == "lives\n"


def test_nothing_stays_without_containers(places: Path) -> None:
    made = new_user(places, 54_002, (FIRST, COUNT))
    assert run(made, "host", "true").returncode == 0
    assert "corten-keeper" in made.processes().values()
    made.end_daemon()
    made.wait_until(lambda: not made.processes())
    assert not (made.exec_root / "namespaces.json").exists()
    assert not made.socket.exists()


def test_a_second_daemon_takes_nothing_away(places: Path) -> None:
    made = new_user(places, 54_007, (FIRST, COUNT))
    run(made, "host", "true")
    keeper, note = made.named("corten-keeper"), (made.exec_root / "namespaces.json").read_text()
    done = made.run(["cortend"], check=False)
    assert (done.returncode, "uses the data root" in done.stderr) == (1, True)
    assert (made.named("corten-keeper"), (made.exec_root / "namespaces.json").read_text()) == (keeper, note)
    os.kill(keeper, signal.SIGKILL)
    made.wait_until(lambda: keeper not in made.processes())
    done = made.run(["cortend"], check=False)
    assert (done.returncode, "have lost their keeper" in done.stderr) == (1, True)
    assert (made.exec_root / "namespaces.json").read_text() == note
    assert run(made, "host", "echo", "fine").stdout == "fine\n"
    made.leave()


def test_two_users_share_nothing(user: User, places: Path) -> None:
    other = new_user(places, 54_003, (FIRST + COUNT, COUNT))
    try:
        user.corten("run", "-d", "--name", "same", "--network", "none", "busybox", "sleep", "1000")
        done = run(other, "--name", "same", "host", "cat", "/proc/self/uid_map")
        assert done.stdout.split()[4] == str(FIRST + COUNT)
        assert other.corten("ps", "-aq").stdout == ""
        denied = other.run(["corten", "-H", user.host, "ps"], check=False)
        assert denied.returncode
        assert "ermission denied" in denied.stderr
        seen = other.run(["find", str(user.home), str(user.runtime), "-readable"], check=False).stdout
        assert seen == ""
        pid = user.docker("inspect", "-f", "{{.State.Pid}}", "same").stdout.strip()
        assert other.run(["kill", "-0", pid], check=False).returncode
        sockets = Path("/proc/net/unix").read_text().splitlines()
        assert not [line for line in sockets if "@" in line and "corten" in line]
    finally:
        other.leave()


@pytest.mark.needs("podman")
def test_podman_without_root_runs_containers_with_our_runtime(places: Path, busybox_tar: Path) -> None:
    user = new_user(places, 54_021, (FIRST + 10 * COUNT, COUNT))
    archive = user.give(busybox_tar, "busybox.tar")

    def podman(*words: str) -> str:
        runtime = ("--runtime", str(BIN / "corten-oci"), "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs")
        return user.run(["podman", *runtime, *words], DOCKER_CONFIG=None).stdout

    podman("import", str(archive), "bb")
    own = ("--network", "none", "bb", "/bin/busybox")
    ids = podman("run", "--rm", *own, "cat", "/proc/self/uid_map").split()
    assert ids == ["0", str(user.uid), "1", "1", str(FIRST + 10 * COUNT), str(COUNT)]
    podman("run", "-d", "--name", "held", *own, "sleep", "60")
    assert "sleep 60" in podman("exec", "held", "/bin/busybox", "ps")
    assert (user.runtime / "corten-oci").is_dir()
    podman("rm", "-f", "-t", "0", "held")
    podman("system", "migrate")  # ends the process that holds its namespaces
    done = user.run(["corten-oci", "run", "c1"], check=False)
    assert done.returncode == 1
    assert "podman unshare" in done.stderr


def test_directories_are_closed(user: User) -> None:
    run(user, "busybox", "true")
    for place in (user.exec_root, user.data_root):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_user_with_a_single_id(places: Path, busybox_tar: Path) -> None:
    made = new_user(places, 54_004, None)
    try:
        archive = made.give(busybox_tar, "busybox.tar")
        made.corten("import", "-c", "ENV PATH=/bin", str(archive), "busybox")
        assert (
            "there is only one user id for containers (/etc/subuid has no ids for user corten-test-54004)" in made.log
        )
        assert run(made, "busybox", "cat", "/proc/self/uid_map").stdout.split() == ["0", "54004", "1"]
        assert run(made, "-t", "busybox", "id", "-u").stdout.strip() == "0"
        done = run(made, "-u", "bob", "busybox", "true", check=False)
        assert "not all of these ids are mapped" in done.stderr
    finally:
        made.leave()


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A version 2 control group that belongs to the user 54006."""
    mount = next(entry.target for entry in mounts.read() if entry.kind == "cgroup2")
    group = Path(mount) / f"corten-test-{os.getpid()}-user"
    group.mkdir()
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group / name, 54_006, 54_006)
    yield group
    for directory, _, _ in os.walk(group, topdown=False):
        os.rmdir(directory)


@pytest.mark.needs("unified")
def test_delegated_control_groups(places: Path, delegated: Path, busybox_tar: Path) -> None:
    made = new_user(places, 54_006, (FIRST, COUNT))
    try:
        made.start(str(delegated))
        made.corten("import", "-c", "ENV PATH=/bin", str(made.give(busybox_tar, "busybox.tar")), "busybox")
        assert made.docker("info", "-f", "{{.CgroupDriver}} {{.CgroupVersion}}").stdout == "cgroupfs 2\n"
        script = "cat /proc/self/cgroup; while true; do sleep 0.01; done"
        made.corten("run", "-d", "--name", "box", "--network", "none", "busybox", "sh", "-c", script)
        (group,) = (place for place in delegated.glob("corten/*") if place.is_dir())
        assert (
            made.docker("inspect", "-f", "{{.State.Pid}}", "box").stdout.strip() in (group / "cgroup.procs").read_text()
        )
        made.docker("pause", "box")
        assert "frozen 1" in (group / "cgroup.events").read_text()
        made.docker("unpause", "box")
        assert made.corten("exec", "box", "echo", "here").stdout == "here\n"
        assert "while true" in made.docker("top", "box").stdout
        made.end_daemon(signal.SIGKILL)
        made.start(str(delegated / "daemon"))
        assert made.corten("exec", "box", "echo", "again").stdout == "again\n"
    finally:
        made.leave()


def test_without_a_runtime_directory(places: Path) -> None:
    made = new_user(places, 54_005, (FIRST, COUNT))
    fallback = Path("/tmp/corten-54005")
    assert not fallback.exists()
    fallback.mkdir()
    try:
        done = made.corten("ps", check=False, XDG_RUNTIME_DIR=None)
        assert done.returncode
        assert f"{fallback} is not a directory of user 54005" in done.stderr
        fallback.rmdir()
        made.socket = fallback / "corten.sock"
        made.corten("run", "--rm", "--network", "none", "host", "true", XDG_RUNTIME_DIR=None)
        assert (stat.S_IMODE(fallback.stat().st_mode), fallback.stat().st_uid) == (0o700, 54_005)
        made.end_daemon()
        made.wait_until(lambda: not made.processes())
    finally:
        shutil.rmtree(fallback, ignore_errors=True)


def test_what_a_container_is_made_of(user: User) -> None:
    user.corten("run", "-d", "--name", "seen", "--network", "none", "busybox", "sleep", "60")
    document = json.loads(user.corten("xray", "--json", "seen").stdout)
    assert document["Pid"]
    assert [row["Command"] for row in document["Processes"]] == ["sleep 60"]
    spaces = {row["Kind"]: row["Shared"] for row in document["Namespaces"]}
    assert (spaces["pid"], spaces["net"]) == (False, False)
    assert "Layers" in user.corten("xray", "seen").stdout
    assert "Namespaces" in user.corten("xray", "host").stdout
    assert user.corten("info", "--security", check=False).returncode in (0, 1)

"""What an image or a container may try, one attack a test; the host's canaries stay as they are.

The numbers are those of public advisories.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime_support import Oci, World, children, make_spec, read_terminal

from corten.errors import CommandNotFound, CortenError, InvalidParameter, SystemFailure

pytestmark = pytest.mark.needs("busybox")


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that nobody may change, beside values of the kernel that nobody may set."""
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "file").write_text("untouched")
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    yield directory
    assert [path.name for path in directory.iterdir()] == ["file"]
    assert (directory / "file").read_text() == "untouched"
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def upwards(path: Path) -> str:
    return "/" + "../" * 20 + str(path).lstrip("/")


# -- CVE-2019-5736: the runtime's own binary --------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["/proc/self/exe", "/proc/thread-self/exe", "link"])
def test_the_interpreter_cannot_be_the_program(world: World, command: str) -> None:
    (world.rootfs / "bin/link").symlink_to("/proc/self/exe")
    with pytest.raises(CommandNotFound, match="no such file or directory"):
        world.run(world.spec(command))


def test_a_script_cannot_have_the_interpreter_run_the_containers_code(world: World) -> None:
    """The kernel resolves #!/proc/self/exe to our interpreter; it finds nothing of its library inside."""
    (world.rootfs / "bin/evil").write_text("#!/proc/self/exe\nprint('python ran')\n")
    (world.rootfs / "bin/evil").chmod(0o755)
    try:
        result = world.run(world.spec("evil"))
    except CortenError:
        return  # the loader of the interpreter is missing: as good
    assert result.code != 0
    assert "python ran" not in result.text


def test_a_waiting_container_shows_an_interpreter_that_cannot_be_written(tmp_path: Path, busybox_rootfs: Path) -> None:
    spec = make_spec(busybox_rootfs, "sleep", "60")
    spec["linux"]["cgroupsPath"] = f"/corten-test-oci-{os.getpid()}"
    oci = Oci(tmp_path, spec)
    oci.create("c1")
    try:
        exe = f"/proc/{oci.state('c1')['pid']}/exe"
        assert "python" in os.readlink(exe)
        assert os.statvfs(exe).f_flag & os.ST_RDONLY
        with pytest.raises(OSError, match=r"Read-only file system|Text file busy"):
            os.close(os.open(exe, os.O_WRONLY))
    finally:
        oci("delete", "-f", "c1")


def test_who_enters_cannot_be_looked_at(world: World) -> None:
    """During 80 execs a process of the container, root there, tries to open what belongs to those who come in."""
    # what opens may be the program already: a leak is one only if it is not even afterwards
    script = """
        entering() { case $(cat $1/comm 2>/dev/null) in *python*|*pytest*) return 0;; esac; return 1; }
        leak() { entering $1 && echo LEAK $2; }
        echo up
        while :; do for p in /proc/[0-9]*; do
            entering $p || continue
            for l in exe cwd root fd/0 fd/3 fd/4 ns/net; do readlink $p/$l >/dev/null 2>&1 && leak $p $l; done
            (: < $p/mem) 2>/dev/null && leak $p mem
            cat $p/environ 2>/dev/null | grep -q . && leak $p environ
            echo seen
        done; done"""
    running = world.start(world.script(script))
    assert running.output.line() == "up"
    for _ in range(80):
        world.execute(running, "true")
    os.kill(running.init.pid, signal.SIGKILL)
    text = running.wait().text
    assert "seen" in text  # somebody was there to be looked at
    assert "LEAK" not in text


# -- CVE-2024-21626: descriptors and the working directory ------------------------------------------------------------


def test_only_standard_descriptors_are_open(world: World) -> None:
    assert world.run(world.script("ls /proc/1/fd; ls /proc/self/fd")).words == ["0", "1", "2", "0", "1", "2", "3"]


def test_a_waiting_container_holds_nothing_of_the_host(world: World) -> None:
    running = world.create(world.spec("sleep", "60"))
    directory = f"/proc/{running.init.pid}/fd"
    links = {int(name): os.readlink(f"{directory}/{name}") for name in os.listdir(directory)}
    assert all(link.startswith(("pipe:", "socket:", "/dev/null")) for link in links.values()), links
    assert len(links) == 4  # three streams and the handshake
    root = os.stat(f"/proc/{running.init.pid}/root")
    assert (root.st_dev, root.st_ino) == (world.rootfs.stat().st_dev, world.rootfs.stat().st_ino)


@pytest.mark.parametrize("number", range(3, 24))
@pytest.mark.parametrize("prefix", ["/proc/self/fd", "/proc/1/fd", "/dev/fd"])
def test_working_directory_through_a_descriptor_leads_nowhere(
    world: World, canary: Path, prefix: str, number: int
) -> None:
    for path in (f"{prefix}/{number}", f"{prefix}/{number}/../../../../../.."):
        try:
            result = world.run(world.script(f"cat {'../' * 20}{canary}/file", cwd=path))
        except CortenError:
            continue  # refused: as good
        assert result.code != 0
        assert "untouched" not in result.text


@pytest.mark.parametrize("number", range(3, 24))
def test_working_directory_of_an_exec_through_a_descriptor(world: World, canary: Path, number: int) -> None:
    running = world.start(world.spec("sleep", "60"))
    try:
        result = world.execute(running, "cat", f"{'../' * 20}{canary}/file", cwd=f"/proc/self/fd/{number}")
    except CortenError:
        return
    assert "untouched" not in result.text


# -- CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: links where the runtime mounts or writes -------------------------


def test_null_device_of_the_image_is_not_used_for_masks(world: World, canary: Path) -> None:
    (world.rootfs / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    result = world.run(world.script("stat -c %t:%T /proc/keys; echo owned > /proc/keys; cat /proc/keys"))
    assert result.words == ["1:3"]


@pytest.mark.parametrize("devices", ["own", "none", "a file"])
def test_the_mode_of_the_hosts_null_device_cannot_be_changed_through_a_mask(world: World, devices: str) -> None:
    spec = world.script("chmod 666 /proc/keys; stat -c %t:%T /proc/keys; echo x > /proc/keys; echo written")
    if devices == "none":
        # a directory of the caller's that has no null device: the host's stands in for it
        (world.directory / "dev").mkdir()
        spec["mounts"] = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/dev")]
        spec["mounts"].append(
            {"destination": "/dev", "type": "bind", "source": str(world.directory / "dev"), "options": ["bind"]}
        )
    elif devices == "a file":
        (world.directory / "file").write_text("x")
        spec["mounts"].append(
            {"destination": "/dev/null", "type": "bind", "source": str(world.directory / "file"), "options": ["bind"]}
        )
    before = os.stat("/dev/null").st_ctime_ns
    assert world.run(spec).words[-2:] == ["1:3", "written"]
    assert os.stat("/dev/null").st_ctime_ns == before


def test_terminals_of_the_image_are_not_used(world: World, canary: Path) -> None:
    (world.rootfs / "dev/pts").mkdir()
    for name in ("pts/0", "console", "ptmx", "tty"):
        (world.rootfs / "dev" / name).symlink_to(upwards(canary / "file"))
    running = world.start(world.script("stat -c %t:%T /dev/console; tty; echo x > /dev/console", terminal=True))
    lines = read_terminal(running.init.console_fd).splitlines()
    assert lines[0].startswith("88:")
    assert lines[1] == "/dev/pts/0"
    running.kill()


@pytest.mark.parametrize("pts", ["link", "other mount", "none"])
def test_a_terminal_needs_a_devpts(world: World, canary: Path, pts: str) -> None:
    spec = world.spec("true", terminal=True)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] not in ("/dev/pts", "/dev")]
    if pts == "link":
        (world.rootfs / "dev/pts").symlink_to(upwards(canary))
    elif pts == "other mount":
        (world.rootfs / "dev/pts").mkdir()
        (world.rootfs / "dev/pts/ptmx").write_text("")
    with pytest.raises((SystemFailure, InvalidParameter)):
        world.run(spec)


@pytest.mark.parametrize("name", ["proc", "sys"])
@pytest.mark.parametrize("target", ["tmp", "{canary}", "/etc/passwd"])
def test_proc_and_sys_must_be_plain_directories(world: World, canary: Path, name: str, target: str) -> None:
    (world.rootfs / name).rmdir()
    (world.rootfs / name).symlink_to(target.format(canary=upwards(canary)))
    with pytest.raises(InvalidParameter, match=f"/{name} must be mounted on ordinary directory"):
        world.run(world.spec("true"))


@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_nothing_but_a_procfs_is_mounted_at_proc(world: World, canary: Path, kind: str) -> None:
    spec = world.spec("true")
    spec["mounts"].append({"destination": "//proc/", "type": kind, "source": str(canary), "options": []})
    with pytest.raises(InvalidParameter, match="only a procfs can be mounted at /proc"):
        world.run(spec)


@pytest.mark.parametrize("destination", ["/proc/sys", "/proc/self/attr", "/proc/1", "/proc/version", "/way"])
def test_nothing_is_mounted_inside_proc(world: World, canary: Path, destination: str) -> None:
    (world.rootfs / "way").symlink_to("/proc/sys")
    spec = world.spec("true")
    source = canary / "file" if destination.endswith("version") else canary
    spec["mounts"].append({"destination": destination, "type": "bind", "source": str(source), "options": ["bind"]})
    with pytest.raises(InvalidParameter, match="it is inside /proc"):
        world.run(spec)


def test_what_lxcfs_covers_may_be_covered(world: World, canary: Path) -> None:
    spec = world.spec("cat", "/proc/uptime")
    options = ["bind", "ro"]
    spec["mounts"].append(
        {"destination": "/proc/uptime", "type": "bind", "source": str(canary / "file"), "options": options}
    )
    assert world.run(spec).words == ["untouched"]


def test_a_fake_proc_of_the_image_gets_no_sysctl(world: World, canary: Path) -> None:
    (world.rootfs / "proc/sys/net/ipv4").mkdir(parents=True)
    (world.rootfs / "proc/sys/net/ipv4/ip_forward").symlink_to(upwards(canary / "file"))
    (world.rootfs / "proc/self").symlink_to(upwards(canary))
    spec = world.spec("true", user={"username": "bob"}, oomScoreAdj=100)
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] != "/proc"]
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert world.run(spec).code == 0
    running = world.start({**spec, "process": {**spec["process"], "args": ["sleep", "60"]}})
    assert world.execute(running, "true", oomScoreAdj=50).code == 0


# -- CVE-2024-45310, CVE-2026-41579: files made on the host -----------------------------------------------------------


@pytest.mark.parametrize("name", ["dev", "mnt", "etc"])
def test_links_to_the_host_make_nothing_there(world: World, canary: Path, name: str) -> None:
    if (world.rootfs / name).is_dir():
        for file in (world.rootfs / name).iterdir():
            file.unlink()
        (world.rootfs / name).rmdir()
    (world.rootfs / name).symlink_to(upwards(canary / "new"))
    spec = world.spec("true", cwd=f"/{name}/deep")
    spec["mounts"].append({"destination": f"/{name}/deep", "type": "tmpfs", "source": "tmpfs"})
    spec["linux"]["devices"] = [{"path": f"/{name}/node", "type": "c", "major": 1, "minor": 3}]
    with pytest.raises(CortenError):
        world.run(spec)


def test_mount_destination_that_is_exchanged_all_the_time(world: World, canary: Path) -> None:
    """CVE-2021-30465: a second container exchanges a directory and a link while mounts are made through it."""
    volume = world.directory / "volume"
    (volume / "place").mkdir(parents=True)
    (volume / "other").symlink_to(upwards(canary))
    swapper = subprocess.Popen(
        ["python3", "-c", (
            "import ctypes, sys\n"
            "libc = ctypes.CDLL(None)\n"
            "a, b = (f'{sys.argv[1]}/{name}'.encode() for name in ('place', 'other'))\n"
            "while True: libc.renameat2(-100, a, -100, b, 2)\n"
        ), str(volume)],
    )  # fmt: skip
    try:
        for _ in range(40):
            spec = world.script(
                "for f in /canary /v/place/file /v/place/deep/file; do test -e $f && echo out; done; echo end"
            )
            spec["mounts"] += [
                {"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]},
                {"destination": "/v/place/deep", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            ]
            with contextlib.suppress(CortenError):  # a link that leads nowhere inside
                assert world.run(spec).words == ["end"]
    finally:
        swapper.kill()
        swapper.wait()


# -- privileges -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /tmp",
        "mount -t cgroup -o memory none /tmp",
        "mount -t proc none /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc",
        "hostname other",
        "ip link set lo down",
        "chroot / mount -t tmpfs none /tmp",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo x > /proc/sysrq-trigger",
        "echo x > /sys/kernel/uevent_helper",
        "mkdir /sys/fs/cgroup/x",
    ],
)
def test_what_needs_more_rights_is_refused(world: World, canary: Path, command: str) -> None:
    assert world.run(world.script(f"({command}) 2>/dev/null")).code != 0


def test_no_file_of_the_kernel_can_be_opened_for_writing(world: World, canary: Path) -> None:
    """Every file below /proc/sys and /sys, by root of the container."""
    script = (
        "find /proc/sys /sys -type f 2>/dev/null > /tmp/all;"
        "while read -r f; do (: >> $f) 2>/dev/null && echo open $f; done < /tmp/all; wc -l < /tmp/all"
    )
    lines = world.run(world.script(script)).lines
    assert int(lines[-1]) > 500
    assert lines[:-1] == []


def test_inheritable_capabilities_are_empty_for_everyone(world: World) -> None:
    """CVE-2022-24769."""
    running = world.start(world.spec("sleep", "60"))
    for user in ({"uid": 0}, {"uid": 1000}):
        text = world.run(world.spec("cat", "/proc/self/status", user=user)).text
        text += world.execute(running, "cat", "/proc/self/status", user=user).text
        sets = [line.split()[1] for line in text.splitlines() if line.startswith(("CapInh", "CapAmb"))]
        assert sets == ["0" * 16] * 4


def test_primary_group_is_among_the_groups(world: World) -> None:
    """CVE-2022-36109: a file that is closed to a group stays closed to its members."""
    secret = world.rootfs / "etc/secret"
    secret.write_text("secret")
    os.chown(secret, 0, 1000)
    secret.chmod(0o604)
    result = world.run(world.script("id -G; cat /etc/secret 2>/dev/null", user={"username": "bob"}))
    assert "1000" in result.words
    assert "secret" not in result.text


def test_device_rules_hold_after_an_update(world: World) -> None:
    running = world.start(world.script("mknod /tmp/disk b 8 0; mknod /tmp/kmsg c 1 11; echo made; sleep 60"))
    assert running.output.line() == "made"
    running.init.cgroup.update({"pids": {"limit": 50}})
    for name in ("disk", "kmsg"):
        assert world.execute(running, "head", "-c", "1", f"/tmp/{name}").code != 0
    assert world.execute(running, "head", "-c", "1", "/dev/zero").code == 0


def test_a_group_that_leaves_the_hierarchy_is_refused(world: World) -> None:
    for path in ("../../escape", "/a/../../escape", "/"):
        spec = world.spec("true")
        spec["linux"]["cgroupsPath"] = path
        with pytest.raises(InvalidParameter, match="invalid cgroup path"):
            world.run(spec)


def test_no_import_after_the_root_was_entered(world: World) -> None:
    """CVE-2019-14271: modules of the image that stand where ours would be looked for are never run."""
    trojan = f"open('{world.rootfs}/owned', 'w'); open('/owned', 'w')\n"
    version = f"python{'.'.join(str(part) for part in __import__('sys').version_info[:2])}"
    library = Path(os.__file__).parent
    for place in (f"usr/lib/{version}", str(library).lstrip("/"), "work", "."):
        for module in ("encodings/__init__.py", "pwd.py", "grp.py", "socket.py", "idna.py", "sitecustomize.py"):
            file = world.rootfs / place / module
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(trojan)
    spec = world.spec("true", user={"username": "bob"}, cwd="/", env=["PATH=/bin", "PYTHONPATH=/"])
    spec["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    running = world.start({**spec, "process": {**spec["process"], "args": ["sleep", "60"]}})
    world.execute(running, "true", user={"username": "bob"})
    with pytest.raises(CortenError):
        world.execute(running, "nosuch", cwd="/nope")
    assert not (world.rootfs / "owned").exists()


def test_the_session_keyring_is_the_containers_own(world: World) -> None:
    spec = world.spec("cat", "/proc/keys")
    spec["linux"]["maskedPaths"] = []
    if not Path("/proc/keys").exists():
        pytest.skip("this machine lacks: keyrings")
    assert any("_ses.t: empty" in line for line in world.run(spec).lines)


def test_every_try_is_told_and_none_is_left(world: World, canary: Path) -> None:
    """Many hostile starts in a row leave no mount, no group and no process."""
    mounts, processes = Path("/proc/self/mountinfo").read_text(), children()
    changes: list[Any] = [
        lambda spec: spec["process"].update(cwd="/proc/self/fd/7"),
        lambda spec: spec["process"].update(user={"username": "4294967296"}),
        lambda spec: spec["process"].update(args=["/proc/self/exe"]),
        lambda spec: spec["mounts"].append({"destination": "/proc/sys", "type": "tmpfs", "source": "x"}),
        lambda spec: spec["linux"].update(sysctl={"net.nosuch": "1"}),
    ]
    for number in range(25):
        spec = world.spec("true")
        changes[number % len(changes)](spec)
        with pytest.raises(CortenError):
            world.run(spec)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert children() == processes

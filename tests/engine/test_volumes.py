"""Volumes on the kernel: driver options, subpaths, copies with everything a file can have, hostile neighbours."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from corten.engine import copy_up as copying
from corten.engine.events import Events
from corten.engine.mount_point import MountPoint
from corten.engine.volumes import Volumes
from corten.errors import InvalidParameter, SystemFailure
from corten.linux import mount as kernel


@pytest.fixture
def data_root(tmp_path):
    return tmp_path / "data root"  # a blank, as mountinfo writes it differently


def open_volumes(root: Path) -> Volumes:
    root.mkdir(exist_ok=True)
    database = sqlite3.connect(root / "corten.db", isolation_level=None, check_same_thread=False)
    return Volumes(root, database, Events())


@pytest.fixture
def volumes(data_root):
    return open_volumes(data_root)


def no_root():
    raise AssertionError("nothing is to be copied")


def point(name="data", destination="/data", **fields):
    return MountPoint(type="volume", name=name, driver="local", destination=destination, **fields)


def acquired(volumes, container_id="c1", *points, root=no_root):
    located = [volumes.of_containers.located(item) for item in points]
    volumes.of_containers.acquire_all(container_id, located, root)
    return located


def kinds(path) -> list[str]:
    """File systems mounted at a path, the lowest first."""
    text = str(path).replace(" ", "\\040")
    with open("/proc/self/mountinfo") as table:
        return [line.partition(" - ")[2].split()[0] for line in table if line.split()[4] == text]


TMPFS = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000,mode=0750,noexec"}


def test_a_file_system_is_mounted_for_its_users(volumes, data_root):
    inside = data_root / "volumes/fast/_data"
    points = acquired(volumes, "c1", point("fast", driver_options=TMPFS))
    acquired(volumes, "c2", point("fast"))
    assert kinds(inside) == []
    volumes.of_containers.mount_all("c1", points)
    volumes.of_containers.mount_all("c2", points)
    assert kinds(inside) == ["tmpfs"]
    status = os.stat(inside)
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1000, 0o750)
    assert os.statvfs(inside).f_blocks * os.statvfs(inside).f_frsize == 1 << 20
    assert os.statvfs(inside).f_flag & os.ST_NOEXEC
    volumes.of_containers.unmount_all("c1", points)
    assert kinds(inside) == ["tmpfs"]
    volumes.of_containers.unmount_all("c1", points)  # again is no error, and takes nothing from others
    assert kinds(inside) == ["tmpfs"]
    volumes.of_containers.unmount_all("c2", points)
    assert kinds(inside) == []


def test_a_bind_of_a_host_directory(volumes, data_root, tmp_path):
    host = tmp_path / "host"
    host.mkdir()
    (host / "file").write_text("x")
    options = {"type": "none", "device": str(host), "o": "bind,ro"}
    points = acquired(volumes, "c1", point(driver_options=options))
    volumes.of_containers.mount_all("c1", points)
    inside = data_root / "volumes/data/_data"
    try:
        # the same file system: nothing but the mount tells that it is one
        assert os.stat(inside).st_dev == os.stat(inside.parent).st_dev
        assert (inside / "file").read_text() == "x"
        with pytest.raises(OSError, match="Read-only"):
            (inside / "other").write_text("x")
        # a new daemon does not mount a second time
        again = open_volumes(data_root)
        again.of_containers.recover({"c1": points}, {"c1"})
        again.of_containers.mount_all("c1", points)
        assert len(kinds(inside)) == 1
        again.of_containers.unmount_all("c1", points)
        assert kinds(inside) == []
    finally:
        volumes.of_containers.unmount_all("c1", points)
    volumes.of_containers.release("c1")
    volumes.store.remove("data")
    assert (host / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"type": "none", "device": "/nowhere/at/all", "o": "bind"},
            SystemFailure,
            "failed to mount local volume: mount /nowhere/at/all:",
        ),
        ({"type": "nosuchfs", "device": "x"}, SystemFailure, "failed to mount local volume: mount x:"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "colour=red"}, SystemFailure, "colour"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "remount"}, InvalidParameter, "not understood"),
        ({"type": "none", "device": "/", "o": "bind,uid=5"}, InvalidParameter, "'uid=5' cannot be used with a bind"),
        (
            {"type": "cifs", "device": "//127.0.0.1/x", "o": "username=a,password=secret"},
            SystemFailure,
            "password=********",
        ),
        (
            {"type": "nfs", "device": ":/x", "o": "addr=no.such.host.invalid"},
            SystemFailure,
            "error resolving passed in network volume address",
        ),
    ],
)
def test_what_cannot_be_mounted_says_why_and_leaves_nothing(volumes, data_root, options, kind, text):
    points = acquired(volumes, "c1", point("good", "/good", driver_options=TMPFS), point(driver_options=options))
    with pytest.raises(kind) as caught:
        volumes.of_containers.mount_all("c1", points)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)
    assert kinds(data_root / "volumes/good/_data") == []
    assert volumes.store.mounts._users == {}


def test_a_leftover_mount_does_not_keep_a_volume(volumes, data_root):
    points = acquired(volumes, "c1", point(driver_options=TMPFS))
    volumes.of_containers.mount_all("c1", points)
    # the daemon and its container die; nobody unmounts
    again = open_volumes(data_root)
    again.of_containers.recover({}, set())
    again.store.remove("data")
    assert not (data_root / "volumes/data").exists()
    assert kinds(data_root / "volumes/data/_data") == []


def test_exits_that_a_daemon_missed_release_the_mount(volumes, data_root):
    points = acquired(volumes, "c1", point(driver_options=TMPFS))
    volumes.of_containers.mount_all("c1", points)
    again = open_volumes(data_root)
    again.of_containers.recover({"c1": points}, {"c1"})
    again.of_containers.unmount_all("c1", points)
    assert kinds(data_root / "volumes/data/_data") == []


# -- subpaths ---------------------------------------------------------------------------------------------------------


def filled(volumes, data_root) -> Path:
    acquired(volumes, "c1", point())
    inside = data_root / "volumes/data/_data"
    (inside / "sub/deep").mkdir(parents=True)
    (inside / "sub/file").write_text("part")
    return inside


def test_a_part_of_a_volume(volumes, data_root):
    filled(volumes, data_root)
    (part, single) = points = acquired(
        volumes, "c1", point(subpath="sub"), point(destination="/single", subpath="sub/file")
    )
    volumes.of_containers.mount_all("c1", points)
    assert sorted(os.listdir(part.host_path)) == ["deep", "file"]
    assert Path(single.host_path).read_text() == "part"
    volumes.of_containers.mount_all("c1", points)  # a second start after a crash finds its place taken
    assert sorted(os.listdir(part.host_path)) == ["deep", "file"]
    volumes.of_containers.unmount_all("c1", points)
    assert os.listdir(data_root / "volumes/.subpaths") == []


def test_a_part_that_is_not_there(volumes, data_root):
    filled(volumes, data_root)
    points = acquired(volumes, "c1", point(subpath="sub"), point(destination="/x", subpath="absent"))
    with pytest.raises(InvalidParameter, match="cannot access path absent in volume data"):
        volumes.of_containers.mount_all("c1", points)
    assert os.listdir(data_root / "volumes/.subpaths") == []


def test_links_in_a_volume_stay_in_it(volumes, data_root, tmp_path):
    inside = filled(volumes, data_root)
    (tmp_path / "canary").mkdir()
    (inside / "out").symlink_to(tmp_path / "canary")
    (inside / "up").symlink_to("../../../..")
    (inside / "in").symlink_to("/sub")
    (part,) = points = acquired(volumes, "c1", point(subpath="in"))
    volumes.of_containers.mount_all("c1", points)
    assert "file" in os.listdir(part.host_path)
    volumes.of_containers.unmount_all("c1", points)
    with pytest.raises(InvalidParameter):
        volumes.of_containers.mount_all("c1", acquired(volumes, "c1", point(subpath="out")))
    (top,) = points = acquired(volumes, "c1", point(subpath="up"))
    volumes.of_containers.mount_all("c1", points)
    assert "sub" in os.listdir(top.host_path)
    volumes.of_containers.unmount_all("c1", points)


def test_places_of_parts_are_swept(volumes, data_root):
    filled(volumes, data_root)
    kept, left = acquired(volumes, "c1", point(subpath="sub")), acquired(volumes, "c2", point(subpath="sub"))
    volumes.of_containers.mount_all("c1", kept)
    volumes.of_containers.mount_all("c2", left)
    again = open_volumes(data_root)
    again.of_containers.recover({"c1": kept}, {"c1", "c2"})
    assert os.listdir(data_root / "volumes/.subpaths") == [Path(kept[0].attached).name]
    again.of_containers.unmount_all("c1", kept)
    assert os.listdir(data_root / "volumes/.subpaths") == []


# -- copy-up ----------------------------------------------------------------------------------------------------------


def described(top: Path) -> dict:
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        content = b""
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        elif kind == stat.S_IFLNK:
            content = os.fsencode(os.readlink(path))
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        times = status.st_mtime_ns
        device = status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        found[str(path.relative_to(top))] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            times,
            device,
            content,
            attributes,
        )
    return found


@pytest.fixture
def source(tmp_path):
    top = tmp_path / "source"
    (top / "a/b").mkdir(parents=True)
    (top / "a/file").write_bytes(os.urandom(100_000))
    (top / "a/set").write_text("x")
    os.chown(top / "a/set", 1000, 50)
    os.chmod(top / "a/set", 0o6755)
    os.setxattr(top / "a/set", "user.note", b"\0bytes")
    # cap_net_raw, as a file has it
    os.setxattr(top / "a/file", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.link(top / "a/file", top / "a/b/hard")
    os.link(top / "a/file", top / "hard too")
    (top / "link").symlink_to("../../../etc/passwd")
    os.lchown(top / "link", 7, 8)
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(top / "null", 0o622)
    (top / "sticky").mkdir()
    os.chmod(top / "sticky", 0o3777)
    os.chown(top / "sticky", 3, 4)
    os.setxattr(top / "sticky", "trusted.overlay.opaque", b"y")
    with open(top / "sparse", "wb") as file:
        file.truncate(50 << 20)
        file.seek(20 << 20)
        file.write(b"middle")
    (top / os.fsdecode(b"\xff\xfe name\n")).write_text("odd")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        if not path.is_symlink():
            os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_000_007))
    os.chown(top, 11, 12)
    os.chmod(top, 0o751)
    os.utime(top, ns=(1, 123_456_789))
    return top


@contextlib.contextmanager
def opened(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy(source, target) -> bool:
    with opened(source) as reading, opened(target) as writing:
        return copying.copy_up(reading, writing)


def test_a_copy_is_like_the_original(source, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    expected = described(source)
    assert copy(source, target)
    found = described(target)
    assert expected["sticky"][-1].pop("trusted.overlay.opaque") == b"y"  # means something to overlayfs, not to a volume
    assert found == expected
    links = {os.stat(target / name).st_ino for name in ("a/file", "a/b/hard", "hard too")}
    assert len(links) == 1
    assert os.stat(target / "sparse").st_blocks * 512 < 1 << 20
    assert not copy(source, target)  # it is not empty any more


def make_deep(top: Path, name: str, levels: int) -> None:
    top.mkdir()
    current = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=current)
        following = os.open(name, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = following
    os.close(current)


def empty(*directories: Path) -> None:
    for directory in directories:
        with opened(directory) as top:
            copying.empty(top)


def test_deep_trees_are_copied(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    make_deep(source, "d", 1200)
    target.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    assert copy(source, target)
    assert os.path.isdir(f"{target}/{'/'.join(['d'] * 1200)}")
    assert len(os.listdir("/proc/self/fd")) == before
    empty(source, target)


def test_trees_too_deep_for_the_kernel_s_paths_fail_cleanly(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    make_deep(source, "x" * 200, 50)
    target.mkdir()
    with pytest.raises(OSError, match="name too long"):
        copy(source, target)
    assert os.listdir(target) == []
    empty(source)


@pytest.mark.parametrize("tries", [60])
def test_a_neighbour_who_swaps_directories_for_links_gets_nothing(tmp_path, tries):
    """Another container shares the volume and exchanges a directory that is being filled with a link to the host."""
    canary = tmp_path / "canary"
    canary.mkdir()
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for number in range(40):
        (source / f"d/f{number}").write_text("from the image")
        os.link(source / f"d/f{number}", source / f"d/l{number}")
    os.mkfifo(source / "d/fifo", 0o777)
    raced = 0
    for number in range(tries):
        target = tmp_path / f"target{number}"
        target.mkdir()
        stop = threading.Event()

        def swap(target=target, stop=stop):
            nonlocal raced
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    os.rename(target / "d", target / "moved")
                    os.symlink(canary, target / "d")
                    raced += 1
                    return

        thread = threading.Thread(target=swap)
        thread.start()
        with contextlib.suppress(OSError):
            copy(source, target)
        stop.set()
        thread.join()
        assert os.listdir(canary) == []
    assert raced > tries // 10, "the race never happened: the test shows nothing"
    assert stat.S_IMODE(canary.stat().st_mode) == 0o755


def test_filling_a_volume_that_is_a_mount(volumes, data_root, tmp_path, source):
    host = tmp_path / "host"
    host.mkdir()
    root = tmp_path / "image"
    root.mkdir()
    os.rename(source, root / "data")

    @contextlib.contextmanager
    def opener():
        with opened(root) as descriptor:
            yield descriptor

    options = {"type": "none", "device": str(host), "o": "bind"}
    acquired(volumes, "c1", point(copy_up=True, driver_options=options), root=opener)
    assert "fifo" in os.listdir(host)
    assert kinds(data_root / "volumes/data/_data") == []
    assert os.listdir(data_root / "volumes/data/_data") == []


def test_a_full_volume_is_empty_again(volumes, data_root, tmp_path):
    root = tmp_path / "image"
    (root / "data").mkdir(parents=True)
    (root / "data/big").write_bytes(b"x" * (2 << 20))
    place = data_root / "volumes/data/_data"
    acquired(volumes, "c0", point())
    kernel.mount("tmpfs", str(place), "tmpfs", 0, "size=1m")
    try:
        with pytest.raises(SystemFailure, match="failed to populate volume data"), opened(root) as descriptor:
            volumes.of_containers.copy_up(point(copy_up=True), descriptor)
        assert os.listdir(place) == []
    finally:
        subprocess.run(["umount", place], check=True)

"""Files of containers on the kernel: roots with mounts, of programs that run and of those that do not, and races."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import signal
import sqlite3
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from corten.dockerapi.container import HostConfig
from corten.engine import archive
from corten.engine.container import Container, State, Status
from corten.engine.container_root import StoppedRoot, running_root
from corten.engine.events import Events
from corten.engine.image_mounts import ImageMounts
from corten.engine.mount_parsing import parse_bind
from corten.engine.mount_point import MountPoint
from corten.engine.volumes import Volumes
from corten.errors import CortenError, Forbidden, NotFound
from corten.linux import mount as kernel
from corten.linux import process
from corten.snapshot.overlay import OverlaySnapshotter
from corten.snapshot.vfs import VfsSnapshotter
from records import record

ID = "c" * 64


class Box:
    """A container's files on a real snapshotter, without a daemon."""

    def __init__(self, root: Path, kind):
        self.root = root
        self.snapshotter = kind(root)
        self.database = sqlite3.connect(root / "corten.db", isolation_level=None, check_same_thread=False)
        self.volumes = Volumes(root, self.database, Events())
        self.stopped = StoppedRoot(
            self.snapshotter, self.volumes.of_containers, ImageMounts(root, None, self.snapshotter)
        )
        self.place = root / "containers" / ID
        self.place.mkdir(parents=True)
        layer = self.snapshotter.stage(None)
        base = self.snapshotter.diff_path(layer)
        for name in ("etc", "data", "mnt"):
            (base / name).mkdir(parents=True)
        (base / "etc/file").write_text("image")
        (base / "data/below").write_text("hidden by the volume")
        (base / "link").symlink_to("/data")
        self.snapshotter.commit(layer, None)
        self.snapshotter.create(ID, layer)

    def container(self, *points, **host) -> Container:
        located = [self.volumes.of_containers.located(point) for point in points]
        self.volumes.of_containers.acquire_all(ID, located, lambda: contextlib.nullcontext(-1))
        return record(id=ID, host_config=HostConfig(**host), driver=self.snapshotter.name, mount_points=located)

    @contextlib.contextmanager
    def view(self, container, *, read_only=True):
        with self.stopped.open(container, self.place, read_only=read_only) as root:
            yield archive.View(container, root, "box")

    def put(self, container, path, **files):
        with self.view(container, read_only=False) as view:
            archive.put(view, path, tar_of(**files), no_overwrite_dir_non_dir=False, copy_uid_gid=False)

    def get(self, container, path):
        with self.view(container) as view:
            return names(b"".join(archive.get(view, path)))

    def stat(self, container, path):
        with self.view(container) as view:
            return archive.stat(view, path)


@pytest.fixture(params=[OverlaySnapshotter, VfsSnapshotter], ids=["overlay2", "vfs"])
def box(request, tmp_path):
    made = Box(tmp_path, request.param)
    yield made
    made.snapshotter.remove(ID)
    made.database.close()


@pytest.fixture
def overlay_box(tmp_path):
    made = Box(tmp_path, OverlaySnapshotter)
    yield made
    made.snapshotter.remove(ID)
    made.database.close()


def tar_of(**files) -> io.BytesIO:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    raw.seek(0)
    return raw


def names(raw: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return tar.getnames()


def volume(name="data", destination="/data", **fields):
    return MountPoint(type="volume", name=name, driver="local", destination=destination, **fields)


def inside(box, name="data"):
    return box.root / f"volumes/{name}/_data"


def test_without_mounts(box):
    container = box.container()
    assert box.get(container, "/etc/file") == ["file"]
    box.put(container, "/etc", new=b"x")
    assert "etc/new" in box.get(container, "/etc")
    with pytest.raises(NotFound):
        box.stat(container, "/etc/other")


def test_a_volume_shows_where_it_is_mounted(box):
    container = box.container(volume())
    (inside(box) / "mine").write_text("volume")
    assert box.get(container, "/data") == ["data", "data/mine"]
    assert box.get(container, "/link/") == ["link", "link/mine"]
    assert box.stat(container, "/link/mine")["size"] == 6
    assert "/data/mine" in box.get(container, "/")
    with pytest.raises(NotFound):
        box.stat(container, "/data/below")


def test_what_is_put_goes_where_the_path_leads(box):
    container = box.container(volume())
    box.put(container, "/link", through=b"the link")
    assert (inside(box) / "through").read_text() == "the link"
    box.put(container, "/etc", own=b"x")
    assert os.listdir(inside(box)) == ["through"]


def test_read_only_mounts_and_roots(box, tmp_path):
    host = tmp_path / "host"
    host.mkdir()
    points = (volume(), volume("frozen", "/mnt/v", rw=False), parse_bind(f"{host}:/mnt/b:ro"))
    container = box.container(*points, readonly_rootfs=True)
    box.put(container, "/data", allowed=b"x")
    for path in ("/mnt/v", "/mnt/b"):
        with pytest.raises(Forbidden, match=r"^mounted volume is marked read-only$"):
            box.put(container, path, refused=b"x")
    for path in ("/etc", "/", "/mnt"):
        with pytest.raises(Forbidden, match=r"^container rootfs is marked read-only$"):
            box.put(container, path, refused=b"x")
    assert os.listdir(host) == []
    assert os.listdir(inside(box)) == ["allowed"]


def test_mount_points_that_the_image_lacks(box):
    container = box.container(volume("one", "/new/place"), volume("two", "/data"))
    assert box.stopped.lacks_mount_points(container)
    with pytest.raises(NotFound):
        box.stat(container, "/new/place")
    box.put(container, "/new/place", file=b"x")
    assert os.listdir(inside(box, "one")) == ["file"]
    assert not box.stopped.lacks_mount_points(container)
    assert box.get(container, "/new") == ["new", "new/place", "new/place/file"]


def test_nested_mounts_and_single_files(box, tmp_path):
    (tmp_path / "one").write_text("file of the host")
    points = (
        volume("outer", "/data"),
        volume("inner", "/data/in"),
        parse_bind(f"{tmp_path}/one:/etc/file"),
        parse_bind(f"{tmp_path}/gone:/mnt"),
    )
    container = box.container(*points)
    box.put(container, "/data/in", file=b"x")
    assert os.listdir(inside(box, "inner")) == ["file"]
    with box.view(container) as view:
        raw = b"".join(archive.get(view, "/etc/file"))
    assert b"file of the host" in raw
    assert box.get(container, "/mnt") == ["mnt"]


def test_a_part_of_a_volume(box):
    container = box.container(volume())
    (inside(box) / "sub").mkdir()
    (inside(box) / "sub/file").write_text("x")
    part = box.container(volume(destination="/mnt", subpath="sub"))
    assert box.get(part, "/mnt") == ["mnt", "mnt/file"]
    assert box.get(container, "/data/sub") == ["sub", "sub/file"]


def test_a_volume_of_driver_options_is_mounted_meanwhile(box):
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    container = box.container(volume(driver_options=options))
    with box.view(container) as view:
        assert archive.stat(view, "/data")["name"] == "data"
        assert os.path.ismount(inside(box))
        assert names(b"".join(archive.get(view, "/data"))) == ["data"]
    assert not os.path.ismount(inside(box))


def test_hosts_and_hostname_are_what_the_program_saw(box):
    container = box.container()
    (box.place / "hosts").write_text("127.0.0.1 me\n")
    with box.view(container) as view:
        assert b"127.0.0.1 me" in b"".join(archive.get(view, "/etc/hosts"))


def test_nothing_of_a_view_is_seen_by_others_or_stays(box):
    def mounted() -> list[str]:
        """Only ours: others may mount and unmount meanwhile."""
        return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(box.root) in line]

    container = box.container(volume())
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    with box.view(container) as view:
        assert mounted() == []
        assert os.listdir(box.place) == []
        assert archive.stat(view, "/data")
    assert mounted() == []
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_a_view_is_whole_for_as_long_as_it_is_read(overlay_box):
    container = overlay_box.container(volume())
    for number in range(50):
        (inside(overlay_box) / f"f{number}").write_bytes(os.urandom(200_000))
    with overlay_box.view(container) as view:
        chunks = archive.get(view, "/")
        first = next(chunks)
        raw = first + b"".join(chunks)
    assert sum(name.startswith("/data/f") for name in names(raw)) == 50


def test_a_mount_point_that_is_a_link_out_of_the_root(overlay_box, tmp_path):
    """The image made its mount point a link: what is mounted there must not land on the host."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("host")
    upper = overlay_box.snapshotter.upper_path(ID)
    (upper / "trap").symlink_to(canary)
    (upper / "dots").symlink_to("../../../../../../.." + str(canary))
    container = overlay_box.container(volume("one", "/trap/x"), volume("two", "/dots"))
    with contextlib.suppress(CortenError):
        overlay_box.put(container, "/trap/x", evil=b"x")
    with contextlib.suppress(CortenError):
        overlay_box.put(container, "/dots", evil=b"x")
    assert os.listdir(canary) == ["file"]
    with pytest.raises(NotFound):
        overlay_box.stat(container, "/trap/file")


# -- a program that runs ----------------------------------------------------------------------------------------------


class Program:
    """A process in a mount namespace and a root of its own, and in a cgroup that carries its container's id."""

    def __init__(self, rootfs: Path, container_id: str):
        self.cgroup = Path("/sys/fs/cgroup/pids/corten-test-files") / container_id
        if not self.cgroup.parent.parent.is_dir():
            self.cgroup = Path("/sys/fs/cgroup/corten-test-files") / container_id
        self.cgroup.mkdir(parents=True)

        def enter() -> None:
            (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
            process.unshare(process.CLONE_NEWNS)
            kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
            kernel.mount(str(rootfs), str(rootfs), "", kernel.MS_BIND | kernel.MS_REC)
            os.chroot(rootfs)
            os.chdir("/")

        self.child = subprocess.Popen(["/bin/sleep", "600"], preexec_fn=enter, start_new_session=True)

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self.cgroup.rmdir()
        self.cgroup.parent.rmdir()


def running(pid: int, container_id: str = ID) -> Container:
    return record(id=container_id, state=State(status=Status.RUNNING, pid=pid))


@pytest.fixture
def program(busybox_rootfs):
    made = Program(busybox_rootfs, ID)
    yield SimpleNamespace(root=busybox_rootfs, pid=made.child.pid, child=made.child)
    made.end()


def test_the_root_of_a_program(program):
    container = running(program.pid)
    with running_root(container) as root:
        view = archive.View(container, root, "box")
        assert archive.stat(view, "/etc/passwd")["size"] > 0
        archive.put(view, "/tmp", tar_of(new=b"x"), no_overwrite_dir_non_dir=False, copy_uid_gid=False)
    assert (program.root / "tmp/new").read_text() == "x"


def test_another_process_is_never_taken_for_it(program):
    with pytest.raises(CortenError, match="is not running"), running_root(running(program.pid, "d" * 64)):
        pass
    with pytest.raises(CortenError, match="is not running"), running_root(running(os.getpid())):
        pass
    with pytest.raises(CortenError, match="is not running"), running_root(running(4_000_000)):
        pass


def test_a_program_that_ended_is_not_running(program):
    os.kill(program.pid, signal.SIGKILL)
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(CortenError, match="is not running"), running_root(running(program.pid)):
        pass


@pytest.mark.parametrize("direction", ["out", "in", "stat"])
def test_a_program_that_swaps_directories_for_links_reaches_nothing(program, tmp_path, direction):
    """CVE-2018-15664: while files are copied, /swap/d is by turns a directory and a link to the host's files."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("SECRET")
    work = program.root / "swap"
    (work / "d").mkdir(parents=True)
    (work / "d/file").write_text("own")
    (work / "link").symlink_to("../" * 12 + os.path.relpath(canary, "/"))
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        libc = ctypes.CDLL(None, use_errno=True)
        one, two = os.fsencode(work / "d"), os.fsencode(work / "link")
        while not stop.is_set():
            if libc.renameat2(-100, one, -100, two, 2) == 0:
                swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    container = running(program.pid)
    seen = []
    try:
        # as long as it takes for both sides to have had their turns, also on a busy machine
        deadline = time.monotonic() + 30
        tries = 0
        while (tries < 400 or swaps < 400 or len(seen) < 20) and time.monotonic() < deadline:
            tries += 1
            with running_root(container) as root, contextlib.suppress(CortenError):
                view = archive.View(container, root, "box")
                if direction == "out":
                    seen.append(b"".join(archive.get(view, "/swap/d/file")))
                elif direction == "stat":
                    seen.append(str(archive.stat(view, "/swap/d/file")).encode())
                else:
                    archive.put(view, "/swap/d", tar_of(evil=b"x"), no_overwrite_dir_non_dir=False, copy_uid_gid=False)
                    seen.append(b"")
    finally:
        stop.set()
        thread.join()
    assert swaps >= 400, "the race never happened: the test shows nothing"
    assert len(seen) >= 20, "every attempt failed: the test shows nothing"
    assert not any(b"SECRET" in item for item in seen)
    assert os.listdir(canary) == ["file"]
    assert (canary / "file").read_text() == "SECRET"

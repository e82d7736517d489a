"""Images on the real kernel: what an overlay makes of our layers, owners, devices, the machine's own root."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "unit"))
import image_archives as archives
from tar_builder import Tar

from corten.image.store import ImageStore
from corten.snapshot.overlay import OverlaySnapshotter
from corten.snapshot.vfs import VfsSnapshotter

CONTAINER = "c" * 64
CAP_NET_RAW = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


class Place:
    def __init__(self, directory: Path, driver: type) -> None:
        self.data_root = directory / "data"
        self.data_root.mkdir(parents=True)
        self.snapshotter = driver(self.data_root)
        self.store = ImageStore(self.data_root, self.snapshotter, exec_root=directory / "run")

    def load(self, *layers: bytes, tag: str = "a:1") -> None:
        self.store.archives.load(io.BytesIO(archives.tar(archives.docker_members(list(layers), tags=[tag]))))

    def root(self, tag: str = "a:1"):
        return self.snapshotter.open_layer(self.store.get(tag).layers[-1])


@pytest.fixture(params=[OverlaySnapshotter, VfsSnapshotter])
def place(tmp_path: Path, request) -> Iterator[Place]:
    made = Place(tmp_path, request.param)
    yield made
    made.store.close()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, OverlaySnapshotter)
    yield made
    made.store.close()


def listing(root: int, path: str = ".") -> list[str]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)
    try:
        return sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)


def read(root: int, path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY, dir_fd=root)
    with open(descriptor, "rb") as file:
        return file.read()


def status(root: int, path: str) -> os.stat_result:
    return os.stat(path, dir_fd=root, follow_symlinks=False)


def attribute(root: int, path: str, name: str) -> bytes:
    return os.getxattr(f"/proc/self/fd/{root}/{path}", name, follow_symlinks=False)


LAYERS = (
    Tar()
    .dir("a")
    .file("a/1", b"1")
    .file("a/2", b"2")
    .dir("b")
    .file("b/1", b"1")
    .dir("c")
    .file("c/1", b"1")
    .file("f", b"f")
    .bytes(),
    Tar()
    .dir("a")
    .file("a/.wh.1")
    .dir("b")
    .file("b/.wh..wh..opq")
    .file("b/new", b"n")
    .file(".wh.c")
    .file(".wh.f")
    .bytes(),
    Tar().dir("c").file("c/again", b"x").bytes(),
)


def test_stacked_layers_show_what_the_specification_says(place):
    place.load(*LAYERS)
    with place.root() as root:
        assert listing(root) == ["a", "b", "c"]
        assert listing(root, "a") == ["2"]
        assert listing(root, "b") == ["new"]
        assert listing(root, "c") == ["again"]


def test_a_whiteout_and_a_directory_of_one_layer(place):
    place.load(LAYERS[0], Tar().file(".wh.a").dir("a").file("a/3", b"3").bytes())
    with place.root() as root:
        assert listing(root, "a") == ["3"]


def test_an_opaque_root(place):
    place.load(LAYERS[0], Tar().file(".wh..wh..opq").dir("b").file("b/own", b"x").bytes())
    with place.root() as root:
        assert listing(root) == ["b"]
        assert listing(root, "b") == ["own"]


def test_everything_a_file_can_have(place):
    raw = (
        Tar()
        .dir("d", uid=1000, gid=2000, mode=0o2775)
        .file("d/owned", b"x", uid=1000, gid=1000, mode=0o4750)
        .file("d/mine", b"x", uid=0, gid=0)
        .file("d/capable", b"x", uid=5, gid=5, mode=0o755, xattrs={"security.capability": CAP_NET_RAW})
        .file("d/trusted", b"x", xattrs={"trusted.note": "v", "user.note": "w"})
        .symlink("d/link", "anywhere", uid=7, gid=8)
        .add("char", "d/null", devmajor=1, devminor=3, mode=0o666, uid=3, gid=4)
        .add("block", "d/disk", devmajor=8, devminor=300_000, mode=0o660)
        .add("fifo", "d/fifo", mode=0o622, uid=9, gid=9)
        .file("d/id", b"x", uid=4_000_000_000, gid=4_000_000_001)
        .bytes()
    )
    place.load(raw)
    with place.root() as root:
        for name, expected in {
            "d": (1000, 2000, 0o2775),
            "d/owned": (1000, 1000, 0o4750),
            "d/mine": (0, 0, 0o644),  # not the directory's group, although it is set-group-id
            "d/capable": (5, 5, 0o755),
            "d/link": (7, 8, 0o777),
            "d/null": (3, 4, 0o666),
            "d/fifo": (9, 9, 0o622),
            "d/id": (4_000_000_000, 4_000_000_001, 0o644),
        }.items():
            found = status(root, name)
            assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == expected, name
            assert found.st_mtime == 1_700_000_000, name
        assert status(root, "d/null").st_rdev == os.makedev(1, 3)
        assert status(root, "d/disk").st_rdev == os.makedev(8, 300_000)
        assert attribute(root, "d/capable", "security.capability") == CAP_NET_RAW.encode("latin-1")
        assert attribute(root, "d/trusted", "trusted.note") == b"v"
    assert raw in b"".join(place.store.archives.save(["a:1"]))


def test_smuggled_overlay_marks_hide_nothing(place):
    evil = (
        Tar()
        .dir("a", xattrs={"trusted.overlay.opaque": "y", "user.overlay.opaque": "y"})
        .dir("b", xattrs={"trusted.overlay.redirect": "/a"})
        .add("char", "f", devmajor=0, devminor=0)
        .bytes()
    )
    place.load(LAYERS[0], evil)
    with place.root() as root:
        assert listing(root, "a") == ["1", "2"]
        assert listing(root, "b") == ["1"]
        assert read(root, "f") == b"f"


def test_devices_in_an_archive_never_reach_the_machine(place):
    before = sorted(os.listdir("/dev"))
    place.load(Tar().symlink("dev", "/dev").bytes())
    from corten.errors import CortenError

    with pytest.raises(CortenError):
        place.load(
            Tar().symlink("dev", "/dev").add("char", "dev/corten-test", devmajor=1, devminor=3).bytes(), tag="b:1"
        )
    assert sorted(os.listdir("/dev")) == before


def change(place: Place, root: int) -> None:
    """What a container may do to the layers of LAYERS[0]."""

    def at(path: str) -> str:
        return f"/proc/self/fd/{root}/{path}"

    os.unlink("a/1", dir_fd=root)
    os.unlink("c/1", dir_fd=root)
    os.rmdir("c", dir_fd=root)
    os.mkdir("c", 0o710, dir_fd=root)
    Path(at("c/new")).write_bytes(b"c")
    Path(at("b/1")).write_bytes(b"changed")
    os.chmod(at("f"), 0o4711)
    os.symlink("nowhere", at("link"))
    os.link(at("b/1"), at("b/hard"))
    os.mknod("node", stat.S_IFCHR | 0o600, os.makedev(5, 1), dir_fd=root)
    os.mkfifo(at("fifo"))
    Path(at("n" * 200)).write_bytes(b"long")
    os.setxattr(at("b/1"), "user.note", b"v")
    os.chown(at("b/1"), 1234, 4321)
    with open(at("sparse"), "wb") as file:
        file.seek(8 << 20)
        file.write(b"end")
    os.mkdir("deep", dir_fd=root)
    os.mkdir("deep/er", dir_fd=root)


def test_commit_takes_every_kind_of_change(place):
    place.load(LAYERS[0])
    base = place.store.get("a:1")
    place.snapshotter.create(CONTAINER, base.layers[-1])
    with place.snapshotter.open_rootfs(CONTAINER, False) as root:
        change(place, root)
    place.store.commit(CONTAINER, base.id, {"Cmd": ["x"]}, reference="a:2")
    place.snapshotter.remove(CONTAINER)
    raw = b"".join(place.store.archives.save(["a:2"]))
    with place.root("a:2") as root:
        assert listing(root, "a") == ["2"]
        assert listing(root, "c") == ["new"]
        assert read(root, "b/1") == b"changed"
        assert status(root, "b/1").st_ino == status(root, "b/hard").st_ino
        assert (status(root, "b/1").st_uid, status(root, "b/1").st_gid) == (1234, 4321)
        assert attribute(root, "b/1", "user.note") == b"v"
        assert stat.S_IMODE(status(root, "f").st_mode) == 0o4711
        assert os.readlink("link", dir_fd=root) == "nowhere"
        assert status(root, "node").st_rdev == os.makedev(5, 1)
        assert stat.S_ISFIFO(status(root, "fifo").st_mode)
        assert read(root, "n" * 200) == b"long"
        assert status(root, "sparse").st_size == (8 << 20) + 3
        assert status(root, "sparse").st_blocks * 512 < 1 << 20
        assert listing(root, "deep/er") == []
    # and another store makes the same of it
    assert raw.count(b"a/.wh.1") == 1
    with tarfile.open(
        fileobj=io.BytesIO(b"".join(place.store.open_layer_tar(place.store.get("a:2").layers[-1])))
    ) as tar:
        assert {"a/.wh.1"} <= set(tar.getnames())


def test_128_layers_mount(overlay):
    layers = [Tar().file(f"f{number}", b"x").bytes() for number in range(127)]
    overlay.load(*layers)
    with overlay.root() as root:
        assert len(listing(root)) == 127
    overlay.snapshotter.create(CONTAINER, overlay.store.get("a:1").layers[-1])
    with overlay.snapshotter.open_rootfs(CONTAINER, False) as root:
        assert len([name for name in listing(root) if name.startswith("f")]) == 127
    overlay.snapshotter.remove(CONTAINER)


def test_a_full_disk_leaves_nothing_and_the_store_alive(tmp_path):
    """On a small file system of its own."""
    image = tmp_path / "disk"
    mounted = tmp_path / "mnt"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    try:
        from corten.errors import SystemFailure

        place = Place(mounted, OverlaySnapshotter)
        before = set(place.snapshotter.ids())
        big = Tar().file("big", os.urandom(1 << 20) * 200).bytes()
        with pytest.raises(SystemFailure, match="no space left on device"):
            place.load(big)
        assert set(place.snapshotter.ids()) == before
        place.load(LAYERS[0])
        place.store.close()
    finally:
        subprocess.run(["umount", mounted], check=True)


# -- the machine's own root ------------------------------------------------------------------------------------------


def test_the_host_image_shows_the_machine_without_its_secrets(overlay, tmp_path):
    image = overlay.store.get("host")
    overlay.snapshotter.create(CONTAINER, image.layers[-1])
    try:
        with overlay.snapshotter.open_rootfs(CONTAINER, False) as root:
            assert read(root, "etc/passwd") == Path("/etc/passwd").read_bytes()
            assert listing(root, "usr/bin") == sorted(os.listdir("/usr/bin"))
            for name in ("root", "home", "tmp", "run", "var/tmp"):
                assert listing(root, name) == [], name
                assert status(root, name).st_mode == os.stat(f"/{name}").st_mode, name
            for name in ("etc/shadow", "etc/gshadow"):
                assert Path("/" + name).exists()
                with pytest.raises(FileNotFoundError):
                    status(root, name)
            Path(f"/proc/self/fd/{root}/etc/corten-test").write_text("x")
        assert not Path("/etc/corten-test").exists()
        assert [str(item.path) for item in overlay.snapshotter.changes(CONTAINER)] == ["/etc", "/etc/corten-test"]
        overlay.store.commit(CONTAINER, image.id, {}, reference="mine")
        assert overlay.store.get("mine").size == 1
    finally:
        overlay.snapshotter.remove(CONTAINER)
    with overlay.root("mine") as root:
        assert read(root, "etc/corten-test") == b"x"
        assert read(root, "etc/passwd") == Path("/etc/passwd").read_bytes()
        with pytest.raises(FileNotFoundError):
            status(root, "etc/shadow")


def test_the_host_image_on_kernels_that_take_no_detached_layers(overlay, monkeypatch):
    """Before Linux 6.15 the view of the root is mounted for a moment; nothing of that stays."""
    from corten.linux import overlay as kernel

    monkeypatch.setattr(kernel._Support, "detached_layers", False)
    before = Path("/proc/self/mountinfo").read_text()
    with overlay.root("host") as root:
        assert read(root, "etc/passwd") == Path("/etc/passwd").read_bytes()
        assert listing(root, "root") == []
        assert Path("/proc/self/mountinfo").read_text() == before
    assert not list(Path("/tmp").glob(f".corten-base-{os.getpid()}-*"))


def test_what_is_mounted_for_a_moment_is_in_no_container(overlay, monkeypatch):
    """One that is given /tmp meanwhile gets nothing of it."""
    from corten.linux import mount
    from corten.linux import overlay as kernel

    monkeypatch.setattr(kernel._Support, "detached_layers", False)
    with kernel._apart("/etc", -1) as view:
        assert "passwd" in os.listdir(view)
        given = mount.clone_tree("/tmp", recursive=True)
        try:
            assert not os.path.exists(f"/proc/self/fd/{given}/{os.path.relpath(view, '/tmp')}/passwd")
        finally:
            os.close(given)


def test_the_host_image_is_ready_in_milliseconds(overlay):
    import time

    start = time.perf_counter()
    overlay.store.get("host")
    assert time.perf_counter() - start < 0.05


def test_the_full_host_image_hides_nothing(overlay):
    with overlay.root("host:full") as root:
        assert read(root, "etc/shadow") == Path("/etc/shadow").read_bytes()
        assert listing(root, "root") == sorted(os.listdir("/root"))
        with pytest.raises(OSError, match="Read-only"):
            os.mkdir("corten-test", dir_fd=root)

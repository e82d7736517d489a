"""Trees out and in as tars: ``cp`` and ``export``.  Needs no root."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import threading
from pathlib import Path

import pytest
from tar_builder import Tar, one_line

from corten.errors import Conflict, CortenError, DataLoss, InvalidParameter
from corten.image.archive import tar_tree, untar_into
from corten.linux.paths import rename_exchange


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with everything that can be made without root."""
    top = tmp_path / "tree"
    (top / "d/empty").mkdir(parents=True)
    (top / "d/file").write_bytes(b"content")
    (top / "d/file").chmod(0o640)
    os.setxattr(top / "d/file", "user.note", b"\0binary\xff")
    os.link(top / "d/file", top / "d/hard")
    (top / "d/link").symlink_to("../../outside")
    os.mkfifo(top / "d/fifo")
    (top / ("n" * 200)).write_bytes(b"long")
    (top / "ümläut").write_bytes(b"x")
    with open(top / "sparse", "wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    (top / "d/.wh.ordinary").write_bytes(b"no whiteout here")
    os.utime(top / "d/file", ns=(1, 1_600_000_000_123_456_789))
    os.utime(top / "d", ns=(1, 1_500_000_000_000_000_000))
    (tmp_path / "outside").write_text("secret")
    return top


def tar_of(directory: Path, name: str = ".", arcname: str = "t", **options) -> bytes:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        return b"".join(tar_tree(descriptor, name, arcname, **options))
    finally:
        os.close(descriptor)


def put(directory: Path, raw: bytes, **options) -> int:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        return untar_into(descriptor, io.BytesIO(raw), **options)
    finally:
        os.close(descriptor)


def described(top: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(top.rglob("*")):
        status = os.lstat(path)
        kind = stat.S_IFMT(status.st_mode)
        content = path.read_bytes() if kind == stat.S_IFREG else os.readlink(path) if kind == stat.S_IFLNK else b""
        attributes = os.listxattr(path, follow_symlinks=False)
        found[str(path.relative_to(top))] = (status.st_mode, status.st_mtime_ns, status.st_nlink, content, attributes)
    return found


def test_a_tree_comes_back_as_it_was(tree, tmp_path):
    raw = tar_of(tree, arcname="")
    target = tmp_path / "target"
    target.mkdir()
    assert put(target, raw) == 10
    assert described(target) == described(tree)
    assert os.getxattr(target / "d/file", "user.note") == b"\0binary\xff"
    assert os.lstat(target / "sparse").st_blocks * 512 < 1 << 20
    assert os.stat(target / "d/file").st_ino == os.stat(target / "d/hard").st_ino


def test_tarfile_and_gnu_tar_read_it(tree, tmp_path):
    import subprocess

    raw = tar_of(tree)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = {member.name: member for member in tar.getmembers()}
        assert members["t/d/file"].mode == 0o640
        assert members["t/d/hard"].linkname == "t/d/file"
        assert members["t/d/link"].linkname == "../../outside"
        assert abs(float(members["t/d/file"].pax_headers["mtime"]) - 1_600_000_000.123456789) < 1e-6
        assert tar.extractfile("t/" + "n" * 200).read() == b"long"
    (tmp_path / "gnu").mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", tmp_path / "gnu"], input=raw, check=True)
    assert (tmp_path / "gnu/t/ümläut").read_bytes() == b"x"


def test_the_same_tree_gives_the_same_bytes(tree):
    assert tar_of(tree) == tar_of(tree)


def names(raw: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return tar.getnames()


def test_names_of_the_top(tree):
    (tree / "d/empty").rmdir()
    assert names(tar_of(tree / "d", "file", "renamed")) == ["renamed"]
    assert names(tar_of(tree, "d", "d"))[:2] == ["d", "d/.wh.ordinary"]
    assert names(tar_of(tree / "d", ".", "")) == [".wh.ordinary", "fifo", "file", "hard", "link"]
    assert names(tar_of(tree / "d", ".", "/"))[:2] == ["", "/.wh.ordinary"]  # tarfile cuts the slash of "/"
    assert names(tar_of(tree / "d", ".", "."))[:2] == [".", "./.wh.ordinary"]
    assert names(tar_of(tree / "d", "link", "l")) == ["l"]
    with pytest.raises(FileNotFoundError):
        tar_of(tree, "nope", "x")


def test_links_are_never_followed(tree):
    (tree / "out").symlink_to(tree.parent)
    raw = tar_of(tree)
    assert b"secret" not in raw
    assert "t/out" in names(raw)
    assert not any(name.startswith("t/out/") for name in names(raw))


def test_a_file_that_shrinks_meanwhile_keeps_the_archive_whole(tree):
    (tree / "large").write_bytes(b"x" * (4 << 20))
    descriptor = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    stream = tar_tree(descriptor, "large", "large")
    parts = [next(stream)]
    os.truncate(tree / "large", 100)
    parts += stream
    os.close(descriptor)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as tar:
        assert tar.getmembers()[0].size == 4 << 20


def test_large_holes_are_written_as_a_sparse_map(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(10 << 30)
        file.seek(5 << 30)
        file.write(b"middle")
    raw = tar_of(tmp_path, "huge", "huge")
    assert len(raw) < 1 << 20
    target = tmp_path / "target"
    target.mkdir()
    put(target, raw)
    assert os.lstat(target / "huge").st_size == 10 << 30
    assert os.lstat(target / "huge").st_blocks * 512 < 1 << 20
    with open(target / "huge", "rb") as file:
        file.seek(5 << 30)
        assert file.read(6) == b"middle"
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getmembers()[0].size == 10 << 30


def test_putting_merges_directories_and_replaces_files(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/old").write_text("stays")
    (tmp_path / "d/same").write_text("goes")
    (tmp_path / "d").chmod(0o700)
    put(
        tmp_path,
        gzip.compress(
            Tar().dir(".", mode=0o777).dir("d", mode=0o750).file("d/same", b"new").file("d/.wh.old", b"x").bytes()
        ),
    )
    assert (tmp_path / "d/old").read_text() == "stays"
    assert (tmp_path / "d/same").read_text() == "new"
    assert (tmp_path / "d/.wh.old").exists()
    assert stat.S_IMODE(os.lstat(tmp_path / "d").st_mode) == 0o750
    assert stat.S_IMODE(os.lstat(tmp_path).st_mode) != 0o777  # the target itself is left alone


def test_directories_and_files_do_not_replace_each_other_when_asked(tmp_path):
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "f").write_text("x")
    with pytest.raises(Conflict, match='cannot overwrite directory "d" with non-directory'):
        put(tmp_path, Tar().file("d", b"x").bytes(), no_overwrite_dir_non_dir=True)
    with pytest.raises(Conflict, match='cannot overwrite non-directory "f" with directory'):
        put(tmp_path, Tar().dir("f").bytes(), no_overwrite_dir_non_dir=True)
    put(tmp_path, Tar().file("d", b"x").dir("f").bytes())
    assert (tmp_path / "d").read_bytes() == b"x"
    assert (tmp_path / "f").is_dir()


@pytest.mark.parametrize(
    "tar",
    [
        Tar().file("../new", b"x"),
        Tar().symlink("l", "..").file("l/new", b"x"),
        Tar().symlink("l", "../outside").file("l", b"x"),
        Tar().hardlink("h", "../outside").file("h", b"x"),
        Tar().symlink("l", "..").hardlink("h", "l/outside"),
        Tar().file("existing/new", b"x"),
        Tar().file("existing/outside", b"x"),
        Tar().dir("existing", mode=0o777).file("existing/new", b"x"),
        Tar().add("fifo", "existing/new"),
    ],
)
def test_nothing_outside_is_touched(tmp_path, tar):
    """Also not through a link that was there before."""
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "outside").chmod(0o600)
    target = tmp_path / "target"
    target.mkdir()
    (target / "existing").symlink_to("..")
    try:
        put(target, tar.bytes())
    except CortenError as error:
        one_line(error)
    assert sorted(os.listdir(tmp_path)) == ["outside", "target"]
    assert (tmp_path / "outside").read_text() == "secret"
    assert stat.S_IMODE(os.lstat(tmp_path / "outside").st_mode) == 0o600


def test_bad_archives(tmp_path):
    for raw in (b"nonsense" * 200, gzip.compress(Tar().file("a", b"x").bytes())[:-5]):
        with pytest.raises(InvalidParameter):
            put(tmp_path, raw)
    with pytest.raises(DataLoss):
        put(tmp_path, Tar().file("../x", b"").bytes())


def test_swapping_directories_while_unpacking_stays_inside(tmp_path):
    """CVE-2018-15664: the container swaps a directory and a link while the engine writes through it."""
    canary = tmp_path / "canary"
    canary.mkdir()
    target = tmp_path / "target"
    (target / "d").mkdir(parents=True)
    (target / "link").symlink_to(canary)
    stop = threading.Event()
    directory = os.open(target, os.O_PATH | os.O_DIRECTORY)
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            rename_exchange(directory, "d", "link")
            swaps += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    tar = Tar()
    for number in range(40):
        tar.file(f"d/f{number}", b"x")
    raw = tar.bytes()
    try:
        for _ in range(60):
            try:
                put(target, raw)
                tar_of(target)
            except (CortenError, OSError):
                continue
    finally:
        stop.set()
        swapper.join()
        os.close(directory)
    assert swaps > 100
    assert os.listdir(canary) == []

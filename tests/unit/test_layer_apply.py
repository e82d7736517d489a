"""Layers unpacked: what comes out, what may not get out, and the exact bytes back.  Needs no root."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from tar_builder import Tar, one_line

from corten.errors import CortenError, DataLoss, InvalidParameter
from corten.image import tarsplit
from corten.image.layer_apply import DISPLACED_NAME, SPLIT_NAME, LayerStats, apply_layer
from corten.image.pipes import chunks_of
from corten.image.settle import settle
from corten.linux.paths import remove_tree
from corten.linux.user_namespace import Rights

OPAQUE = "user.overlay.opaque"
NO_RIGHTS = Rights(owners=False, devices=False)


class Layer:
    """A layer directory as the store has it: files, split, displaced content."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = directory / "diff"
        self.files.mkdir(parents=True, exist_ok=True)

    def apply(self, raw: bytes, *, overlay: bool = True, chunk: int = 1000) -> LayerStats:
        return apply_layer(
            chunks_of(io.BytesIO(raw), chunk), self.files, self.directory, overlay=overlay, rights=NO_RIGHTS
        )

    def rebuilt(self) -> bytes:
        root = os.open(self.files, os.O_PATH | os.O_DIRECTORY)
        try:
            return b"".join(
                tarsplit.rebuild(str(self.directory / SPLIT_NAME), root, str(self.directory / DISPLACED_NAME), 700)
            )
        finally:
            os.close(root)

    def tree(self) -> list[str]:
        return sorted(str(path.relative_to(self.files)) for path in self.files.rglob("*"))

    def is_whiteout(self, name: str) -> bool:
        status = os.lstat(self.files / name)
        return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    return Layer(tmp_path / "layer")


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file outside of every layer; it must stay as it is."""
    place = tmp_path / "canary"
    place.mkdir()
    (place / "file").write_text("untouched")
    (place / "file").chmod(0o600)
    os.utime(place / "file", (1, 1))
    os.utime(place, (1, 1))
    return place


def untouched(canary: Path) -> bool:
    status = os.lstat(canary / "file")
    return (
        os.listdir(canary) == ["file"]
        and (canary / "file").read_text() == "untouched"
        and (stat.S_IMODE(status.st_mode), status.st_mtime, status.st_nlink) == (0o600, 1, 1)
        and os.lstat(canary).st_mtime == 1
    )


# -- what comes out --------------------------------------------------------------------------------------------------


def test_a_plain_layer(layer):
    raw = (
        Tar()
        .dir("etc", mode=0o700, mtime=1_000_000_001)
        .file("etc/passwd", b"root\n", mode=0o640, mtime=1_000_000_002)
        .file("etc/setuid", b"x", mode=0o4755)
        .symlink("etc/link", "passwd")
        .symlink("etc/absolute", "/nowhere/at/all")
        .hardlink("etc/hard", "etc/passwd")
        .add("fifo", "etc/fifo", mode=0o622)
        .file("etc/empty")
        .file("etc/large", bytes(range(256)) * 1024)
        .bytes()
    )
    stats = layer.apply(raw)
    assert stats.entries == 9
    assert stats.size == 5 + 1 + 256 * 1024 + len("passwd" + "/nowhere/at/all")
    assert stats.tar_size == len(raw)
    assert (layer.files / "etc/passwd").read_bytes() == b"root\n"
    status = os.lstat(layer.files / "etc/passwd")
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o640, 1_000_000_002 * 10**9, 2)
    assert stat.S_IMODE(os.lstat(layer.files / "etc/setuid").st_mode) == 0o4755
    assert os.lstat(layer.files / "etc").st_mtime_ns == 1_000_000_001 * 10**9
    assert stat.S_IMODE(os.lstat(layer.files / "etc").st_mode) == 0o700
    assert os.readlink(layer.files / "etc/absolute") == "/nowhere/at/all"
    assert stat.S_ISFIFO(os.lstat(layer.files / "etc/fifo").st_mode)
    assert stat.S_IMODE(os.lstat(layer.files / "etc/fifo").st_mode) == 0o622
    assert (layer.files / "etc/large").read_bytes() == bytes(range(256)) * 1024
    assert layer.rebuilt() == raw


def test_modes_do_not_depend_on_the_umask(layer):
    old = os.umask(0o077)
    try:
        layer.apply(Tar().file("open", b"x", mode=0o666).dir("d", mode=0o777).file("implied/f", b"").bytes())
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.lstat(layer.files / "open").st_mode) == 0o666
    assert stat.S_IMODE(os.lstat(layer.files / "d").st_mode) == 0o777
    assert stat.S_IMODE(os.lstat(layer.files / "implied").st_mode) == 0o755


def test_read_only_directories_can_be_filled(layer):
    layer.apply(Tar().dir("ro", mode=0o755).file("ro/f", b"x").dir("ro", mode=0o555).bytes())
    assert stat.S_IMODE(os.lstat(layer.files / "ro").st_mode) == 0o555
    (layer.files / "ro").chmod(0o755)


def test_names_of_any_kind(layer):
    long = "n" * 255
    deep = "/".join(["d" * 200] * 30)  # 6 KB: longer than a path may be at once
    raw = (
        Tar()
        .file(long, b"1")
        .file(f"{deep}/f", b"2")
        .file("./dot/./f", b"3")
        .file("//slashes///f", b"4")
        .file("a/../b", b"5")
    )
    raw = raw.file(b"latin-\xe4".decode("utf-8", "surrogateescape"), b"6").bytes()
    layer.apply(raw)
    assert (layer.files / long).read_bytes() == b"1"
    assert (layer.files / "dot/f").read_bytes() == b"3"
    assert (layer.files / "slashes/f").read_bytes() == b"4"
    assert (layer.files / "b").read_bytes() == b"5"
    assert (os.fsencode(layer.files) + b"/latin-\xe4") in {os.fsencode(path) for path in layer.files.iterdir()}
    assert layer.rebuilt() == raw
    # too deep for pytest's own clean-up
    top = os.open(layer.files, os.O_PATH | os.O_DIRECTORY)
    remove_tree(top, "d" * 200)
    os.close(top)


def test_holes_are_kept_and_made(layer):
    content = b"start" + bytes(5 << 20) + b"end" + bytes(3 << 20)
    raw = Tar().file("sparse", content).bytes()
    layer.apply(raw, chunk=1 << 20)
    status = os.lstat(layer.files / "sparse")
    assert status.st_size == len(content)
    assert status.st_blocks * 512 < 1 << 20
    assert (layer.files / "sparse").read_bytes() == content
    assert layer.rebuilt() == raw


def test_sparse_members_come_back_exactly(layer, tmp_path):
    import subprocess

    with open(tmp_path / "s", "wb") as file:
        file.seek(1 << 20)
        file.write(b"middle")
        file.truncate(4 << 20)
    for options in (["--format=gnu"], ["--format=posix"]):
        raw = subprocess.run(
            ["tar", "-S", *options, "-cf", "-", "-C", tmp_path, "s"], check=True, capture_output=True
        ).stdout
        own = Layer(tmp_path / options[0])
        stats = own.apply(raw)
        assert stats.size == 4 << 20
        assert (own.files / "s").read_bytes() == (tmp_path / "s").read_bytes()
        assert own.rebuilt() == raw


def test_user_attributes_are_set_and_overlay_marks_are_not(layer):
    raw = Tar().file(
        "f", b"x", xattrs={"user.mine": "1", "user.overlay.opaque": "y", "trusted.overlay.redirect": "/etc"}
    )
    raw = raw.dir("d", xattrs={"user.overlay.opaque": "y", "trusted.overlay.opaque": "y", "user.dir": "2"}).bytes()
    layer.apply(raw)
    assert os.listxattr(layer.files / "f") == ["user.mine"]
    assert os.listxattr(layer.files / "d") == ["user.dir"]
    assert layer.rebuilt() == raw


def test_implied_directories_take_over_from_below(layer, tmp_path):
    lower = tmp_path / "lower"
    (lower / "tmp/inner").mkdir(parents=True)
    (lower / "tmp").chmod(0o1777)
    (lower / "tmp/inner").chmod(0o700)
    stats = layer.apply(Tar().file("tmp/inner/f", b"x").file("new/f", b"y").bytes())
    assert set(stats.implied) == {b"tmp", b"tmp/inner", b"new"}
    settle(layer.files, [lower], stats, NO_RIGHTS)
    assert stat.S_IMODE(os.lstat(layer.files / "tmp").st_mode) == 0o1777
    assert stat.S_IMODE(os.lstat(layer.files / "tmp/inner").st_mode) == 0o700
    assert stat.S_IMODE(os.lstat(layer.files / "new").st_mode) == 0o755


# -- duplicates: the last one counts, the bytes come back ------------------------------------------------------------


@pytest.mark.parametrize(
    "tar",
    [
        Tar().file("f", b"first").file("f", b"second"),
        Tar().file("f", b"first").hardlink("h", "f").file("f", b"second").file("f", b"third"),
        Tar().file("f", b"first").dir("f").file("f/g", b"second"),
        Tar().dir("d").file("d/a", b"first").file("d/b", b"b").file("d", b"second"),
        Tar().dir("d").file("d/a", b"1").file("d/a", b"22").file("d", b"333").dir("d").file("d/a", b"4444"),
        Tar().file("f", b"first").symlink("f", "elsewhere"),
        Tar().dir("real").symlink("link", "real").file("link/f", b"through").dir("link").file("link/f", b"own"),
        Tar().dir("real").symlink("link", "real").file("link/f", b"1").file("real/f", b"2"),
        Tar().file("f", b"x").hardlink("f", "f"),
        Tar().file("a", b"1").file("b", b"2").hardlink("a", "b"),
    ],
)
def test_entries_that_replace_earlier_ones(layer, tar):
    raw = tar.bytes()
    layer.apply(raw)
    assert layer.rebuilt() == raw


def test_the_last_entry_of_a_name_counts(layer):
    layer.apply(Tar().file("f", b"first").hardlink("h", "f").file("f", b"second").bytes())
    assert (layer.files / "f").read_bytes() == b"second"
    assert (layer.files / "h").read_bytes() == b"first"


def test_a_directory_stays_when_listed_twice(layer):
    layer.apply(Tar().dir("d", mode=0o700).file("d/f", b"x").dir("d", mode=0o750).bytes())
    assert layer.tree() == ["d", "d/f"]
    assert stat.S_IMODE(os.lstat(layer.files / "d").st_mode) == 0o750


def test_a_changed_file_is_noticed(layer):
    layer.apply(Tar().file("f", b"content").bytes())
    (layer.files / "f").write_bytes(b"shorter")
    assert b"shorter" in layer.rebuilt()  # same length: the digest tells, one level up
    (layer.files / "f").write_bytes(b"longer than before")
    with pytest.raises(DataLoss, match="changed"):
        layer.rebuilt()
    (layer.files / "f").unlink()
    with pytest.raises(DataLoss, match="changed"):
        layer.rebuilt()


# -- whiteouts -------------------------------------------------------------------------------------------------------


def test_whiteouts_become_overlay_marks(layer):
    raw = (
        Tar().file(".wh.gone").dir("d").file("d/.wh.also").dir("o").file("o/.wh..wh..opq").file("implied/.wh.x").bytes()
    )
    layer.apply(raw)
    assert layer.is_whiteout("gone")
    assert layer.is_whiteout("d/also")
    assert layer.is_whiteout("implied/x")
    assert os.getxattr(layer.files / "o", OPAQUE) == b"y"
    assert not any(".wh." in name for name in layer.tree())
    assert layer.rebuilt() == raw


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_hide_only_what_is_below(layer, first):
    """The layer's own entry stays, wherever its whiteout stands (layer.md: whiteouts apply to parents only)."""
    tar = Tar()
    if first:
        tar.file(".wh.f").file(".wh.d")
    tar.file("f", b"own").dir("d").file("d/own", b"x")
    if not first:
        tar.file(".wh.f").file(".wh.d")
    raw = tar.bytes()
    layer.apply(raw)
    assert (layer.files / "f").read_bytes() == b"own"
    assert os.getxattr(layer.files / "d", OPAQUE) == b"y"
    assert (layer.files / "d/own").exists()
    assert layer.rebuilt() == raw


def test_a_whiteout_gives_way_to_an_implied_directory(layer):
    raw = Tar().file(".wh.d").file("d/e/f", b"x").bytes()
    layer.apply(raw)
    assert (layer.files / "d/e/f").read_bytes() == b"x"
    assert os.getxattr(layer.files / "d", OPAQUE) == b"y"


def test_an_opaque_root_hides_every_name_below(layer, tmp_path):
    lower = tmp_path / "lower"
    (lower / "both").mkdir(parents=True)
    (lower / "old").write_text("x")
    stats = layer.apply(Tar().file(".wh..wh..opq").dir("both").file("new", b"y").bytes())
    assert stats.opaque_root
    settle(layer.files, [lower], stats, NO_RIGHTS)
    assert layer.is_whiteout("old")
    assert os.getxattr(layer.files / "both", OPAQUE) == b"y"
    assert not layer.is_whiteout("new")


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh...", ".wh.x/y", "a/.wh.b/c/d"])
def test_invalid_whiteout_names_are_refused(layer, name):
    with pytest.raises(InvalidParameter):
        layer.apply(Tar().dir("d").file(name).bytes())


def test_bookkeeping_of_aufs_is_left_out(layer):
    raw = (
        Tar()
        .file(".wh..wh.aufs", b"data")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", b"content" * 100)
        .file("f", b"x")
        .bytes()
    )
    layer.apply(raw)
    assert layer.tree() == ["f"]
    assert layer.rebuilt() == raw


def test_whiteouts_on_copies_remove_what_is_below(layer):
    (layer.files / "old/inner").mkdir(parents=True)
    (layer.files / "old/inner/f").write_text("x")
    (layer.files / "opaque").mkdir()
    (layer.files / "opaque/theirs").write_text("x")
    (layer.files / "keep").write_text("x")
    (layer.files / "link").symlink_to("keep")
    raw = (
        Tar()
        .file(".wh.old")
        .dir("opaque")
        .file("opaque/ours", b"y")
        .file("opaque/.wh..wh..opq")
        .file(".wh.link")
        .file(".wh.absent")
    )
    raw = raw.file("keep", b"new").bytes()
    layer.apply(raw, overlay=False)
    assert layer.tree() == ["keep", "opaque", "opaque/ours"]
    assert (layer.files / "keep").read_bytes() == b"new"
    assert layer.rebuilt() == raw
    assert not (layer.directory / DISPLACED_NAME).exists()


# -- nothing gets out ------------------------------------------------------------------------------------------------


def breakouts(canary: Path) -> dict[str, Tar]:
    """Archives of the kinds that other engines fell for: containerd's TestBreakouts, go-archive's breakout sets."""
    here = str(canary)
    up = "../" * 20 + here.lstrip("/")
    return {
        "dotdot file": Tar().file(f"{up}/new", b"x"),
        "dotdot overwrite": Tar().file(f"{up}/file", b"x"),
        "dotdot in the middle": Tar().dir("d").file(f"d/../../{up}/new", b"x"),
        "absolute": Tar().file(f"{here}/file", b"inside"),
        "absolute dotdot": Tar().file(f"/../..{here}/file", b"inside"),
        "symlink parent": Tar().symlink("l", here).file("l/new", b"x"),
        "symlink parent relative": Tar().symlink("l", up).file("l/new", b"x"),
        "symlink parent overwrite": Tar().symlink("l", here).file("l/file", b"x"),
        "symlink chain": Tar().symlink("a", here).symlink("b", "a").file("b/file", b"x"),
        "symlink dir then dir": Tar().symlink("l", here).dir("l").file("l/new", b"x"),
        "symlink to a file then write": Tar().symlink("l", f"{here}/file").file("l", b"x"),
        "chmod through a link": Tar().symlink("l", f"{here}/file").file("l", b"", mode=0o777),
        "dir over a link": Tar().symlink("l", here).dir("l", mode=0o777, mtime=5),
        "hardlink outside": Tar().hardlink("h", f"{up}/file").file("h", b"x"),
        "hardlink absolute": Tar().hardlink("h", f"{here}/file").file("h", b"x"),
        "hardlink through a link": Tar().symlink("l", here).hardlink("h", "l/file").file("h", b"x", mode=0o777),
        "hardlink to a link": Tar().symlink("l", f"{here}/file").hardlink("h", "l").file("h", b"x"),
        "hardlink into a link": Tar().symlink("l", here).file("f", b"x").hardlink("l/new", "f"),
        "whiteout dotdot": Tar().file(f"{up}/.wh.file"),
        "whiteout through a link": Tar().symlink("l", here).file("l/.wh.file"),
        "opaque through a link": Tar().symlink("l", here).file("l/.wh..wh..opq"),
        "whiteout of dotdot": Tar().dir("d").file("d/.wh..."),
        "fifo through a link": Tar().symlink("l", here).add("fifo", "l/fifo"),
        "symlink through a link": Tar().symlink("l", here).symlink("l/new", "x"),
        "dir through a link": Tar().symlink("l", here).dir("l/new"),
        "implied through a link": Tar().symlink("l", here).file("l/new/f", b"x"),
        "dangling link": Tar().symlink("l", f"{here}/new").file("l", b"x"),
        "dangling parent": Tar().symlink("l", f"{here}/new").file("l/f", b"x"),
        "magic link": Tar().symlink("l", "/proc/self/cwd").file("l/new", b"x"),
        "swapped after use": Tar().dir("d").file("d/a", b"x").symlink("d", here).file("d/file", b"x"),
        "swapped back and forth": Tar().dir("d").file("d/a", b"1").symlink("d", here).dir("d").file("d/file", b"x"),
        "parent swapped": Tar()
        .dir("a")
        .dir("a/b")
        .file("a/b/c", b"1")
        .symlink("a", str(canary.parent))
        .file("a/canary/file", b"x"),
        "time of a replaced directory": Tar().dir("d", mtime=7).symlink("d", here),
        "root as a link": Tar().symlink(".", here).file("file", b"x"),
        "root as a file": Tar().file("./", b"x").file("file", b"y"),
        "empty name": Tar().file("", b"x"),
        "loop": Tar().symlink("a", "b").symlink("b", "a").file("a/f", b"x"),
        "prefix sibling": Tar().file("../layer-evil/f", b"x"),
        "device": Tar().add("char", "null", devmajor=1, devminor=3).add("block", "disk", devmajor=8, devminor=0),
        "smuggled whiteout": Tar().add("char", "w", devmajor=0, devminor=0),
        "absurd device": Tar().add("char", "w", devmajor=2_000_000, devminor=2_000_000),
        "acl and overlay marks": Tar().dir(
            "d", xattrs={"trusted.overlay.opaque": "y", "trusted.overlay.redirect": here}
        ),
    }


CASES = sorted(breakouts(Path("/x")))


@pytest.mark.parametrize("overlay", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_nothing_outside_of_the_layer_is_touched(layer, canary, case, overlay):
    raw = breakouts(canary)[case].bytes()
    before = sorted(os.listdir(layer.directory.parent))
    try:
        layer.apply(raw, overlay=overlay)
    except CortenError as error:
        one_line(error)
    assert untouched(canary)
    assert sorted(os.listdir(layer.directory.parent)) == before
    assert not any(os.path.lexists(layer.files / name) and layer.is_whiteout(name) for name in ("w", "null"))


@pytest.mark.parametrize("case", CASES)
def test_what_is_accepted_comes_back_exactly(layer, canary, case):
    raw = breakouts(canary)[case].bytes()
    try:
        layer.apply(raw)
    except CortenError:
        return
    assert layer.rebuilt() == raw


def test_escaping_names_are_named_in_the_error(layer):
    with pytest.raises(DataLoss, match=r'entry "\.\./evil" is outside'):
        layer.apply(Tar().file("../evil", b"x").bytes())


def test_descriptors_are_closed_after_errors(layer, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(20):
        with pytest.raises(CortenError):
            Layer(tmp_path / f"l{number}").apply(Tar().dir("a").file("a/b", b"x").file("../x").bytes())
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_directories_do_not_hold_descriptors(layer):
    tar = Tar()
    for number in range(600):
        tar.dir(f"d{number}").file(f"d{number}/f", b"x")
    raw = tar.bytes()
    layer.apply(raw)
    assert layer.rebuilt() == raw
    assert len(layer.tree()) == 1200


def test_the_number_of_entries_is_limited(tmp_path):
    from corten.image.extract import ExtractOptions, Extractor
    from corten.image.tarstream import TarReader

    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    raw = Tar().dir("a").dir("b").dir("c").bytes()
    options = ExtractOptions(chown=False, max_entries=2)
    with pytest.raises(InvalidParameter, match="more than 2 entries"):
        Extractor(root, TarReader(chunks_of(io.BytesIO(raw))), options).run()
    os.close(root)

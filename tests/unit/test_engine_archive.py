"""``cp`` and ``export`` below a descriptor: what paths mean, and that links lead nowhere."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile

import pytest

from corten.dockerapi.container import ContainerConfig, HostConfig
from corten.engine import archive
from corten.engine.archive import View, evaluate, go_mode
from corten.errors import CortenError, Forbidden, InvalidParameter, NotFound
from records import record


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "canary").write_text("host")
    root = tmp_path / "root"
    (root / "data/sub").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "data/file").write_text("content")
    os.utime(root / "data/file", ns=(0, 1_600_000_000_500_000_000))
    for name, target in (
        ("ldata", "/data"), ("lfile", "data/file"), ("dangling", "/nowhere/x"), ("up", "../../../etc"),
        ("chain", "ldata/sub"), ("out", "../canary"), ("absolute", str(tmp_path / "canary")), ("loop", "loop"),
        ("outdir", ".."), ("half", "data/missing/../y"),
    ):  # fmt: skip
        (root / name).symlink_to(target)
    return root


@contextlib.contextmanager
def view(root, **host):
    user = host.pop("user", "")
    container = record(id="c" * 64, config=ContainerConfig(user=user), host_config=HostConfig(**host))
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        yield View(container, descriptor, "box")
    finally:
        os.close(descriptor)


def stat(root, path):
    with view(root) as seen:
        return archive.stat(seen, path)


def members(root, path):
    with view(root) as seen:
        raw = b"".join(archive.get(seen, path))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return [member.name + ("/" if member.isdir() else "") for member in tar]


def tar_of(**files):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid, entry.gid = len(content), os.geteuid(), os.getegid()
            tar.addfile(entry, io.BytesIO(content))
    raw.seek(0)
    return raw


def put(root, path, stream=None, *, copy_uid_gid=False, no_overwrite=False, **host):
    with view(root, **host) as seen:
        archive.put(
            seen, path, stream or tar_of(new=b"ab"), no_overwrite_dir_non_dir=no_overwrite, copy_uid_gid=copy_uid_gid
        )


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o100644, 0o644),
        (0o040755, 1 << 31 | 0o755),
        (0o120777, 1 << 27 | 0o777),
        (0o060660, 1 << 26 | 0o660),
        (0o020666, 1 << 26 | 1 << 21 | 0o666),
        (0o010600, 1 << 25 | 0o600),
        (0o140600, 1 << 24 | 0o600),
        (0o104755, 1 << 23 | 0o755),
        (0o102755, 1 << 22 | 0o755),
        (0o041777, 1 << 31 | 1 << 20 | 0o777),
    ],
)
def test_modes_as_go_counts_them(mode, expected):
    assert go_mode(mode) == expected


def test_stat_of_a_file(tree):
    assert stat(tree, "/data/file") == {
        "name": "file",
        "size": 7,
        "mode": tree.joinpath("data/file").stat().st_mode & 0o777,
        "mtime": "2020-09-13T12:26:40.5Z",
        "linkTarget": "",
    }


# what dockerd 20.10 answers for the same tree: name, kind, link target
@pytest.mark.parametrize(
    ("path", "name", "kind", "target"),
    [
        ("/", "/", "d", ""),
        ("/.", ".", "d", ""),
        ("/data", "data", "d", ""),
        ("data", "data", "d", ""),
        ("/data/", "data", "d", ""),
        ("/data/.", ".", "d", ""),
        ("/ldata", "ldata", "l", "/data"),
        ("/ldata/", "ldata", "d", ""),
        ("/ldata/.", ".", "d", ""),
        ("/ldata/file", "file", "f", ""),
        ("/lfile", "lfile", "l", "/data/file"),
        ("/dangling", "dangling", "l", "/nowhere/x"),
        ("/up", "up", "l", "/etc"),
        ("/up/", "up", "d", ""),
        ("/chain", "chain", "l", "/data/sub"),
        ("/half", "half", "l", "/data/y"),
        ("/data/../data/file", "file", "f", ""),
        ("/data/sub/..", "data", "d", ""),
        ("/../data", "data", "d", ""),
        ("//data//file", "file", "f", ""),
    ],
)
def test_what_paths_mean(tree, path, name, kind, target):
    found = stat(tree, path)
    kinds = {1 << 31: "d", 1 << 27: "l", 0: "f"}
    assert (found["name"], kinds[found["mode"] & ~0o777], found["linkTarget"]) == (name, kind, target)


@pytest.mark.parametrize("path", ["/nope", "/nope/x", "/dangling/", "/dangling/x"])
def test_what_is_not_there(tree, path):
    for work in (stat, members, put):
        with pytest.raises(NotFound) as caught:
            work(tree, path)
        assert str(caught.value) == f"Could not find the file {path} in container box"


@pytest.mark.parametrize("path", ["/data/file/", "/data/file/x", "/lfile/.", "/loop/x", "/" + "x" * 300])
def test_paths_that_can_never_be(tree, path):
    for work in (stat, members):
        with pytest.raises(InvalidParameter):
            work(tree, path)


def test_links_that_lead_out_lead_nowhere(tree):
    assert stat(tree, "/out")["linkTarget"] == "/canary"
    assert stat(tree, "/absolute")["linkTarget"].endswith("/canary")
    for path in ("/out/", "/absolute/", "/outdir/canary", "/outdir/../canary"):
        with pytest.raises(NotFound):
            stat(tree, path)
    assert {name.split("/")[1] for name in members(tree, "/outdir/")} == set(os.listdir(tree)) | {""}


def test_a_loop_of_links_ends():
    root = os.open("/", os.O_PATH)
    try:
        assert evaluate(root, "/proc/self/cwd/../x")  # magic links are text like others
    finally:
        os.close(root)


def test_loops_are_refused(tree):
    descriptor = os.open(tree, os.O_PATH)
    try:
        with pytest.raises(InvalidParameter, match="too many levels"):
            evaluate(descriptor, "/loop")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data", ["data/", "data/file", "data/sub/"]),
        ("/data/", ["data/", "data/file", "data/sub/"]),
        ("/data/.", ["./", "./file", "./sub/"]),
        ("/ldata", ["ldata"]),
        ("/ldata/", ["ldata/", "ldata/file", "ldata/sub/"]),
        ("/data/file", ["file"]),
        ("/ldata/file", ["file"]),
    ],
)
def test_names_of_members(tree, path, expected):
    assert members(tree, path) == expected


def test_members_of_the_root_begin_with_a_slash(tree):
    assert members(tree, "/")[:2] == ["/", "/absolute"]
    assert members(tree, "/.")[:2] == ["./", "./absolute"]


def test_put(tree):
    put(tree, "/data")
    assert (tree / "data/new").read_text() == "ab"
    put(tree, "/ldata/sub/")
    assert (tree / "data/sub/new").read_text() == "ab"
    put(tree, "/up")
    assert (tree / "etc/new").read_text() == "ab"
    put(tree, "/")
    assert (tree / "new").read_text() == "ab"


def test_put_takes_compressed_archives(tree):
    import gzip

    put(tree, "/data", io.BytesIO(gzip.compress(tar_of(zipped=b"x").read())))
    assert (tree / "data/zipped").read_text() == "x"


@pytest.mark.parametrize("path", ["/data/file", "/lfile"])
def test_put_needs_a_directory(tree, path):
    with pytest.raises(InvalidParameter, match=r"^extraction point is not a directory$"):
        put(tree, path)


def test_put_into_a_read_only_root(tree):
    with pytest.raises(Forbidden, match=r"^container rootfs is marked read-only$"):
        put(tree, "/data", readonly_rootfs=True)
    assert not (tree / "data/new").exists()


def test_put_never_leaves_the_root(tree):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        link = tarfile.TarInfo("door")
        link.type, link.linkname = tarfile.SYMTYPE, "../../.."
        tar.addfile(link)
        for name in ("door/canary", "../canary", "../../canary"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            tar.addfile(entry, io.BytesIO(b"evil"))
    raw.seek(0)
    with contextlib.suppress(CortenError):
        put(tree, "/data", raw)
    assert (tree.parent / "canary").read_text() == "host"


def test_put_over_a_link_replaces_it(tree):
    put(tree, "/", tar_of(out=b"mine"))
    assert (tree / "out").read_text() == "mine"
    assert not (tree / "out").is_symlink()
    assert (tree.parent / "canary").read_text() == "host"


def test_put_that_must_not_replace_directories(tree):
    with pytest.raises(CortenError, match="cannot overwrite directory"):
        put(tree, "/", tar_of(data=b"x"), no_overwrite=True)
    assert (tree / "data").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine lacks: root")
def test_the_owner_is_the_containers_user(tree):
    (tree / "etc/passwd").write_text("bob:x:1234:55::/home/bob:/bin/sh\n")
    (tree / "etc/group").write_text("staff:x:50:\n")
    put(tree, "/data", tar_of(one=b""), user="bob", copy_uid_gid=True)
    put(tree, "/data", tar_of(two=b""), user="7:staff", copy_uid_gid=True)
    put(tree, "/data", tar_of(three=b""), user="", copy_uid_gid=True)
    put(tree, "/data", tar_of(four=b""), user="bob")
    owners = [
        (path.stat().st_uid, path.stat().st_gid)
        for path in map((tree / "data").joinpath, ("one", "two", "three", "four"))
    ]
    assert owners == [(1234, 55), (7, 50), (0, 0), (0, 0)]
    with pytest.raises(InvalidParameter, match="unable to find user eve"):
        put(tree, "/data", user="eve", copy_uid_gid=True)


def test_bad_archives_are_refused(tree):
    with pytest.raises(CortenError):
        put(tree, "/data", io.BytesIO(b"no tar at all" * 100))


def test_export_is_everything_below_the_root(tree):
    with view(tree) as shown:
        raw = b"".join(archive.export(shown))
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
    assert "data/file" in names
    assert not any(name.startswith(("/", ".")) for name in names)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_what_cannot_be_read_is_told_before_the_first_byte(tree):
    for name in ("data/file", "z"):
        (tree / name).write_bytes(b"x" * 3_000_000)
    (tree / "z").chmod(0)
    with view(tree) as shown:
        os.seteuid(65_534)
        try:
            with pytest.raises(Forbidden, match="cannot read z of container box: permission denied"):
                next(archive.export(shown))
        finally:
            os.seteuid(0)
        (tree / "z").chmod(0o644)
        (tree / "data/sub").chmod(0)
        os.seteuid(65_534)
        try:
            with pytest.raises(Forbidden, match="cannot read data/sub of"):
                next(archive.export(shown))
        finally:
            os.seteuid(0)
